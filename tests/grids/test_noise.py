"""Noise that the panels of a grid share."""

import pytest
import torch

from dsd.grids.noise import correlate_panels

SIDE, CHANNELS = 4, 16


def panels(noise: torch.Tensor) -> torch.Tensor:
    """[B, tokens, C] -> [6, B SIDE SIDE C], the panels of 2 rows and 3 columns."""
    split = noise.unflatten(1, (2, SIDE, 3, SIDE))
    return split.permute(1, 3, 0, 2, 4, 5).flatten(0, 1).flatten(1)


@pytest.mark.parametrize("correlation", [0.0, 0.4, 1.0])
def test_any_two_panels_correlate_as_asked_and_all_keep_the_variance_of_noise(correlation):
    noise = torch.randn(100, 6 * SIDE * SIDE, CHANNELS, generator=torch.Generator().manual_seed(0))
    covariance = torch.cov(panels(correlate_panels(noise, 2, 3, correlation)))
    expected = torch.full((6, 6), correlation).fill_diagonal_(1.0)
    # 25,600 samples: a covariance has a standard error of 1 / 160 at most, a variance of 1 / 113
    assert (covariance - expected).abs().max() < 5 / 113


def test_no_correlation_and_a_single_panel_leave_the_noise_alone():
    noise = torch.randn(2, 6 * SIDE * SIDE, CHANNELS)
    assert correlate_panels(noise, 2, 3, 0.0) is noise and correlate_panels(noise, 1, 1, 1.0) is noise
