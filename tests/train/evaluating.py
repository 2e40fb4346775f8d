"""Tiny models to evaluate, for the tests of `train.evaluate`."""

from pathlib import Path
from types import SimpleNamespace

from diffusers import FluxPipeline

from dsd.model.pipeline import DSDPipeline
from tests import tiny
from train import comparison

TOY = "--subjects 3 --prompts 2 --steps 1 --image-guidance 1 --device cpu --batch 4".split()


def save_models(folder: Path) -> dict[str, str]:
    """Save the students `early` and `late` and a `teacher`; return their folders by name."""
    for seed, name in enumerate(("early", "late")):
        DSDPipeline(**tiny.components(seed=seed)).save_pretrained(folder / name)
    plain = tiny.components() | {"transformer": tiny.plain_transformer()}
    FluxPipeline(**plain).save_pretrained(folder / "teacher")
    return {file.name: str(file) for file in folder.iterdir()}


def be_process(monkeypatch, index: int) -> None:
    """Pretend to be one of two processes."""
    place = {"process_index": index, "num_processes": 2, "is_main_process": index == 0}
    monkeypatch.setattr(comparison, "PartialState", lambda: SimpleNamespace(**place))
