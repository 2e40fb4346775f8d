"""The teacher: one seed a grid, stock images, prompts that fit; it can be watched and stopped."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image, FluxPipeline
from PIL import Image, ImageChops

from dsd.doctor import doctor
from dsd.doctor.advice import Facts, explain_shortage
from dsd.grids import teacher
from dsd.grids.gutters import equal_boxes
from dsd.grids.prompts import Prompt
from dsd.grids.teacher import SETTINGS, Settings, Teacher, load_teacher
from dsd.model.checkpoint import LoadError, model_hash
from dsd.model.memory import Way
from dsd.model.pipeline import Step
from tests import tiny
from tests.tiny import FRAME

STEPS = 3


def flux(*, guidance_embeds: bool = True) -> FluxPipeline:
    parts = tiny.components()
    torch.manual_seed(0)
    pipe = FluxPipeline(**{**parts, "transformer": tiny.plain_transformer(guidance_embeds)})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def taught(pipe: FluxPipeline, **settings) -> Teacher:
    common = {"panel": FRAME, "margin": 0, "steps": STEPS, "tokens": 40}
    return Teacher(pipe=pipe, settings=Settings(**{**common, **settings}), name="tiny", hash=model_hash(pipe))


@pytest.fixture(scope="module")
def tiny_teacher() -> Teacher:
    return taught(flux())


@pytest.fixture(scope="module")
def undistilled() -> FluxPipeline:
    return flux(guidance_embeds=False)


def grid(seed: int = 0, rows: int = 2, columns: int = 2, prompt: str = "four foxes") -> Prompt:
    return Prompt(
        id="", prompt=prompt, seed=seed, rows=rows, columns=columns, recipe="", subject="", places=[]
    )


def apart(one, other) -> int:
    """The largest difference in levels of 255."""
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


# -- what is drawn


def stock(pipe: FluxPipeline, **options):
    return pipe(
        "four foxes",
        height=2 * FRAME,
        width=2 * FRAME,
        num_inference_steps=STEPS,
        max_sequence_length=40,
        generator=torch.Generator().manual_seed(7),
        **options,
    ).images[0]


def test_a_grid_is_what_the_stock_pipeline_draws(tiny_teacher):
    (drawn,) = tiny_teacher.draw([grid(7)])
    assert drawn == stock(tiny_teacher.pipe, guidance_scale=3.5)


def test_a_model_without_embedded_guidance_is_guided_away_from_the_empty_prompt(undistilled):
    (drawn,) = taught(undistilled, guidance=2.0).draw([grid(7)])
    assert drawn == stock(undistilled, true_cfg_scale=2.0, negative_prompt="")
    (plain,) = taught(undistilled, guidance=1.0).draw([grid(7)])
    assert plain == stock(undistilled) and apart(plain, drawn) > 0


def test_embedded_guidance_acts(tiny_teacher):
    assert tiny_teacher.draw([grid()]) != taught(tiny_teacher.pipe, guidance=1.0).draw([grid()])


def test_a_grid_does_not_depend_on_those_beside_it(tiny_teacher):
    grids = [grid(seed, prompt=f"{seed} foxes") for seed in range(5)]
    together, alone = tiny_teacher.draw(grids), [tiny_teacher.draw([one])[0] for one in grids]
    assert all(apart(one, other) <= 1 for one, other in zip(together, alone, strict=True))
    assert all(apart(together[0], other) > 5 for other in together[1:])


def test_panels_that_share_all_noise_and_words_are_alike_and_the_row_says_so(tiny_teacher):
    def spread(share: float) -> float:
        """How much the panels differ, in levels of 255."""
        drawer = taught(tiny_teacher.pipe, shared_noise=share)
        assert drawer.stamp.get("shared_noise", 0.0) == share
        *steps, (drawn,) = drawer.stream([grid()])
        assert apart(steps[-1].preview()[0], drawn) <= 1, "the preview begins with the same noise"
        pixels = np.asarray(drawn, float).reshape(2, FRAME, 2, FRAME, 3)
        return pixels.std((0, 2)).mean()

    assert spread(1.0) < spread(0.5) < spread(0.0)


def test_layouts_may_be_mixed_and_keep_their_order(tiny_teacher):
    grids = [grid(0, 1, 2), grid(1, 3, 3), grid(2, 1, 2), grid(3, 2, 2)]
    drawn = tiny_teacher.draw(grids)
    assert [one.size for one in drawn] == [(64, 32), (96, 96), (64, 32), (64, 64)]
    assert all(apart(one, tiny_teacher.draw([row])[0]) <= 1 for one, row in zip(drawn, grids, strict=True))


def test_a_prompt_that_would_be_cut_is_refused(tiny_teacher):
    fits, longer = grid(prompt="x" * 38), grid(prompt="x" * 39)  # with its start and its end: 40 tokens
    assert tiny_teacher.refuse(fits) is None
    assert tiny_teacher.refuse(longer) == "prompt too long: 41 tokens, the model reads 40"
    short = taught(tiny_teacher.pipe, tokens_of={(1, 2): 24})
    assert short.refuse(fits) is None
    assert short.refuse(replace(fits, rows=1)) == "prompt too long: 40 tokens, the model reads 24"


# -- watching


def test_every_step_can_be_seen_and_the_last_one_is_the_grid(tiny_teacher):
    *steps, drawn = tiny_teacher.stream([grid(0), grid(1)])
    assert [(step.index, step.total) for step in steps] == [(i, STEPS) for i in range(STEPS)]
    assert drawn == tiny_teacher.draw([grid(0), grid(1)])
    first, last = steps[0].preview(), steps[-1].preview()
    assert [one.size for one in first] == [(64, 64)] * 2 and first != last
    assert all(apart(one, other) <= 1 for one, other in zip(last, drawn, strict=True))


def test_a_preview_shows_where_the_step_points_not_the_noise_on_the_way(tiny_teacher, monkeypatch):
    """A model that always answers `noise - data` points at the data from the first step on."""
    noise = teacher._draw_noise(tiny_teacher.pipe, Settings(), [grid()], 64, 64)
    data = torch.linspace(-1, 1, noise.numel()).view_as(noise)
    monkeypatch.setattr(tiny_teacher.pipe.transformer, "forward", lambda **_: (noise - data,))
    *steps, (drawn,) = tiny_teacher.stream([grid()])
    assert all(apart(step.preview()[0], drawn) <= 1 for step in steps)


def test_closing_the_stream_stops_within_a_step(tiny_teacher, monkeypatch):
    calls = tiny.count_calls(tiny_teacher.pipe, monkeypatch)
    steps = taught(tiny_teacher.pipe, steps=500).stream([grid()])
    seen = next(steps)
    steps.close()
    assert isinstance(seen, Step) and sum(calls) == 1 and list(steps) == []
    assert len(tiny_teacher.draw([grid()])) == 1  # and the next drawing is not stopped


def test_what_goes_wrong_while_drawing_is_raised_where_one_waits(tiny_teacher, monkeypatch):
    def fail(**_):
        raise MemoryError("no more")

    monkeypatch.setattr(tiny_teacher.pipe.transformer, "forward", fail)
    with pytest.raises(MemoryError, match="no more"):
        list(tiny_teacher.stream([grid()]))


# -- loading


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("models") / "mine"
    flux().save_pretrained(where)
    return where


def test_a_folder_is_asked_like_the_preset_it_is_said_to_be_like(folder):
    opened = load_teacher(str(folder), like="pocket", steps=2, margin=3, device="cpu")
    own = opened.pipe.vae.config.sample_size // 2  # as large as the model draws best, whatever it is like
    assert opened.settings == replace(SETTINGS["pocket"], steps=2, margin=3, panel=own)
    assert opened.stamp == {
        "generator": "mine", "generator_hash": model_hash(flux()), "license": "unknown: see the model's card",
        "steps": 2, "guidance": 3.0, "margin": 3, "panel": own, "shared_noise": 1.0,
        "refine": 0.5,
    }  # fmt: skip
    (drawn,) = opened.draw([grid(rows=1)])
    assert drawn.size == (2 * own, own)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fluxdev", {}, "unknown model 'fluxdev': pass one of pocket, flux-dev, flux-schnell"),
        ("me/mine", {}, "me/mine needs settings: say which model it is like, pocket, flux-dev, flux-schnell"),
        ("me/mine", {"like": "sdxl"}, "got like='sdxl'"),
        ("pocket", {"like": "flux-dev"}, "pocket has its own settings: leave out like='flux-dev'"),
        ("pocket", {"steps": 0}, "steps must be at least 1, got 0"),
        ("pocket", {"guidance": float("nan")}, "guidance must be 0 or more, got nan"),
        ("pocket", {"margin": 64}, "margin must be from 0 to 63 pixels, got 64"),
        ("pocket", {"shared_noise": 1.5}, "shared noise must be from 0 to 1, got 1.5"),
        ("pocket", {"device": "cpu", "offload": "model"}, 'use "none"'),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(name, options, message, monkeypatch):
    monkeypatch.setattr(FluxPipeline, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=message):
        load_teacher(name, **options)


def test_what_the_hub_refuses_is_explained(monkeypatch):
    def refuse(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(AutoPipelineForText2Image, "from_pretrained", refuse)
    with pytest.raises(LoadError, match="cannot open flux-dev .black-forest-labs/FLUX.1-dev.: disk full"):
        load_teacher("flux-dev", device="cpu")


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("out of memory")]
)
@pytest.mark.parametrize("stage", ["from_pretrained", "to"])
def test_memory_that_runs_out_is_explained(monkeypatch, folder, error, stage):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(FluxPipeline, stage, fail)
    with pytest.raises(LoadError, match=r"mine does not fit into .*memory: python -m dsd.doctor") as raised:
        load_teacher(str(folder), like="pocket", device="cpu")
    words = r"the teacher .*mine does not fit into .*memory, of which .* are free: .*dsd.doctor"
    assert re.match(words, doctor.remedy(raised.value))


@pytest.mark.parametrize(
    ("offload", "main", "remedy"),
    [
        ("none", False, "4.0 GB are free: try --offload group or --offload sequential;"),
        ("group", False, "try --offload sequential;"),
        ("sequential", False, "close other programs;"),
        ("none", True, "9.0 GB are free: close other programs;"),
    ],
)
def test_a_teacher_that_is_too_large_gets_the_flags_that_fit(offload, main, remedy):
    facts = Facts(device="cuda", gpu_free=4_000_000_000, ram_free=9_000_000_000)
    said = explain_shortage(facts, "flux-dev", Way(offload), main=main, teacher=True)
    assert remedy in said and "\n" not in said


def test_other_errors_stay_what_they_are(monkeypatch, folder):
    monkeypatch.setattr(FluxPipeline, "from_pretrained", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_teacher(str(folder), like="pocket", device="cpu")


def test_a_student_is_no_teacher(tmp_path):
    tiny.pipeline().save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="draws from a reference image .32 input channels."):
        load_teacher(str(tmp_path), like="flux-dev", device="cpu")


def test_the_shipped_teacher_draws_all_its_layouts():
    pocket = load_teacher("pocket", steps=1, device="cpu")
    rows = [grid(0, 2, 2, "4 images of the same red round critter"), grid(0, 1, 2, "2 images of the same")]
    assert [one.size for one in pocket.draw(rows)] == [(256, 256), (256, 128)]
    assert pocket.stamp["license"] == "Apache-2.0" and len(pocket.hash) == 12
    assert [pocket.tokens(row) for row in rows] == [44, 32]


# -- where the panels are


def test_panels_need_no_visible_boundary_only_where_the_weights_learned_equal_parts(tiny_teacher):
    one_color = Image.new("RGB", (2 * FRAME, 2 * FRAME), "navy")
    reason = tiny_teacher.find_panels(one_color, grid())
    assert isinstance(reason, str) and reason.startswith("gutters: ")
    equal = replace(tiny_teacher, settings=replace(tiny_teacher.settings, equal_parts=True))
    assert equal.find_panels(one_color, grid()) == equal_boxes(one_color, 2, 2)
    assert {name for name, settings in SETTINGS.items() if settings.equal_parts} == {"pocket"}
