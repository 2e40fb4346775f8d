"""Saved states of the pocket family's trainings: whole, flushed, checked, and refused in a sentence."""

import os
import random
import resource
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from dsd.files import whole
from dsd.files.whole import RunError
from train.pocket.loop import TrainState, build_ema


def begin(path: Path, width: int = 8) -> TrainState:
    torch.manual_seed(len(os.listdir(path.parent)) if path.parent.exists() else 0)
    model = nn.Linear(4, width)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    return TrainState(path, model, optimizer=optimizer, steps=9, ema=build_ema(model))


def walk(state: TrainState) -> None:
    state.model(torch.ones(2, 4)).square().mean().backward()
    state.optimizer.step()
    state.ema.update_parameters(state.model)
    state.step += 1


def tensors(state: TrainState) -> list[torch.Tensor]:
    moments = [part for values in state.optimizer.state.values() for part in values.values()]
    return [*state.model.parameters(), *state.ema.parameters(), *moments]


@pytest.fixture
def saved(tmp_path) -> TrainState:
    state = begin(tmp_path / "part.pt")
    for _ in range(3):
        walk(state)
    state.save()
    return state


def same(one: TrainState, other: TrainState) -> bool:
    pairs = zip(tensors(one), tensors(other), strict=True)
    return one.step == other.step and all(torch.equal(a, b) for a, b in pairs)


def test_a_state_comes_back(saved):
    assert same(begin(saved.path), saved) and os.listdir(saved.path.parent) == ["part.pt"]


def test_a_state_of_an_earlier_version_comes_back(saved):
    content = {key: stateful.state_dict() for key, stateful in saved.objects.items()}
    torch.save({**content, "step": saved.step, "seconds": 1.5}, saved.path)
    again = begin(saved.path)
    assert same(again, saved) and again.seconds == 1.5


@pytest.mark.seeds(1, 40)
def test_a_damaged_state_is_the_same_or_refused(saved, seed):
    """Bytes that align tensors belong to nothing, so their damage changes nothing."""
    content, dice, refused = saved.path.read_bytes(), random.Random(f"state {seed}"), 0
    for _ in range(60):
        damaged, place = bytearray(content), dice.randrange(len(content))
        damaged[place] ^= 1 << dice.randrange(8)
        saved.path.write_bytes(damaged)
        try:
            assert same(begin(saved.path), saved)
        except RunError as error:
            refused += 1
            assert f"{saved.path} " in str(error) and "delete" in str(error)
    assert refused


def test_every_flipped_bit_of_a_tensor_is_found(saved):
    content = bytearray(saved.path.read_bytes())
    place = content.find(saved.model.weight.detach().numpy().tobytes())
    assert place > 0
    content[place + 5] ^= 4
    saved.path.write_bytes(content)
    with pytest.raises(RunError, match="part.pt is damaged .*not match its checksum.*delete it to train"):
        begin(saved.path)


@pytest.mark.parametrize("end", [b"", bytes(400)])
def test_the_tail_that_a_power_failure_leaves_is_a_sentence(saved, end):
    saved.path.write_bytes(saved.path.read_bytes()[:-400] + end)
    with pytest.raises(RunError, match="part.pt is damaged"):
        begin(saved.path)


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_nothing_that_a_state_brings_along_is_run(saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil(), "step": 3, "seconds": 1.0}, saved.path)
    with pytest.raises(RunError, match="part.pt is damaged"):
        begin(saved.path)
    assert not Path("ran").exists()


def test_a_state_of_other_sizes_or_without_a_part_is_refused_by_name(saved):
    with pytest.raises(RunError, match="part.pt does not fit this training .*size mismatch.*--preset"):
        begin(saved.path, width=9)
    torch.save({"step": 3}, saved.path)
    with pytest.raises(RunError, match="part.pt does not fit this training"):
        begin(saved.path)


def test_a_state_is_on_the_disk_before_it_gets_its_name(saved, monkeypatch):
    flushed = []
    monkeypatch.setattr(whole, "flush", lambda *paths: flushed.extend(map(zipfile.is_zipfile, paths)))
    saved.path.unlink()
    saved.save()
    assert flushed == [True, False]  # the file, then the folder with its name


@pytest.mark.skipif(os.name == "nt", reason="RLIMIT_FSIZE")
def test_a_full_disk_is_a_sentence_and_leaves_the_state_of_before(saved):
    walk(saved)
    before, limit = saved.path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limit[1]))
    try:
        with pytest.raises(RunError, match="cannot write .*part.pt: .*Finished work is kept"):
            saved.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert os.listdir(saved.path.parent) == ["part.pt"] and saved.path.read_bytes() == before


def test_what_a_killed_save_left_is_removed(saved):
    (saved.path.parent / ".part.pt.123.part").write_bytes(b"half")
    saved.save()
    assert os.listdir(saved.path.parent) == ["part.pt"]
