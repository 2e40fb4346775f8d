"""Two-way guidance: the formula, and only the branches that it needs."""

import pytest
import torch

from dsd.model.guidance import branches, combine


@pytest.mark.parametrize(
    ("scales", "names"),
    [
        ((1.0, 1.0), ["image_text"]),
        ((1.0, 2.0), ["image", "image_text"]),
        ((1.5, 1.5), ["neither", "image_text"]),
        ((1.5, 1.0), ["neither", "image", "image_text"]),
        ((1.4, 1.8), ["neither", "image", "image_text"]),
        ((1.0, 0.0), ["image"]),
        ((0.0, 0.0), ["neither"]),
        ((1.5, 0.0), ["neither", "image"]),
    ],
)
def test_only_the_needed_branches(scales, names):
    assert [branch.name for branch in branches(*scales)] == names


@pytest.mark.parametrize("scales", [(1.0, 1.0), (1.5, 1.0), (1.4, 1.8), (0.3, 2.0), (2.0, 2.0), (1.0, 3.0)])
def test_the_weights_are_the_papers_formula(scales):
    neither, image, both = torch.randn(3, 1, 4, 8)
    values = {"neither": neither, "image": image, "image_text": both}
    needed = branches(*scales)
    ours = combine([values[branch.name] for branch in needed], [branch.weight for branch in needed])
    theirs = neither + scales[0] * (image - neither) + scales[1] * (both - image)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_half_precision_is_summed_in_float32():
    values = [
        torch.full((1, 1, 1), 1.0, dtype=torch.bfloat16),
        torch.full((1, 1, 1), 1.0078, dtype=torch.bfloat16),
    ]
    exact = -2.0 * values[0].float() + 3.0 * values[1].float()
    assert combine(values, [-2.0, 3.0]).dtype == torch.bfloat16
    assert combine(values, [-2.0, 3.0]).item() == exact.to(torch.bfloat16).item()


def test_a_scale_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="text_guidance_scale must be a finite number, got nan"):
        branches(1.0, float("nan"))
