"""Killed and continued, in processes and precisions: every way of a training leaves the same weights."""

import os
import random
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from dsd.model.checkpoint import load_pipeline
from dsd.model.presets import LORA
from dsd.training import loop as training
from dsd.training import order as orders
from dsd.training.loop import batch_loss
from dsd.training.options import TrainingError
from tests import student, two_processes
from tests.servers import free_port

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["tests.two_processes"])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return student.teacher(tmp_path_factory.mktemp("teacher"))


PLAIN = {**two_processes.LORA, "batch": 4}  # of which two processes take half each


@pytest.fixture(scope="module")
def plain(teacher, tmp_path_factory) -> Path:
    """What one process left, and every other way of doing the same is to leave."""
    out = tmp_path_factory.mktemp("plain")
    student.run(teacher, out, **PLAIN, validate=student.validate)
    return out


def _train(teacher: Path, out: Path, steps: int) -> None:
    """In a process of its own, to be killed."""
    rows = [student.pair(number, size=(32 + 16 * (number % 2), 32)) for number in range(10)]
    often = {"save_every": 2, "log_every": 1, "batch": 1, "accumulate": 2, "sizes": ("32", "48x32")}
    student.run(teacher, out, rows=rows, steps=steps, ema=0.9, lora_dropout=0.5, decay=0.5, **often)


@pytest.mark.all_faults
def test_killed_at_random_and_run_again_it_ends_bit_for_bit_the_same(teacher, tmp_path):
    dice = random.Random(0)
    whole = FORKS.Process(target=_train, args=(teacher, tmp_path / "whole", 12))
    whole.start()
    reached, kills = 0, 0
    while reached < 12:
        child = FORKS.Process(target=_train, args=(teacher, tmp_path / "killed", 12))
        child.start()
        if kills < 3:
            _wait_for_step(tmp_path / "killed", min(10, reached + dice.randint(1, 5)), child)
            time.sleep(dice.random() * 0.05)
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.join()
        reached = max((line["step"] for line in student.said(tmp_path / "killed")), default=0)
    whole.join()
    assert kills == 3 and whole.exitcode == child.exitcode == 0
    assert student.checksums(tmp_path / "whole") == student.checksums(tmp_path / "killed")
    for file in ("transformer/diffusion_pytorch_model.safetensors", f"lora/{LORA}"):
        one, other = load_file(tmp_path / "whole" / file), load_file(tmp_path / "killed" / file)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _wait_for_step(out: Path, step: int, child) -> None:
    while child.is_alive():
        if (out / "said.jsonl").exists() and any(line["step"] >= step for line in student.said(out)):
            return
        time.sleep(0.005)


# ---------------------------------------------------------------- streamed

LARGE, TINY = 1.0, 4e-5  # GB: not all blocks fit into the latter
COUNT = 12


@pytest.fixture
def small_blocks(monkeypatch):
    student.small_blocks(monkeypatch.setattr)
    yield
    orders._mix.cache_clear()


class Deadly(student.Rows):
    """Rows that kill the process which reads one for the `kill_at`-th time."""

    kill_at: int | None = None

    def __getitem__(self, index: int) -> dict:
        row = super().__getitem__(index)
        if self.reads == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return row


def _stream(teacher: Path, out: Path, cache_gb: float, kill_at: int | None = None) -> None:
    rows = Deadly(student.pairs(COUNT), teacher / "model_index.json")  # any file
    rows.kill_at = kill_at
    often = {"save_every": 1, "log_every": 1, "batch": 1, "accumulate": 2, "sizes": ("32",)}
    student.run(teacher, out, rows=rows, steps=7, cache_gb=cache_gb, lora_dropout=0.5, **often)


def _stream_in_small_blocks(*given) -> None:
    """A process of its own has not had the fixture."""
    student.small_blocks(setattr)
    _stream(*given)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
@pytest.mark.all_faults
def test_killed_in_a_block_and_with_a_full_cache_it_ends_bit_for_bit_the_same(
    teacher, tmp_path, small_blocks
):
    child = FORKS.Process(target=_stream_in_small_blocks, args=(teacher, tmp_path / "killed", TINY, 9))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and list(tmp_path.rglob("step-*"))
    _stream(teacher, tmp_path / "killed", TINY)
    _stream(teacher, tmp_path / "whole", LARGE)
    assert student.checksums(tmp_path / "whole") == student.checksums(tmp_path / "killed")
    file = "transformer/diffusion_pytorch_model.safetensors"
    one, other = load_file(tmp_path / "whole" / file), load_file(tmp_path / "killed" / file)
    assert all(torch.equal(one[name], other[name]) for name in one)
    kept = [len(list((tmp_path / name / "run" / "cache").glob("*/block.*"))) for name in ("whole", "killed")]
    assert kept[0] == COUNT // 2 > kept[1]
    with pytest.raises(TrainingError, match="cache_gb 'above 0', but now it is None"):
        _stream(teacher, tmp_path / "whole", 0.0)


# ---------------------------------------------------------------- the same weights


def assert_same(out: Path, other: Path, file: str = f"lora/{LORA}") -> None:
    """The weights in two checkpoints are equal within 1e-4 of each one's norm."""
    one, two = (load_file(folder / file) for folder in (out, other))
    assert two.keys() == one.keys()
    for name, value in one.items():
        assert (two[name] - value).norm() <= 1e-4 * value.norm(), (other, name)


def test_two_processes_match_one_and_so_do_sharded_weights(plain, teacher, tmp_path):
    where = free_port(), teacher, tmp_path
    processes = [FORKS.Process(target=two_processes.main, args=(rank, *where)) for rank in range(2)]
    for process in processes:
        process.start()
    student.run(teacher, tmp_path / "full", **{**two_processes.FULL, "batch": 4})
    rows = two_processes.streamed(teacher)
    student.run(teacher, tmp_path / "streamed-by-one", rows=rows, **{**two_processes.STREAMED, "batch": 4})
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0, 0]
    for mode in ("ddp", "fsdp2"):
        assert_same(plain, tmp_path / mode)
        ours, theirs = (told("drawn", out) for out in (tmp_path / mode, plain))
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert_same(tmp_path / "streamed-by-one", tmp_path / "streamed")
    assert_same(tmp_path / "full", tmp_path / "fsdp2-full", "transformer/diffusion_pytorch_model.safetensors")


def told(name: str, out: Path) -> list[float]:
    return [row[name] for row in student.said(out) if name in row]


@pytest.mark.parametrize(
    "changed", [{"batch": 2, "accumulate": 4}, {"gradient_checkpointing": True}], ids=["parts", "twice"]
)
def test_what_saves_memory_leaves_the_same_weights(plain, teacher, tmp_path, changed):
    student.run(teacher, tmp_path, **{**PLAIN, **changed})
    assert_same(plain, tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"clip": 1e-9},
        {"beta2": 0.5},
        {"weight_decay": 0.9},
        {"guidance": 1.0},
        {"warmup": 4},
        {"condition_init_scale": 1.0},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_setting_counts(plain, teacher, tmp_path, changed):
    student.run(teacher, tmp_path, **{**PLAIN, "cache": str(plain / "run" / "cache"), **changed})
    with pytest.raises(AssertionError):
        assert_same(plain, tmp_path)


@pytest.fixture
def new_process():
    """accelerate settles the precision once in a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_bf16_trains_float32_weights_nearly_as_float32_does(
    plain, teacher, tmp_path, new_process, monkeypatch, twice
):
    fused = []

    def watched(*given):
        fused.append(torch.backends.cuda.flash_sdp_enabled())  # of all devices, whatever its name says
        return batch_loss(*given)

    monkeypatch.setattr(training, "batch_loss", watched)
    student.run(teacher, tmp_path, **PLAIN, precision="bf16", gradient_checkpointing=twice)
    ours, theirs = (told("loss", out) for out in (tmp_path, plain))
    assert ours == pytest.approx(theirs, rel=0.05) and ours != theirs
    assert set(fused) == {twice} and torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_quantized_base_leaves_a_checkpoint_like_any_other(plain, teacher, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    student.run(teacher, tmp_path, **PLAIN, quantize=bits)
    ours, theirs = (told("loss", out) for out in (tmp_path, plain))
    assert ours == pytest.approx(theirs, rel=0.1) and ours != theirs
    ours, theirs = (load_pipeline(out, device="cpu").transformer.state_dict() for out in (tmp_path, plain))
    frozen = "transformer_blocks.0.ff.net.2.weight"
    assert ours.keys() == theirs.keys() and torch.equal(ours[frozen], theirs[frozen])  # not the few bits
