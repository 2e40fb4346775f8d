"""Options in, images out: seeds, steps, and images that can each be drawn alone."""

import pytest

from dsd.generate import command, drawing
from dsd.generate.drawing import Options
from tests import tiny


@pytest.fixture(scope="module")
def frame(pipe, photo):
    return drawing.fit_reference(pipe, photo, Options(prompt="a hat"))


def options(**changes) -> Options:
    return Options(**{"prompt": "a red hat", "seed": 7, "steps": 3} | changes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"steps": 0}, "steps must be a whole number from 1 to 200, got 0"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"count": 0}, "count must be a whole number"),
        ({"image_guidance": float("nan")}, "image guidance must be a number from 0 to 20, got nan"),
        ({"text_guidance": "3"}, "text guidance must be a number"),
        ({"guidance": 99.0}, "guidance must be a number"),
        ({"width": 50}, "multiple of 16, got 50; try 48 or 64"),
        ({"height": 100_000}, "height must be a whole number from 16 to 2048, got 100000"),
        ({"fit": "stretch"}, "fit must be one of crop, pad, got 'stretch'"),
    ],
)
def test_an_impossible_option_is_refused_with_its_value(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        options(**change)


def test_each_image_of_many_can_be_made_alone(pipe, photo):
    many = drawing.generate(pipe, photo, options(count=5))  # more than one batch
    assert [result.seed for result in many] == [7, 8, 9, 10, 11]
    alone = drawing.generate(pipe, photo, options(seed=10))[0]
    assert tiny.difference(alone.image, many[3].image) <= command.ROUNDING
    assert tiny.difference(many[0].image, many[1].image) > 10


def test_steps_are_counted_over_all_images_and_previews_come(pipe, frame):
    seen = list(drawing.stream(pipe, frame, options(count=5), preview_seconds=0.0))
    assert [item.step for item in seen] == [4, 8, 12, 12, 13, 14, 15, 15]
    assert all(item.total == 15 and item.seconds_left >= 0 for item in seen)
    assert [len(item.results) for item in seen] == [0, 0, 0, 4, 4, 4, 4, 5]
    assert [len(item.previews) for item in seen if item.previews] == [4, 4, 4, 1, 1, 1]
    assert not any(item.previews for item in drawing.stream(pipe, frame, options()))


def test_closing_the_stream_stops_within_a_step(pipe, frame):
    calls = []
    handle = pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    try:
        steps = drawing.stream(pipe, frame, options(steps=50, image_guidance=1.0))
        for _ in range(3):
            next(steps)
        steps.close()
        assert len(calls) == 3
    finally:
        handle.remove()


@pytest.mark.parametrize("quality", ["best", "draft"])
def test_two_drawings_at_once_do_not_disturb_each_other(pipe, quality):
    """A canceled one may still be in its last step when the next begins."""
    options = [Options(prompt="a hat", steps=steps, seed=steps, quality=quality) for steps in (4, 3)]
    alone = [drawing.generate(pipe, tiny.image(), one)[0].image.tobytes() for one in options]
    slow, quick = (drawing.stream(pipe, tiny.image(), one) for one in options)
    next(slow)
    *_, first = quick
    *_, second = slow
    assert [second.results[0].image.tobytes(), first.results[0].image.tobytes()] == alone
