"""The page for FLUX offers no drawn critters of 64 pixels as examples; the page for pocket does."""

from pathlib import Path

import pytest

import app

CRITTERS = {path.name for path in (app.ROOT / "assets" / "examples").glob("0*.png")}  # the references


def offered(*flags: str) -> set[str]:
    """The files of the project's examples that a page names."""
    blocks = app.build(app.parse([*flags, "--device", "cpu"]))
    try:
        named = str([block.get_config() for block in blocks.blocks.values()])
    finally:
        blocks.close()
    return {name for name in CRITTERS if name in named}


@pytest.mark.parametrize("model", ["flux-dev", "black-forest-labs/FLUX.1-dev"])
def test_the_page_for_flux_has_no_critters(hub, model):
    weights = [] if model == "flux-dev" else ["--weights", "primecai/dsd_model"]
    assert offered("--model", model, *weights) == set()


def test_the_page_for_pocket_and_for_its_own_students_has_them():
    assert len(CRITTERS) > 4
    assert offered() == offered("--model", str(Path(app.presets.POCKET.base))) == CRITTERS
