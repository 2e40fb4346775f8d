"""The history of one visit: what it keeps, what it shows of an image, what can be done with it again."""

import pickle
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from dsd.generate import drawing, provenance
from dsd.generate.drawing import Options
from dsd.ui.generate.form import Form
from dsd.ui.generate.history import BEFORE, KEPT, REFERENCE, History, Visit, in_words
from tests import tiny

GONE = "This image is gone: images leave the server within 6 hours."


@pytest.fixture(scope="module")
def history(loaded) -> History:
    return History(Form(loaded))


@pytest.fixture
def made(pipe, tmp_path):
    """Draws an image into a folder of this test; returns its path."""

    def make(**asked) -> str:
        options = Options(**{"prompt": "a red hat", "steps": 1, "image_guidance": 1.0} | asked)
        (result,) = drawing.generate(pipe, tiny.image(), options)
        return str(drawing.save(result, tmp_path / f"dsd-{options.seed}.png"))

    return make


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """The warnings that a visitor would see."""
    said = []
    monkeypatch.setattr(gr, "Warning", lambda text: said.append(text))
    return said


def add(history: History, visit: Visit, *paths: str | None) -> dict:
    """What the page gets when these images are in the gallery, as a browser sends it."""
    items = [{"image": path and {"path": path}, "caption": "a caption"} for path in paths]
    return history.add({"visit": visit, "images": items})


def test_finished_images_come_first_and_previews_not_at_all(history, made, tmp_path):
    tiny.image().save(preview := str(tmp_path / "preview.png"))
    older, newer = made(seed=1), made(seed=2)
    visit = add(history, Visit(), older)["visit"]
    shown = add(history, visit, newer, preview)
    assert shown["visit"].paths == (newer, older) and shown["history"].visible
    assert shown["strip"] == [(newer, "seed 2"), (older, "seed 1")]


def test_while_nothing_is_drawn_there_is_nothing(history):
    for nothing in ([], [None], ["/no/such/file.png"]):
        shown = add(history, Visit(), *nothing)
        assert shown["visit"] == Visit() and not shown["history"].visible and shown["strip"] == []
    assert history.add({"visit": Visit(), "images": None})["visit"] == Visit()


def test_the_same_image_again_is_not_a_second_one(history, made):
    visit = Visit(paths=(made(seed=1), made(seed=2)))
    assert add(history, visit, visit.paths[1])["visit"].paths == visit.paths[::-1]


def test_the_oldest_go_when_there_are_too_many_and_what_is_kept_is_small(history, made, tmp_path):
    image = Path(made()).read_bytes()
    visit = Visit()
    for index in range(KEPT + 3):
        (path := tmp_path / f"dsd-{100 + index}.png").write_bytes(image)
        shown = add(history, visit, str(path))
        visit = shown["visit"]
    assert len(visit.paths) == len(shown["strip"]) == KEPT == 24
    assert [Path(path).stem for path in visit.paths[:: KEPT - 1]] == ["dsd-126", "dsd-103"]
    assert len(pickle.dumps(visit)) < KEPT * 300 and vars(history).keys() == {"form"}


def test_a_image_stands_beside_its_reference_with_its_settings_in_words(history, made):
    path = made(seed=7, prompt="a <b>red</b> hat", quality="draft", steps=2, width=48, fit="pad")
    shown = history.pick(Visit(paths=(path,)), REFERENCE, 0)
    before, after = shown["slider"].value  # as gradio took them in: files
    assert shown["visit"].picked == path and shown["panel"].visible and not shown["against"].visible
    assert "strip" not in shown
    about = shown["about"]
    with Image.open(before["path"]) as left:
        assert left.convert("RGB").tobytes() == provenance.read_reference(path).tobytes()
    assert Path(after["path"]).read_bytes() == Path(path).read_bytes()
    assert "a &lt;b&gt;red&lt;/b&gt; hat" in about
    assert "Seed 7 · draft, 2 steps · keep the subject 1 " in about
    assert "48 x 32 pixels · white added" in about


def test_all_that_can_be_set_is_in_the_words():
    words = in_words(Options(prompt="x", seed=3, guidance=3.5, text_guidance=2.25, width=64, height=32))
    assert words == (
        "Seed 3 · best, 28 steps · keep the subject 1.5 · follow the prompt 2.25 · vividness 3.5 · "
        "64 x 32 pixels · cropped to fill"
    )


def test_two_picks_can_be_compared_whatever_their_sizes(history, made):
    visit = Visit(paths=(made(seed=1), made(seed=2, width=64, height=48)))
    visit = history.pick(visit, BEFORE, 0)["visit"]
    shown = history.pick(visit, BEFORE, 1)
    visit, against = shown["visit"], shown["against"]
    assert (visit.picked, visit.before) == visit.paths[::-1] and against.visible and against.value == BEFORE
    sizes = [Image.open(side["path"]).size for side in shown["slider"].value]
    assert sizes == [(64, 48), (64, 48)] and "picked before" in shown["slider"].label
    again = history.pick(visit, BEFORE, 1)["visit"]  # the same one again: still compared with the other
    assert again == visit


def test_a_image_that_was_swept_gets_a_sentence_and_leaves_the_strip(history, made, told):
    gone, left = made(seed=1), made(seed=2)
    visit = Visit(paths=(gone, left), picked=gone)
    Path(gone).unlink()
    shown = history.pick(visit, BEFORE, 0)
    assert shown["visit"].paths == (left,) and shown["strip"] == [(left, "seed 2")]
    assert not shown["pair"].visible and not shown["against"].visible
    assert GONE in shown["about"] and told == [GONE]
    for use in (history.reuse, history.refer):
        with pytest.raises(gr.Error, match="is gone"):
            use({"visit": shown["visit"]})
    assert add(history, Visit(paths=(gone, left)))["visit"].paths == (left,)


def test_what_it_was_compared_with_may_be_swept_too(history, made, told):
    gone, path = made(seed=1), made(seed=2)
    visit = Visit(paths=(path, gone), picked=path, before=gone)
    Path(gone).unlink()
    assert history.pick(visit, BEFORE, 0)["visit"].before is None
    shown = history.compare({"visit": visit, "against": BEFORE})
    assert not shown["pair"].visible and told == [GONE]


@pytest.mark.parametrize("index", [-1, 1, 10**6])
def test_a_click_on_what_is_not_there_does_nothing(history, made, index):
    visit = Visit(paths=(made(),))
    assert history.pick(visit, REFERENCE, index) == {"visit": visit}


def test_a_damaged_image_gets_a_sentence(history, made, told):
    Path(path := made()).write_bytes(Path(path).read_bytes()[:200])
    shown = history.pick(Visit(paths=(path,)), REFERENCE, 0)
    assert not shown["pair"].visible and 'role="alert"' in shown["about"] and len(told) == 1


def test_its_settings_and_its_reference_come_back(history, made):
    path = made(seed=9, prompt="at sea", width=48, text_guidance=2.0)
    back = history.reuse({"visit": Visit(picked=path)})
    assert back["image"].tobytes() == provenance.read_reference(path).tobytes()
    assert (back["prompt"], back["seed"], back["width"], back["height"]) == ("at sea", 9, 48, 32)
    assert back["own_image"] == path and back.keys() == history.form.restore({"image": path}).keys()


def test_it_can_be_the_next_reference(history, made):
    path = made()
    back = history.refer({"visit": Visit(picked=path)})
    assert back["image"] == path and not back["restored"].visible


def test_before_anything_is_picked_the_buttons_say_so(history):
    with pytest.raises(gr.Error):
        history.reuse({"visit": Visit()})
