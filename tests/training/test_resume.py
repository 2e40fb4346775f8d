"""States of a training: whole or not at all, the last two, exact; and the running average."""

import json
import logging
import os
import pickle
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from dsd.files import jsonl
from dsd.files.jsonl import RunError
from dsd.training.options import TrainingError
from dsd.training.state import EMA, Progress, TrainState, _checksums, gather_weights, trainable_parameters
from dsd.training.unpickled import DEEPSPEED

BOUND = {"lr": 0.1, "data": "abc"}


class Run:
    """A small model in training, one weight of it frozen."""

    def __init__(self, folder: Path, *, seed: int = 0, bound: dict = BOUND) -> None:
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.net[2].bias.requires_grad_(False)
        weights = [weight for weight in self.net.parameters() if weight.requires_grad]
        accelerator = Accelerator(cpu=True)
        self.model, self.optimizer = accelerator.prepare(
            self.net, torch.optim.AdamW(weights, 0.1, fused=True)
        )
        self.ema = EMA(trainable_parameters(accelerator, self.model), 0.9)
        self.states = TrainState(folder, accelerator, self.model, self.optimizer, self.ema, bound)
        self.accelerator = accelerator

    def go(self, first: int, last: int) -> None:
        for step in range(first, last):
            inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
            self.model(inputs).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.ema.update(step)

    def everything(self) -> list[torch.Tensor]:
        moments = [part for weight in self.net.parameters() for part in self.optimizer.state[weight].values()]
        return [*self.net.parameters(), *self.ema.weights.values(), *moments]


def test_weights_average_and_moments_come_back_bit_for_bit(tmp_path):
    unbroken = Run(tmp_path / "one")
    unbroken.go(0, 6)
    first = Run(tmp_path / "two")
    first.go(0, 3)
    first.states.save(Progress(3, 12.5))
    second = Run(tmp_path / "two", seed=1)
    second.net[2].bias.data.copy_(unbroken.net[2].bias)  # frozen weights come from the base, not from a state
    assert second.states.load() == Progress(3, 12.5)
    assert all(torch.equal(a, b) for a, b in zip(first.everything(), second.everything(), strict=True))
    second.go(3, 6)
    assert all(torch.equal(a, b) for a, b in zip(unbroken.everything(), second.everything(), strict=True))


def test_a_new_run_begins_at_the_beginning(tmp_path):
    assert Run(tmp_path).states.load() == Progress(0, 0.0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saved(tmp_path) -> Path:
    run = Run(tmp_path)
    for step in range(1, 5):
        run.go(step - 1, step)
        run.states.save(Progress(step))
    return tmp_path


def test_the_last_two_are_kept(saved):
    assert names(saved) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("how", ["cut", "flipped", "gone", "no manifest", "more"])
def test_a_damaged_newest_state_falls_back_to_the_one_before_and_says_so(saved, how, caplog):
    newest = saved / "step-00000004"
    (file,) = newest.glob("*.distcp")
    content = bytearray(file.read_bytes())
    if how == "cut":
        file.write_bytes(content[:-1])
    if how == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    if how == "gone":
        file.unlink()
    if how == "no manifest":
        (newest / "state.json").unlink()
    if how == "more":
        (newest / "stray").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert Run(saved).states.load().step == 3
    assert f"{newest} is damaged: going back to the state before it" in caplog.text


def test_with_no_whole_state_left_it_does_not_start_over_in_silence(saved):
    for manifest in saved.glob("*/state.json"):
        manifest.write_text("{}")
    with pytest.raises(TrainingError, match="no state in .* is intact: delete that folder to start over"):
        Run(saved).states.load()


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def _resign(state: Path) -> None:
    """Make the state intact, as whoever forged it would."""
    about = jsonl.parse((state / "state.json").read_bytes().rstrip(), "")
    about["files"] = _checksums(state)
    (state / "state.json").write_text(json.dumps(about))


def test_a_flipped_bit_in_a_manifest_is_found(saved):
    manifest = saved / "step-00000004" / "state.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"step": 4', b'"step": 5'))
    assert Run(saved).states.load() == Progress(3)


@pytest.mark.parametrize("forged", [{"step": "4"}, {"seconds": None}, {"bound": []}, {"files": 3}])
def test_a_forged_manifest_is_a_damaged_state(saved, forged):
    manifest = saved / "step-00000004" / "state.json"
    about = jsonl.parse(manifest.read_bytes().rstrip(), "")
    manifest.write_text(json.dumps(about | forged))
    assert Run(saved).states.load() == Progress(3)


@pytest.mark.parametrize("place", ["whole", "inside"])
def test_nothing_that_a_state_brings_along_is_run(saved, place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    index = saved / "step-00000004" / ".metadata"
    metadata = pickle.loads(index.read_bytes())
    metadata.planner_data = Evil()
    index.write_bytes(pickle.dumps(metadata if place == "inside" else Evil()))
    _resign(index.parent)
    with pytest.raises(TrainingError, match=r"\.metadata cannot be read safely .*resume only from states"):
        Run(saved).states.load()
    assert not Path("ran").exists()


def pretend_deepspeed(monkeypatch) -> None:
    """Make modules with the names of DeepSpeed's, and classes in them that hold what its own hold."""
    for module, names in DEEPSPEED.items():
        for package in accumulate(module.split("."), "{}.{}".format):
            monkeypatch.setitem(sys.modules, package, fake := ModuleType(package))
        for name in names:
            setattr(fake, name, type(name, (), {"__module__": module}))


class Engine:
    """Saves and loads a file as DeepSpeed's engine does."""

    def __init__(self, net: nn.Module, extra: object) -> None:
        self.net, self.extra = net, extra
        self.checkpoint_engine = SimpleNamespace(load=partial(torch.load, weights_only=False))

    def save_checkpoint(self, folder: str, tag: str, client: dict, **_) -> None:
        (file := Path(folder, tag, "model_states.pt")).parent.mkdir()
        torch.save({"module": self.net.state_dict(), "optimizer": self.extra, **client}, file)

    def load_checkpoint(self, folder: str, tag: str, **_) -> tuple[str, dict]:
        client = self.checkpoint_engine.load(str(Path(folder, tag, "model_states.pt")), map_location="cpu")
        self.net.load_state_dict(client["module"])
        return folder, client


def with_deepspeed(folder: Path, monkeypatch, extra: Callable[[], object]) -> Run:
    run = Run(folder)
    monkeypatch.setattr(TrainState, "_is_deepspeed", True)
    pretend_deepspeed(monkeypatch)  # now, because accelerate looks for the package
    run.states = replace(run.states, model=Engine(run.net, extra()))
    return run


def own_classes() -> list[object]:
    return [getattr(sys.modules[module], name)() for module, names in DEEPSPEED.items() for name in names]


def test_a_state_of_deepspeed_is_read_with_its_own_classes(tmp_path, monkeypatch):
    run = with_deepspeed(tmp_path, monkeypatch, own_classes)
    run.go(0, 2)
    run.states.save(Progress(2))
    weights = [weight.clone() for weight in (*run.net.parameters(), *run.ema.weights.values())]
    run.go(2, 4)
    assert run.states.load() == Progress(2)
    after = [*run.net.parameters(), *run.ema.weights.values()]
    assert all(torch.equal(one, other) for one, other in zip(weights, after, strict=True))


def test_nothing_that_a_state_of_deepspeed_brings_along_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = with_deepspeed(tmp_path / "states", monkeypatch, Evil)
    run.states.save(Progress(2))
    with pytest.raises(
        TrainingError,
        match="model_states.pt cannot be read safely .it names getattr, which",
    ):
        run.states.load()
    assert not Path("ran").exists()


def test_a_state_reads_no_file_outside_itself(saved):
    index = saved / "step-00000004" / ".metadata"
    index.write_bytes(index.read_bytes().replace(b"__0_0.distcp", b"../__.distcp"))
    _resign(index.parent)
    with pytest.raises(TrainingError, match="names the file '../__.distcp' outside its folder"):
        Run(saved).states.load()


def test_an_index_whose_file_names_are_no_text_is_refused(saved):
    index = saved / "step-00000004" / ".metadata"
    content = pickle.loads(index.read_bytes())
    for info in content.storage_data.values():
        info.relative_path = 5
    index.write_bytes(pickle.dumps(content))
    _resign(index.parent)
    with pytest.raises(TrainingError, match="cannot be read safely"):
        Run(saved).states.load()


@pytest.mark.skipif(os.name == "nt", reason="RLIMIT_FSIZE")
def test_a_full_disk_is_a_sentence_and_leaves_the_states_of_before(saved):
    run, before = Run(saved), names(saved)
    run.states.load()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limit[1]))
    try:
        with pytest.raises(RunError, match="cannot write .*step-00000005: .*Finished work is kept"):
            run.states.save(Progress(5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert names(saved) == before and Run(saved).states.load().step == 4


def test_a_state_that_was_being_written_is_not_one(saved):
    (saved / ".step-00000005.part").mkdir()
    assert Run(saved).states.load().step == 4


@pytest.mark.parametrize("bound", [{**BOUND, "lr": 0.2}, {"lr": 0.1}, {**BOUND, "new": 1}])
def test_other_settings_or_data_are_refused_by_name(saved, bound):
    with pytest.raises(TrainingError, match="started with (lr 0.1, but now it is 0.2|data 'abc'|new None)"):
        Run(saved, bound=bound).states.load()


def test_a_run_that_has_done_more_is_not_continued_as_one_of_fewer_steps(saved):
    assert Run(saved).states.load(4) == Run(saved).states.load(5) == Progress(4)
    with pytest.raises(TrainingError, match="done 4 steps already, but now --steps is 3: .* another --out"):
        Run(saved).states.load(3)


def test_the_average_follows_slowly_and_forgets_the_start(tmp_path):
    run = Run(tmp_path)
    run.go(0, 200)
    weights = trainable_parameters(run.accelerator, run.model)
    before = {name: weight.clone() for name, weight in run.ema.weights.items()}
    with torch.no_grad():
        for weight in weights.values():
            weight.fill_(1.0)
    run.ema.update(200)
    for name, value in run.ema.weights.items():
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1)


def test_the_model_has_the_average_inside_the_block_only(tmp_path):
    run = Run(tmp_path)
    run.go(0, 5)
    own = gather_weights(run.accelerator, run.model)
    with run.ema.swap():
        averaged = gather_weights(run.accelerator, run.model)
    assert all(torch.equal(averaged[name], value) for name, value in run.ema.weights.items())
    after = gather_weights(run.accelerator, run.model)
    assert all(torch.equal(after[name], value) for name, value in own.items())
    assert not any(torch.equal(averaged[name], value) for name, value in own.items())
    assert own.keys() == {"0.weight", "0.bias", "2.weight"}  # only what is trained
