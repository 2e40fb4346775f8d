"""The images of one visit: what is kept, what is shown of one, what can be done with it again."""

import base64
import pickle
import re
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from dsd.generate import drawing, provenance
from dsd.generate.drawing import Options
from dsd.ui.generate.form import Form
from dsd.ui.generate.handlers import Generating
from dsd.ui.generate.history import FITS, KEPT, SCALE, History, Visit, in_words
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


def add(history: History, visit: Visit, *paths: str | None) -> dict:
    """What the page gets when these images are in the gallery, as a browser sends it."""
    items = [{"image": path and {"path": path}, "caption": "a caption"} for path in paths]
    return history.add({"visit": visit, "images": items})


def strip(shown: dict) -> list[str]:
    """The captions of the strip."""
    return [item["caption"] for item in shown["strip"].value or []]


def test_finished_images_come_first_and_previews_not_at_all(history, made, tmp_path):
    tiny.image().save(preview := str(tmp_path / "preview.png"))
    older, newer = made(seed=1), made(seed=2, prompt="at sea")
    visit = add(history, Visit(), older)["visit"]
    shown = add(history, visit, newer, preview)
    assert shown["visit"] == Visit((newer, older), shown=newer) and shown["history"].visible
    assert strip(shown) == ["at sea", "a red hat"] and shown["strip"].selected_index is None
    assert [item["caption"] for item in shown["images"].value] == ["at sea"], "no blurry preview stays"


def test_after_a_cancel_the_image_before_is_shown_again(history, made, tmp_path):
    tiny.image().save(preview := str(tmp_path / "preview.png"))
    path = made(seed=1)
    shown = add(history, Visit((path,), shown=path), preview)
    assert shown["visit"] == Visit((path,), shown=path) and len(shown["images"].value) == 1
    assert "Seed 1<" in shown["about"]
    assert add(history, Visit(), preview)["images"].value in ([], None)


def test_while_nothing_is_drawn_there_is_nothing(history):
    for nothing in ([], [None], ["/no/such/file.png"]):
        shown = add(history, Visit(), *nothing)
        assert shown["visit"] == Visit() and not shown["history"].visible and strip(shown) == []
        assert shown["about"] == "" and not shown["actions"].visible
    assert history.add({"visit": Visit(), "images": None})["visit"] == Visit()


def test_the_same_image_again_is_not_a_second_one_and_an_example_is_none(history, made):
    paths, example = (made(seed=1), made(seed=2)), made(seed=3)
    assert add(history, Visit(paths), paths[1])["visit"] == Visit(paths, shown=paths[1])
    assert add(history, Visit(shown=example), example)["visit"] == Visit(shown=example)


def test_the_oldest_go_when_there_are_too_many_and_what_is_kept_is_small(history, made, tmp_path):
    image = Path(made()).read_bytes()
    visit = Visit()
    for index in range(KEPT + 3):
        (path := tmp_path / f"dsd-{100 + index}.png").write_bytes(image)
        shown = add(history, visit, str(path))
        visit = shown["visit"]
    assert len(visit.paths) == len(strip(shown)) == KEPT == 24
    assert [Path(path).stem for path in visit.paths[:: KEPT - 1]] == ["dsd-126", "dsd-103"]
    assert len(pickle.dumps(visit)) < KEPT * 300 and vars(history).keys() == {"form"}


def test_an_older_image_is_shown_again_with_its_prompt_and_its_reference(history, made):
    path = made(seed=7, prompt="a <b>red</b> hat")
    shown = history.pick(Visit((path,)), 0)
    assert shown["visit"].shown == path and shown["actions"].visible and "strip" not in shown
    assert Path(shown["images"].value[0]["image"]["path"]).read_bytes() == Path(path).read_bytes()
    about = shown["about"]
    assert about.index("a &lt;b&gt;red&lt;/b&gt; hat") < about.index("Seed 7")
    with Image.open(BytesIO(base64.b64decode(re.search('base64,([^"]+)', about).group(1)))) as reference:
        assert reference.tobytes() == provenance.read_reference(path).tobytes()


def test_one_of_several_can_be_looked_at(history, made):
    items = [{"image": {"path": made(seed=seed)}} for seed in (1, 2)]
    shown = history.look(Visit(), items, 1)
    assert shown["visit"].shown == items[1]["image"]["path"] and "Seed 2" in shown["about"]
    for images, index in ((items, 2), (items, -1), ([], 0), (None, 0)):
        assert history.look(Visit(), images, index) == {"visit": Visit()}


def test_all_that_can_be_set_is_in_the_words():
    words = in_words(Options(prompt="x", seed=3, guidance=3.5, text_guidance=2.25, width=64, height=32))
    assert words == (
        "Seed 3 · best, 28 steps · keep the subject 1.5 · follow the prompt 2.25 · vividness 3.5 · "
        "64 x 32 pixels · cropped to fill"
    )


def test_an_image_that_was_swept_gets_a_sentence_and_leaves_the_strip(history, made):
    gone, left = made(seed=1), made(seed=2)
    Path(gone).unlink()
    shown = history.pick(Visit((gone, left)), 0)
    assert shown["visit"].paths == (left,) and strip(shown) == ["a red hat"]
    assert GONE in shown["about"] and not shown["actions"].visible
    for use in (history.reuse, history.refer, history.download, lambda values: next(history.enlarge(values))):
        assert GONE in use({"visit": Visit(shown=gone)})["about"]
    assert add(history, Visit((gone, left)))["visit"].paths == (left,)


@pytest.mark.parametrize("index", [-1, 1, 10**6])
def test_a_click_on_what_is_not_there_does_nothing(history, made, index):
    visit = Visit((made(),))
    assert history.pick(visit, index) == {"visit": visit}


def test_a_damaged_image_gets_a_sentence(history, made):
    Path(path := made()).write_bytes(Path(path).read_bytes()[:200])
    shown = history.pick(Visit((path,)), 0)
    assert 'role="alert"' in shown["about"] and not shown["actions"].visible


def test_its_settings_and_its_reference_come_back(history, made):
    path = made(seed=9, prompt="at sea", width=48, text_guidance=2.0)
    back = history.reuse({"visit": Visit(shown=path)})
    assert back["image"].tobytes() == provenance.read_reference(path).tobytes()
    assert (back["prompt"], back["seed"], back["width"], back["height"]) == ("at sea", 9, 48, 32)
    assert back["own_image"] == path and back.keys() == history.form.restore({"image": path}).keys()


def test_it_can_be_the_next_reference(history, made):
    path = made()
    back = history.refer({"visit": Visit(shown=path)})
    assert back["image"] == path and not back["restored"].visible and back["original"] is None


def test_it_is_downloaded_as_drawn_or_four_times_larger_with_its_settings(history, made):
    values = {"visit": Visit(shown=made(seed=5))}
    assert history.download(values)["file"] == values["visit"].shown
    steps = history.enlarge(values)
    file = next(steps)["file"]
    with Image.open(values["visit"].shown) as small, Image.open(file) as large:
        wanted = small.convert("RGB").resize((small.width * 4, small.height * 4), Image.Resampling.LANCZOS)
        assert SCALE == 4 and large.convert("RGB").tobytes() == wanted.tobytes()
        assert Path(file).name == "dsd-5-enlarged-4x.png" and large.info["Source"] == provenance.MARK
    assert provenance.read_settings(file) == provenance.read_settings(values["visit"].shown)
    steps.close()


def test_an_upload_that_is_too_large_to_have_been_drawn_here_is_not_enlarged(history, made):
    path = made(seed=1)
    settings, frame = provenance.read_settings(path), provenance.read_reference(path)
    provenance.save(path, Image.new("RGB", (4000, 4000)), settings, frame)
    (said,) = history.enlarge({"visit": Visit(shown=path)})
    assert "got 4000" in said["about"]


def test_its_settings_are_copied_as_words_and_as_a_link(history, made):
    path = made(seed=5, prompt="at sea", fit="pad")
    copied = history.copy({"visit": Visit(shown=path), "address": "https://example.org/"})["copied"]
    prompt, words, link = copied.split("\n")
    assert prompt == "at sea" and words.startswith("Seed 5 · best") and words.endswith(FITS["pad"])
    assert link.startswith("https://example.org/?prompt=at+sea&") and "seed=5" in link
    Path(path).unlink()
    assert GONE in history.copy({"visit": Visit(shown=path), "address": ""})["copy_remark"]


def test_another_has_the_same_settings_and_reference_but_a_new_seed(loaded, made):
    path = made(seed=5, prompt="at sea", steps=2, width=48, quality="draft")
    *_, shown = Generating(loaded).draw_another({"visit": Visit(shown=path)})
    again = shown["images"].value[0]["image"]["path"]
    before, after = (provenance.read_settings(each) for each in (path, again))
    assert before.pop("seed") != after.pop("seed") and after.pop("model") == "tiny"
    before.pop("model")
    assert before == after and after["prompt"] == "at sea"
    Path(path).unlink()
    *_, shown = Generating(loaded).draw_another({"visit": Visit(shown=path)})
    assert GONE in shown["status"]


def test_another_of_an_upload_with_settings_that_the_page_does_not_offer_is_refused(loaded, made):
    path = made(seed=5, steps=1)
    image, frame = Image.open(path), provenance.read_reference(path)
    provenance.save(path, image, provenance.read_settings(path) | {"steps": 150}, frame)
    (shown,) = Generating(loaded).draw_another({"visit": Visit(shown=path)})
    assert "must be a whole number from 1 to 100, got 150" in shown["status"]
