"""All repositories of the fake hub, built once in a process."""

import tempfile
from functools import cache
from pathlib import Path

from tests import tiny
from tests.hub import flux, loras, published, teachers
from tests.hub.repository import Repository

DEV, SCHNELL = "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"
STUDENT, DATA = "primecai/dsd_model", "primecai/dsd_data"
STYLE = "someone/flux-style"
SMALL = "someone/small-flux-dev"  # draws at 128 pixels, for commands that draw many images
DINO, CLIP = "facebook/dinov2-base", "openai/clip-vit-base-patch32"
KLEIN, QWEN_IMAGE = "black-forest-labs/FLUX.2-klein-4B", "Qwen/Qwen-Image"
Z_IMAGE, Z_TURBO = "Tongyi-MAI/Z-Image", "Tongyi-MAI/Z-Image-Turbo"
LLAVA, QWEN = "llava-hf/llava-1.5-7b-hf", "Qwen/Qwen2.5-VL-3B-Instruct"
LICENSE = {
    "license": "other",
    "license_name": "flux-1-dev-non-commercial-license",
    "license_link": "LICENSE.md",
}
TOKEN = "hf_reader"  # of an account that has accepted every license

BUILDERS = {
    DEV: flux.build, SCHNELL: lambda folder: flux.build(folder, schnell=True, seed=5),
    SMALL: lambda folder: flux.build(folder, side=128, tokens=32),
    STUDENT: published.build_student, DATA: published.build_pairs, STYLE: loras.build,
    KLEIN: teachers.seeded(teachers.build_klein, 6),
    QWEN_IMAGE: teachers.seeded(teachers.build_qwen_image, 7),
    Z_IMAGE: teachers.seeded(teachers.build_z_image, 8),
    Z_TURBO: teachers.seeded(lambda folder: teachers.build_z_image(folder, shift=3.0), 9),
    DINO: published.build_dino, CLIP: published.build_clip, LLAVA: tiny.vlm, QWEN: tiny.qwen,
}  # fmt: skip
OPTIONS = {
    DEV: {"gated": True, "granted": {TOKEN, "hf_writer"}, "card": LICENSE},
    SCHNELL: {"card": {"license": "apache-2.0"}},
    DATA: {"kind": "datasets"},
}


@cache
def repository(name: str) -> Repository:
    """Return one repository; the caller must not change it, but may change a copy."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, name)
        BUILDERS[name](place)
        return Repository.of_folder(place, name, **OPTIONS.get(name, {}))


def everything() -> list[Repository]:
    return [repository(name) for name in BUILDERS]
