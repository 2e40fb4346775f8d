"""Uploads lie in a folder of one's own, and what an earlier run has left there goes."""

import os
import tempfile
import time
from pathlib import Path

import pytest

from dsd.ui import uploads

posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes as POSIX has them")


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine's folder for temporary files, new and empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(uploads.VARIABLE, raising=False)
    return tmp_path


def test_gradio_keeps_its_files_where_it_is_told(machine, monkeypatch):
    from gradio.utils import get_upload_folder

    monkeypatch.setenv(uploads.VARIABLE, "")
    folder = uploads.settle()
    assert folder.is_dir() and folder.is_relative_to(machine) and get_upload_folder() == str(folder.resolve())
    assert uploads.settle() == folder, "settling again moves nothing"


def test_a_folder_that_was_named_is_taken_and_nothing_of_it_but_our_own_part_is_swept(machine, monkeypatch):
    named = machine / "named"
    named.mkdir()
    (named / "mine.txt").write_text("keep")
    monkeypatch.setenv(uploads.VARIABLE, str(named))
    monkeypatch.setattr(uploads, "KEPT", -1)
    assert uploads.settle() == named / uploads.NAME and (named / "mine.txt").read_text() == "keep"


@posix
def test_nobody_else_may_look(machine, monkeypatch):
    monkeypatch.setenv(uploads.VARIABLE, "")
    folder = uploads.settle()
    assert uploads._own().stat().st_mode & 0o777 == 0o700 == folder.stat().st_mode & 0o777


@posix
def test_a_folder_that_somebody_else_put_there_is_not_used(machine, monkeypatch):
    own = uploads._own()
    own.rmdir()
    own.symlink_to(machine)
    with pytest.raises(ValueError, match="TMPDIR"):
        uploads.settle()


def test_old_files_go_at_the_start_and_young_ones_stay(machine, monkeypatch):
    monkeypatch.setenv(uploads.VARIABLE, "")
    folder = uploads.settle()
    (folder / "a").mkdir()
    (folder / "a" / "upload.png").write_bytes(b"x")
    (half := Path(uploads.workplace().name)).mkdir(parents=True, exist_ok=True)
    (half / "dsd-7.png").write_bytes(b"half an image")
    uploads.settle()
    assert (folder / "a" / "upload.png").exists() and (half / "dsd-7.png").exists()
    monkeypatch.setattr(uploads, "KEPT", 0.01)
    time.sleep(0.05)
    uploads.settle()
    assert [path for path in machine.rglob("*") if path.is_file()] == []


def test_a_link_is_removed_and_what_it_leads_to_is_not(machine):
    (machine / "elsewhere").mkdir()
    (machine / "elsewhere" / "keep.txt").write_text("keep")
    (place := machine / "place").mkdir()
    (place / "door").symlink_to(machine / "elsewhere")
    uploads.sweep(place, -1)
    assert not (place / "door").is_symlink() and (machine / "elsewhere" / "keep.txt").exists()


def test_images_are_made_outside_of_what_gradio_serves(machine, monkeypatch):
    monkeypatch.setenv(uploads.VARIABLE, "")
    folder = uploads.settle()
    with uploads.workplace() as place:
        assert not Path(place).is_relative_to(folder) and Path(place).is_relative_to(machine)
    assert not Path(place).exists()


def test_an_image_that_is_gone_is_asked_for_again(machine):
    with pytest.raises(ValueError, match="your image is gone") as caught:
        uploads.open_upload(str(machine / "gone.png"))
    assert str(machine) not in str(caught.value)
