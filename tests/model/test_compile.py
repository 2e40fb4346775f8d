"""Compiled blocks draw what the others drew, and a compiler that fails leaves the model as it was.

No GPU here: what is meant for one runs on the CPU, by the same calls.
"""

import numpy as np
import pytest
import torch

import app
from dsd.generate import command, drawing
from dsd.model import compile as compiling
from dsd.ui import page
from tests import tiny

CALLS = [{"count": 1}, {"count": 3}, {"count": 1, "width": 48, "image_guidance": 1.0}]  # all unlike the trial


@pytest.fixture
def pipe():
    torch._dynamo.reset()
    return tiny.pipeline(guidance_embeds=False)


def drawn(pipe) -> list[drawing.Result]:
    options = [drawing.Options(prompt="a hat", steps=3, **call) for call in CALLS]
    return [result for o in options for result in drawing.generate(pipe, tiny.image(), o)]


def unlike(some: list[drawing.Result], others: list[drawing.Result]) -> int:
    """The largest difference of any pixel, of 255."""
    pairs = zip(some, others, strict=True)
    return max(np.abs(np.subtract(a.image, b.image, dtype=np.int16)).max() for a, b in pairs)


def blocks(pipe) -> list:
    return [*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks]


def forwards(pipe) -> list:
    return [block.forward for block in blocks(pipe)]


def test_on_a_cpu_it_says_that_it_does_nothing_and_does_nothing(pipe):
    said = compiling.compile_blocks(pipe)
    assert "NVIDIA" in said and "on cpu" in said
    assert all(block._compiled_call_impl is None for block in blocks(pipe))


def test_compiled_just_in_time_it_draws_the_same_without_compiling_for_a_visitor(pipe):
    before = drawn(pipe)
    compiling.just_in_time(pipe, backend="eager")
    assert all(block._compiled_call_impl is not None for block in blocks(pipe))
    with torch._dynamo.config.patch(error_on_recompile=True):
        after = drawn(pipe)
    assert unlike(before, after) <= 1
    assert [a.settings for a in before] == [b.settings for b in after]  # the model's hash among them


def test_a_compiler_that_fails_leaves_the_model_as_it_was(pipe, monkeypatch):
    monkeypatch.setattr(compiling, "_device", lambda pipe: "cuda")
    before, block = drawn(pipe), pipe.transformer.transformer_blocks[0]

    def forward(*given, plain=block.forward, **named):
        torch._dynamo.graph_break()
        return plain(*given, **named)

    block.forward = forward
    said = compiling.compile_blocks(pipe)
    assert said.startswith("compiling failed, and the model runs uncompiled: ") and "\n" not in said
    assert block.forward is forward and unlike(before, drawn(pipe)) == 0


def test_what_fails_after_a_part_is_done_is_undone_too(pipe, monkeypatch):
    monkeypatch.setattr(compiling, "_device", lambda pipe: "cuda")
    before, forward = drawn(pipe), forwards(pipe)

    def broken(pipe):
        pipe.transformer.transformer_blocks[0].forward = None
        raise RuntimeError("no such device\nand a long trace")

    monkeypatch.setattr(compiling, "just_in_time", broken)
    assert compiling.compile_blocks(pipe).endswith("RuntimeError: no such device")
    assert forwards(pipe) == forward and unlike(before, drawn(pipe)) == 0


def test_on_zero_gpu_nothing_is_compiled(pipe, monkeypatch):
    monkeypatch.setattr(compiling, "just_in_time", lambda pipe: pytest.fail("it compiled"))
    assert "on ZeroGPU the model runs uncompiled" in compiling.compile_blocks(pipe, is_zero=True)


@pytest.mark.parametrize(("variable", "flags", "asked"), [("", [], 0), ("1", [], 1), ("", ["--compile"], 1)])
def test_the_flag_and_the_variable_ask_for_it_and_the_app_comes_up(
    pipe, monkeypatch, capsys, variable, flags, asked
):
    monkeypatch.setenv(app.COMPILE, variable)
    monkeypatch.setattr(command, "quiet", lambda: None)
    monkeypatch.setattr(command, "open_model", lambda *_, **__: pipe)
    monkeypatch.setattr(page, "build", lambda *_: "page")
    monkeypatch.setattr(app.signal, "signal", lambda *_: None)
    served = []
    monkeypatch.setattr(page, "launch", lambda built, **_: served.append(built))
    assert app.main(flags) == 0 and served == ["page"]
    assert capsys.readouterr().err.count("compiling is for NVIDIA GPUs") == asked
