"""Images of a folder, by the names that its rows give."""

import pytest
from PIL import Image

from dsd.files import contact_sheet


def test_a_name_that_leads_out_of_the_folder_opens_nothing(tmp_path):
    inside = tmp_path / "images"
    inside.mkdir()
    image = Image.new("RGB", (8, 8), "red")
    for folder in (inside, tmp_path):
        (folder / "a.png").write_bytes(contact_sheet.png(image))
    (inside / "link.png").symlink_to(tmp_path / "a.png")
    assert contact_sheet.read_png_in(inside, "a.png") == image
    for name in ("../a.png", str(tmp_path / "a.png"), "link.png"):
        with pytest.raises(ValueError, match=r"is not in .*images: delete the row"):
            contact_sheet.read_png_in(inside, name)
