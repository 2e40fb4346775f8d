"""What a request takes: counted, then measured, and said before the click."""

import math
import re
import time

import gradio as gr
import pytest
from PIL import Image
from spaces.zero import client, config
from spaces.zero.gradio import error as zero_error

from dsd.generate import drawing, sheet
from dsd.generate.drawing import Options
from dsd.model.sampling import QUALITIES
from dsd.ui import page
from dsd.ui.generate import cost, tab
from dsd.ui.generate import layout as generate_layout
from dsd.ui.generate.cost import (
    FIRST,
    MARGIN,
    RANK_SECONDS,
    SECONDS_PER_EVALUATION,
    START_SECONDS,
    Pace,
    evaluations,
)
from dsd.ui.generate.handlers import Generating
from dsd.ui.generate.sheet import Sheets
from dsd.ui.messages import explain
from dsd.ui.models import Loaded
from dsd.ui.story.handlers import GPU_SECONDS, Telling
from tests import tiny
from tests.forms import form

SCALES = pytest.mark.parametrize("scales", [(1.0, 1.0), (1.5, 1.0), (2.0, 3.0)])


@pytest.fixture
def work(loaded) -> Generating:
    return Generating(loaded)


@pytest.fixture
def on_zero_gpu(monkeypatch):
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")


COSTS = {name: value for name, value in form(steps=28).items() if name in tab.COSTS}


def asked(**changes) -> Options:
    return Options(**{"prompt": "x", "width": 512, "height": 512} | changes)


# ---------------------------------------------------------------- counted


def test_more_work_asks_for_more_of_the_gpu():
    pace = Pace(512)
    less = asked(image_guidance=1.0)
    more = [asked(), asked(count=2), asked(count=2, width=1024)]
    seconds = [pace.gpu_seconds(None, options) for options in [less, *more]]
    assert seconds == sorted(set(seconds))


@SCALES
@pytest.mark.parametrize("quality", QUALITIES)
def test_the_evaluations_that_are_counted_are_those_that_there_are(pipe, quality, scales):
    image, text = scales
    options = Options(prompt="a hat", quality=quality, image_guidance=image, text_guidance=text, count=2)
    seen = []
    hook = pipe.transformer.register_forward_hook(
        lambda _, __, given, ___: seen.append(len(given["hidden_states"])), with_kwargs=True
    )
    try:
        steps = drawing.stream(pipe, tiny.image(), options)
        list(steps)
    finally:
        hook.remove()
    assert evaluations(options) == sum(seen)


@SCALES
def test_what_the_page_says_of_a_quality_s_work_holds_at_any_guidance(scales):
    image, text = scales
    draft, balanced, best = (
        evaluations(Options(prompt="x", quality=name, image_guidance=image, text_guidance=text))
        for name in QUALITIES
    )
    assert 4 * draft <= best and "a quarter of the work" in generate_layout.QUALITY["draft"]
    assert 2 * balanced <= best and "half of the work" in generate_layout.QUALITY["balanced"]
    assert list(generate_layout.QUALITY) == list(QUALITIES)


# ---------------------------------------------------------------- measured


def test_before_the_first_run_no_seconds_are_made_up():
    pace = Pace(512)
    assert pace.seconds(asked()) is None and "first image will show" in pace.line(asked())
    allowance = START_SECONDS + SECONDS_PER_EVALUATION * evaluations(asked())
    assert pace.gpu_seconds(None, asked()) == math.ceil(allowance)


def test_a_run_teaches_what_others_will_take():
    pace = Pace(512)
    options = asked(steps=11, image_guidance=1.0)
    pace.learn(options, 11.0)
    assert pace.seconds(options) == pytest.approx(11.0)
    assert pace.seconds(asked(steps=22, image_guidance=1.0)) == pytest.approx(22.0)
    assert pace.seconds(asked(steps=11, image_guidance=1.0, count=3)) == pytest.approx(33.0)
    assert pace.seconds(asked(steps=11, image_guidance=1.0, width=1024)) == pytest.approx(22.0)
    assert pace.line(options) == "Takes about 11 seconds."
    assert pace.line(options, options) == "Takes about 22 seconds."
    assert pace.gpu_seconds(None, options) == math.ceil(START_SECONDS + MARGIN * 11)


def test_a_later_run_moves_the_figure_halfway():
    pace, options = Pace(512), asked(steps=11, image_guidance=1.0)
    pace.learn(options, 11.0)
    pace.learn(options, 33.0)
    assert pace.seconds(options) == pytest.approx(22.0)


def test_a_ranking_is_part_of_the_time_once_one_was_measured():
    pace, options = Pace(512), asked(steps=11, image_guidance=1.0, count=2)
    assert pace.line(options, rank=True) == FIRST
    pace.learn(options, 11.0)
    assert pace.line(options, rank=True) == "Takes about 11 seconds, and some time to rank the images."
    pace.learn_rank(4, 20.0)
    assert pace.line(options, rank=True) == "Takes about 21 seconds."
    assert pace.line(options) == "Takes about 11 seconds."


def test_a_canceled_run_teaches_nothing(work, photo):
    shown = work.draw(form(photo, steps=4))
    for _ in range(3):
        next(shown)
    shown.close()
    assert work.pace.rate is None


def test_a_run_of_the_page_is_timed_and_the_line_follows(work, photo):
    assert "first image will show" in work.cost(COSTS)["cost"]
    begun = time.monotonic()
    list(work.draw(form(photo, count=2, steps=4)))
    taken = time.monotonic() - begun
    known = work.pace.seconds(Options(prompt="x", count=2, steps=4, width=32, height=32))
    assert 0 < known <= taken and "Takes about" in work.cost(COSTS)["cost"]


def test_a_call_of_a_program_is_timed_too(work, photo):
    list(work.endpoint(photo, "a hat", 1, 3, 1.5, 1.0, None, 7, 32, 32, "crop"))
    assert work.pace.rate > 0


@pytest.mark.parametrize(
    "typed", [{"count": None}, {"width": 3}, {"image_guidance": "many"}, {"quality": ["superb"]}]
)
def test_a_field_that_is_still_being_typed_is_no_error(work, typed):
    assert work.cost(COSTS | typed)["cost"] == '<p class="dsd-quiet"></p>'


def test_the_line_follows_every_setting_that_costs_and_waits_in_no_queue(work, tmp_path):
    built = page.build(work.loaded, tmp_path)
    events = [event for event in built.fns.values() if event.name == "cost"]
    triggers = [trigger for event in events for trigger in event.targets]
    assert {built.blocks[target].label for target, name in triggers if name == "change"} == {
        "Number of images", "Rank them", "Steps", "Keep the subject", "Follow the prompt", "Width", "Height",
        "Quality",
    }  # fmt: skip
    assert {name for _, name in triggers} >= {"load", "change", "then"}
    assert not any(event.queue or event.preprocess for event in events)
    assert {event.api_visibility for event in events} == {"private"}
    built.close()


# ---------------------------------------------------------------- on ZeroGPU


def test_there_the_seconds_that_are_asked_for_are_said(on_zero_gpu):
    pace = Pace(512)
    said = pace.line(asked())
    assert f"Asks for {pace.gpu_seconds(None, asked())} seconds" in said and "allowance" in said
    pace.learn(asked(steps=11), 10.0)
    said = pace.line(asked())
    assert f"Asks for {pace.gpu_seconds(None, asked())} seconds" in said and "allowance" not in said


def test_a_sheet_and_a_ranking_say_what_they_ask_for(on_zero_gpu, work):
    said = work.cost(COSTS)
    cells = sheet.cells(Options(prompt="x", **{k: v for k, v in COSTS.items() if k != "rank"}))
    assert f"Asks for {work.pace.gpu_seconds_of(None, cells)} seconds" in said["sheet_cost"]
    alone = work.pace.gpu_seconds(None, cells[0])
    assert work.pace.gpu_seconds_of(None, cells) > alone
    ranked = work.cost(COSTS | {"rank": True})["cost"]
    plain = re.search(r"Asks for (\d+)", said["cost"])[1]
    assert f"Asks for {int(plain) + RANK_SECONDS} seconds" in ranked


def test_a_device_that_counts_more_against_the_quota_is_told_of(on_zero_gpu, monkeypatch):
    assert "quota" not in Pace(512).line(asked())
    monkeypatch.setattr(config, "get_config", lambda: {"duration_factor": 1.5})
    pace = Pace(512)
    seconds = pace.gpu_seconds(None, asked())
    assert cost.count(60) == 90
    assert f"which count as {round(1.5 * seconds)} of your quota" in pace.line(asked())


def test_the_number_on_the_page_is_the_one_that_the_gpu_is_asked_for(pipe, monkeypatch):
    given = []
    monkeypatch.setattr("spaces.GPU", lambda duration: given.append(duration) or (lambda steps: steps))
    work = Generating(Loaded(pipe=pipe, name="tiny"))
    assert given == [work.pace.gpu_seconds, RANK_SECONDS]
    sheets = Sheets(work)
    telling = Telling(work.loaded, work)
    assert given[2:] == [sheets.work.pace.gpu_seconds_of, telling.work.pace.gpu_seconds_of, GPU_SECONDS]


@pytest.mark.parametrize(
    ("title", "words"),
    [
        (
            "ZeroGPU quota exceeded",
            "You have exceeded your free ZeroGPU quota (38s requested vs. 20s left). Try again in 1:02:03. ",
        ),
        ("ZeroGPU illegal duration", "The requested GPU duration (400s) is larger than the maximum allowed"),
    ],
)
def test_what_zero_gpu_refuses_with_reaches_the_visitor_with_its_numbers_and_the_remedy(
    work, photo, monkeypatch, title, words
):
    said = f"{words.strip(' .')}. Fewer or smaller images ask for less."

    def refused(*_):
        raise zero_error(title, words)
        yield

    monkeypatch.setattr(work, "_steps", refused)
    *_, shown = work.draw(form(photo))
    assert said in shown["status"]
    with pytest.raises(gr.Error) as caught:
        list(work.endpoint(photo, "a hat", 1, 2, 1.5, 1.0, None, 7, 32, 32, "crop"))
    assert caught.value.message == said


def test_a_refusal_that_is_written_in_html_reaches_the_visitor_without(work):
    text = "No GPU was available after 60s [Create a free account](https://huggingface.co/join) to get more."
    message = client.html_string('No GPU. <a style="x" href="https://huggingface.co/join">Create</a>', text)
    said = explain(zero_error("ZeroGPU queue timeout", message, html=True))
    assert said.startswith(
        "No GPU was available after 60s Create a free account (https://huggingface.co/join)"
    )
    assert "<" not in said


# ---------------------------------------------------------------- what needs no GPU stays outside


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": None}, "no image yet"),
        ({"prompt": " "}, "prompt is empty"),
        ({"steps": 0}, "Steps must be"),
        ({"width": 33}, "multiple of 16"),
        ({"quality": "superb"}, "superb"),
        ({"guidance": 3.5}, "no embedded guidance"),
    ],
)
def test_what_can_be_refused_without_the_gpu_never_asks_for_it(work, photo, monkeypatch, changes, words):
    monkeypatch.setattr(work, "_steps", lambda *_: pytest.fail("it asked for the GPU"))
    call = {"image": photo, "prompt": "a hat", "count": 1, "steps": 2, "image_guidance": 1.5}
    call |= {"text_guidance": 1.0, "seed": 7, "width": 32, "height": 32, "fit": "crop"}
    with pytest.raises(gr.Error, match=words):
        list(work.endpoint(**call | changes))


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_only_the_frame_goes_to_the_gpu_and_the_image_is_the_same(work, pipe, photo, monkeypatch, fit):
    sent, steps = [], work._steps
    monkeypatch.setattr(work, "_steps", lambda *given: sent.append(given) or steps(*given))
    *_, (files, _) = work.endpoint(photo, "a hat", 1, 2, 1.5, 1.0, None, 7, 48, 32, fit)
    ((frame, options),) = sent
    assert frame.size == (48, 32)
    with Image.open(photo) as image:
        whole = drawing.generate(pipe, image, options)[0]
    again = drawing.generate(pipe, frame, options)[0]
    assert whole.frame.tobytes() == frame.tobytes() == again.frame.tobytes()
    assert whole.image.tobytes() == again.image.tobytes()
    assert whole.settings == again.settings
