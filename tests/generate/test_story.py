"""A story: lines in, panels and one strip out, each panel an ordinary image."""

import json
from dataclasses import replace

import pytest
from PIL import Image, PdfParser

from dsd.generate import drawing, provenance, story
from dsd.generate.drawing import Options
from dsd.model.presets import POCKET, PRESETS
from dsd.pocket.phrases import VOCABULARY
from dsd.vlm.base import VLMError
from tests import tiny
from tests.judging import FakeJudge

LINES = "in the snow\n\n  at sea \nin a café"
ANSWER = json.dumps({"subject": "fox", "1": "in a room", "2": "at sea"})


@pytest.fixture(scope="module")
def panels():
    return story.plan(story.read_lines(LINES), Options(prompt="x", seed=7, steps=1, image_guidance=1.0))


@pytest.fixture(scope="module")
def drawn(pipe, panels):
    return list(drawing.stream_each(pipe, tiny.image(), panels, model="tiny"))


def test_each_line_is_a_panel_with_a_seed_of_its_own_that_counts_up(panels):
    assert [(panel.prompt, panel.seed) for panel in panels] == [
        ("in the snow", 7), ("at sea", 8), ("in a café", 9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [(" \n", "got 0"), ("a\n" * 9, "1 to 8 lines.*got 9"), ("a\n" + "b" * 201, "line 2 .* 201 characters")],
)
def test_a_story_of_no_too_many_or_too_long_lines_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        story.read_lines(text)


def test_the_example_lines_of_every_family_are_a_story_and_pocket_knows_their_words():
    for preset in filter(lambda preset: preset.story, PRESETS.values()):
        assert story.read_lines("\n".join(preset.story)) == preset.story
    assert set(" ".join(POCKET.story).split()) <= set(VOCABULARY)


def test_steps_count_over_all_panels_and_finished_panels_arrive_one_by_one(drawn):
    assert [(item.step, len(item.results)) for item in drawn] == [
        (1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3),
    ]  # fmt: skip
    assert {item.total for item in drawn} == {3}


def test_a_panel_is_drawn_again_alone_from_its_file(pipe, drawn, tmp_path):
    result = drawn[-1].results[1]
    panel = story.read_panel(Image.open(drawing.save(result, tmp_path / "panel.png")))
    (again,) = drawing.generate(pipe, panel.frame, drawing.options_from(panel.settings))
    assert again.image.tobytes() == result.image.tobytes() == panel.image.tobytes()
    assert panel.settings["prompt"] == "at sea"


def test_a_panel_of_another_size_than_it_was_drawn_in_is_refused(drawn, tmp_path):
    result = drawn[-1].results[0]
    large = replace(result, image=result.image.resize((900, 900)))
    with pytest.raises(ValueError, match="900 x 900 pixels was changed"):
        story.read_panel(Image.open(drawing.save(large, tmp_path / "panel.png")))


def test_closing_a_story_stops_within_a_step(pipe, panels, calls):
    steps = drawing.stream_each(pipe, tiny.image(), panels)
    next(steps)
    steps.close()
    assert len(calls) == 1


def test_the_strip_carries_mark_reference_and_the_settings_of_every_panel(drawn, tmp_path):
    results = drawn[-1].results
    path = story.save_strip(tmp_path / "strip.png", results)
    settings = provenance.read_settings(path)
    assert settings["panels"] == [result.settings for result in results]
    assert settings["prompt"] == "in the snow\nat sea\nin a café"
    assert Image.open(path).info["Source"] == provenance.MARK
    assert provenance.read_reference(path) == results[0].frame
    with pytest.raises(ValueError, match="strip of 3 panels"):
        drawing.options_from(settings)


def test_the_pdf_has_one_page_with_mark_and_settings(drawn, tmp_path):
    stale = tmp_path / ".strip.pdf.1.part"
    stale.touch()  # of a killed command
    story.save_strip(tmp_path / "strip.pdf", drawn[-1].results)
    assert not stale.exists()
    with PdfParser.PdfParser(str(tmp_path / "strip.pdf")) as pdf:
        assert (len(pdf.pages), pdf.info.Title, pdf.info.Subject) == (1, "strip", provenance.MARK)
        assert [panel["seed"] for panel in json.loads(pdf.info.Keywords)["panels"]] == [7, 8, 9]


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (4, 2, 2), (7, 4, 2), (8, 4, 2)]
)
def test_the_strip_has_at_most_two_rows_and_keeps_the_order(count, columns, rows):
    images = [Image.new("RGB", (32, 32), (10 + 20 * number, 0, 0)) for number in range(count)]
    strip = story.compose(images, ["a hat"] * count)
    side = 32 * 12  # enlarged to a whole multiple of at least 360 pixels
    assert strip.width == columns * (side + story.GAP) + story.GAP
    step, tall = side + story.GAP, (strip.height - story.GAP) // rows
    middle = story.GAP + side // 2
    centers = [(middle + n % columns * step, middle + n // columns * tall) for n in range(count)]
    assert [strip.getpixel(center)[0] for center in centers] == [10 + 20 * n for n in range(count)]


def test_captions_wrap_within_the_panel_in_a_font_that_has_their_letters():
    text = "a long line, wider than its panel, " * 5
    font = story.pick_font(text)
    lines = story.wrap(text, font, 300)
    assert " ".join(lines).split() == text.split() and max(map(font.getlength, lines)) <= 300
    assert story.font_notice(["a hat"]) is None and "\U000f0000" in story.font_notice(["a \U000f0000"])


def test_a_language_model_writes_the_lines_and_is_asked_once_more(panels):
    writer = FakeJudge(["hm", ANSWER])
    assert story.write_lines(writer, "a fox \n travels", ["under the sea"], 2) == ["in a room", "at sea"]
    first, second = writer.requests
    assert '"a fox travels"' in first.question and "under the sea" in first.question
    assert (first.seed, second.seed is None) == (None, False)


def test_a_model_without_a_story_and_an_empty_sentence_end_in_a_sentence():
    with pytest.raises(VLMError, match="'no'.*write the lines yourself"):
        story.write_lines(FakeJudge(lambda request: "no"), "a fox", [])
    with pytest.raises(ValueError, match="no sentence yet"):
        story.write_lines(FakeJudge([]), " ", [])
