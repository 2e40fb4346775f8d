"""Hundreds of bad and odd uploads: each is seen as an image, or answered with one sentence of our own."""

import sys
import threading
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from dsd.files import intake, rgb
from dsd.generate import drawing, provenance
from dsd.model import canvas
from dsd.ui.generate.handlers import Generating
from dsd.ui.generate.reference import References
from dsd.ui.models import Loaded
from tests import tiny, uploads
from tests.markup import Reading

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # damaged metadata is the point here
UNFORESEEN = "Something went wrong"
UNREADABLE = {"TIFF YCbCr"}  # Pillow itself cannot read what it has written there
BOUND = 700  # MB that one accepted upload may take while it is read; decoded, 49 megapixels are 200


@pytest.fixture(scope="module")
def work() -> Generating:
    return Generating(Loaded(pipe=tiny.pipeline(guidance_embeds=False), name="tiny"))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The corpus on disk, each file in a folder of its own, as gradio keeps uploads."""
    folder, found = tmp_path_factory.mktemp("uploads"), {}
    for number, (name, (extension, data)) in enumerate(uploads.corpus().items()):
        (folder / str(number)).mkdir()
        found[name] = folder / str(number) / f"upload{extension}"
        found[name].write_bytes(data)
    return found


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What the page would show in its corner."""
    texts = []
    monkeypatch.setattr(gr, "Warning", lambda text, **_: texts.append(text))
    return texts


def faults(said: str, folder: Path) -> list[str]:
    """What is wrong with something that a visitor is told."""
    read = Reading(said)
    wrong = {
        "unforeseen": UNFORESEEN in read.text,
        "markup": bool(read.strange),
        "a trace": "Traceback" in read.text or 'File "' in read.text,
        "a path": str(folder) in read.text,
        "lines": "\n" in read.text.strip(),
        "long": len(read.text) > 600,
    }
    return [fault for fault, found in wrong.items() if found]


def test_the_corpus_has_every_kind_of_trouble(files):
    assert len(files) >= 200
    for kind in intake.FORMATS:
        assert f"{kind} RGB" in files and any(name.startswith(f"{kind} cut at") for name in files)


def test_what_pillow_writes_in_a_format_that_is_accepted_is_accepted(files):
    kinds = [name for name in files if name.split()[0] in intake.FORMATS and name.split()[1] in uploads.MODES]
    assert len(kinds) > 30
    for name in set(kinds) - UNREADABLE:
        frame = canvas.fit(intake.open_image(files[name]), 32, 32)
        faithful = name.split()[1] in (
            "L",
            "LA",
            "P",
            "RGB",
            "RGBA",
        )  # other modes may come out white
        assert len(frame.getcolors(1024)) > (2 if faithful else 0), name


def test_the_page_sees_each_upload_or_says_in_a_sentence_why_not(work, files, said):
    found, seen, tools = {}, 0, References(work.loaded, work.form)
    for name, path in files.items():
        shown = tools.see({"image": str(path), "width": 32, "height": 32, "fit": "crop"})
        frame, remarks = shown["seen"], shown["remarks"]
        seen += frame is not None
        assert frame is not None or remarks.value, name
        found[name] = faults(remarks.value or "", path.parent)
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
    assert 100 < seen < len(files) - 100


def test_an_image_of_settings_brings_them_back_or_says_why_not(work, files):
    remarks = {}
    for name, path in files.items():
        back = work.form.restore({"image": str(path)})
        assert "restored" in back, name
        if "remarks" in back:
            remarks[name] = faults(back["remarks"].value, path.parent)
    assert remarks and not any(remarks.values())


def test_the_library_refuses_with_value_errors_only(files):
    readers = (intake.open_image, provenance.carries_settings, provenance.read_reference)
    for path in files.values():
        for read in (*readers, lambda path: drawing.options_from(provenance.read_settings(path))):
            try:
                read(path)
            except ValueError as error:
                assert "\n" not in str(error)


def test_a_remark_on_a_damaged_animation_leaves_its_first_frame_alone(files):
    for name, path in files.items():
        if "moving" in name:
            try:
                image = intake.open_image(path)
                before = canvas.fit(image, 32, 32).tobytes()
            except ValueError:
                continue
            intake.image_notice(image)
            assert canvas.fit(image, 32, 32).tobytes() == before, name


def test_a_name_of_many_odd_letters_is_shown_short_and_on_one_line(tmp_path):
    for name in ("a\nb.png", "\u202egnp.exe", "x" * 200 + ".png", "\x1b[31m.png", "\udce9.png"):
        (tmp_path / name).write_bytes(b"junk")
        with pytest.raises(ValueError) as caught:
            intake.open_image(tmp_path / name)
        said = str(caught.value)
        assert said.encode() and said.isprintable() and len(said) < 200


def test_deep_greys_may_hold_no_number_at_all():
    values = [[float("nan"), 0.0, 0.5, 1.0]] * 20
    grey = rgb.to_rgb(Image.fromarray(np.array(values, dtype=np.float32)))
    assert [grey.getpixel((x, 0))[0] for x in range(4)] == [0, 0, 128, 255]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("depth", [8, 16])
def test_the_largest_image_takes_bounded_memory(tmp_path, depth):
    path = tmp_path / "large.png"
    path.write_bytes(uploads.black_png(7_000, 7_000, depth=depth))
    assert peak(lambda: canvas.fit(intake.open_image(path), 32, 32)) < BOUND


def peak(work) -> float:
    """The most resident memory in MB, above what there was, while `work()` runs."""
    page, most, running = 4096 / 1e6, [resident()], threading.Event()

    def watch() -> None:
        while not running.wait(0.005):
            most.append(resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    running.set()
    watcher.join()
    return (max(most) - most[0]) * page


def resident() -> int:
    """Pages."""
    return int(Path("/proc/self/statm").read_text().split()[1])
