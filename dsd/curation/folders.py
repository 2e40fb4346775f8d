"""Export of a run's pairs as folders of images, in the layouts that other trainers read.

`images/` holds the targets and `control/` the images that they are conditioned on, under the same names. Each
file is written whole or not at all. A config or index follows when all images are there, so that no trainer
starts on a part of them.
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from dsd.curation.dataset import Dataset, digest_of, select_some
from dsd.curation.selection import Choice, Item, Run
from dsd.files import contact_sheet, jsonl, typed, whole
from dsd.files.jsonl import Row, RunError
from dsd.grids import grids
from dsd.model.canvas import MULTIPLE

TARGETS, CONTROL = "images", "control"  # folders
OWN = ".files.json"  # what this module wrote into a folder, and from what
FORMATS = ("ai-toolkit", "simpletuner", "imagefolder")
INDEX = {
    "ai-toolkit": "ai-toolkit.json",
    "simpletuner": "multidatabackend.json",
    "imagefolder": "metadata.jsonl",
}
WRITTEN = re.compile(
    rf"({TARGETS}|{CONTROL})/[\w.-]+\.(png|txt)|" + "|".join(map(re.escape, INDEX.values()))
)  # every path in a folder that a format writes
CONFIGS = ("ai-toolkit", "simpletuner")  # formats whose index is a trainer's config; captions are text files
FILES = (
    f"`{TARGETS}/` holds the target images and `{CONTROL}/` the conditioning images, under the same names; "
    f"sides are cropped to multiples of {MULTIPLE} pixels."
)
RELATIVE = "Start the trainer in this folder: the paths in this file are relative to it."
LAYOUTS = {
    "ai-toolkit": f"{FILES} A caption is a text file beside its target. `ai-toolkit.json` is a config to "
    f"start from: `python AI-TOOLKIT/run.py ai-toolkit.json`. {RELATIVE}",
    "simpletuner": f"{FILES} A caption is a text file beside its target. `multidatabackend.json` is the "
    "dataset config of SimpleTuner (`--data_backend_config`). " + RELATIVE,
    "imagefolder": f"{FILES} `metadata.jsonl` has a line for each pair; "
    '`datasets.load_dataset("imagefolder", data_dir=...)` reads it.',
}


def write_folder(
    run: Run,
    out: Path,
    choice: Choice | None = None,
    *,
    format: str,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """Write a run's dataset to the folder `out` for another trainer; keep files that are up to date.

    An interrupted command that is run again gives the same files. `on_rows` gets the rows done and in total.
    Raise RunError for a run without pairs, an unreadable grid, or a folder with files that are not ours.
    """
    items, new = select_some(run, choice or Choice()), 0
    files = _files(items, format)
    open_panels = lru_cache(maxsize=16)(lambda grid: _open_panels(run, grid))
    with jsonl.writing(out / "README.md"):  # lock the folder against other commands
        _own(out, [*files, INDEX[format]], digest_of(items, format))
        for done, item in enumerate(items, 1):
            new += _write_pair(out, item, open_panels, with_text=format in CONFIGS)
            on_rows(done, len(items))
        side = open_panels(items[0].grid.id)[items[0].target].size
        _write_changed(out / INDEX[format], _index(format, items, side))
    paths, rows = [out / file for file in files], [item.row for item in items]
    return Dataset(out, paths, rows, new, format, (f"{TARGETS}/*", f"{CONTROL}/*", INDEX[format]))


def _files(items: list[Item], format: str) -> list[str]:
    """Return the paths of all images and captions; raise RunError for an id that cannot be a file name."""
    names = [item.row["id"] for item in items]
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name):
            raise RunError(f"the id {name!r} of a row cannot be a file name: restore the rows of its grid")
    kinds = [(TARGETS, "png"), (CONTROL, "png"), *([(TARGETS, "txt")] if format in CONFIGS else [])]
    return [f"{folder}/{name}.{end}" for name in names for folder, end in kinds]


def _own(out: Path, files: list[str], digest: str) -> None:
    """Claim a folder for these files: remove those of another dataset that this module wrote there.

    Raise RunError if the folder holds files that are not of this module.
    """
    table = out / OWN
    if linked := [out / folder for folder in (TARGETS, CONTROL) if (out / folder).is_symlink()]:
        raise _strange(linked[0])  # its files lie elsewhere
    if table.exists():
        of, old = _read_table(table)
        for folder in (TARGETS, CONTROL):
            whole.sweep(out / folder)
        if of == digest:
            return
        for name in old:
            (out / name).unlink(missing_ok=True)
    elif strangers := [path for path in (TARGETS, CONTROL, *INDEX.values()) if (out / path).exists()]:
        raise _strange(out / strangers[0])
    elif shards := list(out.glob("*.parquet")):
        raise _strange(shards[0])
    jsonl.write_atomic(table, json.dumps({"digest": digest, "files": files}).encode())


def _read_table(table: Path) -> tuple[str, list[str]]:
    """Return the digest and the files of the dataset that a folder holds.

    Raise RunError for a table that this module did not write: the files that it names are deleted.
    """
    try:
        content = json.loads(table.read_bytes())
    except (ValueError, RecursionError):
        content = None
    digest, files = map(content.get, ("digest", "files")) if type(content) is dict else (None, None)
    if not (typed.fits(digest, str) and typed.fits(files, list[str]) and all(map(WRITTEN.fullmatch, files))):
        raise _strange(table)
    return digest, files


def _strange(path: Path) -> RunError:
    return RunError(f"{path} was not written by this format: choose another --out, or move it away")


def _open_panels(run: Run, grid: str) -> list[Image.Image]:
    return [crop(panel) for panel in grids.open_panels(run.folder, run.grids[grid])]


def crop(image: Image.Image) -> Image.Image:
    """Cut the center whose sides are multiples of 16 pixels; raise RunError for a smaller image."""
    width, height = (side // MULTIPLE * MULTIPLE for side in image.size)
    if not width or not height:
        size = f"{image.width} x {image.height}"
        raise RunError(
            f"a panel must be at least {MULTIPLE} pixels wide and high, got {size}: draw larger grids"
        )
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _write_pair(
    out: Path, item: Item, open_panels: Callable[[str], list[Image.Image]], *, with_text: bool
) -> int:
    """Write the images of a row, and its caption; return the number of files that were not there."""
    row, grid, conditioning, target = item
    new = 0
    for folder, panel in ((TARGETS, target), (CONTROL, conditioning)):
        path = out / folder / f"{row['id']}.png"
        if not contact_sheet.is_whole(path):
            jsonl.write_atomic(path, contact_sheet.marked_png(open_panels(grid.id)[panel]))
            new += 1
    if with_text:
        new += _write_changed(out / TARGETS / f"{row['id']}.txt", row["caption"].encode())
    return new


def _write_changed(path: Path, content: bytes) -> bool:
    if is_new := not path.exists() or path.read_bytes() != content:
        jsonl.write_atomic(path, content)
    return is_new


# ---------------------------------------------------------------- what the trainers read


def _index(format: str, items: list[Item], size: tuple[int, int]) -> bytes:
    """Return the content of the format's index or config; `size` is of an image, in pixels."""
    if format == "imagefolder":
        return b"".join(jsonl.to_line(_describe(item.row)) for item in items)
    side = round((size[0] * size[1]) ** 0.5)
    config = _ai_toolkit(side) if format == "ai-toolkit" else _simpletuner(side)
    return json.dumps(config, indent=2).encode() + b"\n"


def _describe(row: Row) -> Row:
    """Return a line of metadata.jsonl: `datasets` makes columns `image` and `conditioning` of the files."""
    files = {
        "file_name": f"{TARGETS}/{row['id']}.png",
        "conditioning_file_name": f"{CONTROL}/{row['id']}.png",
    }
    return files | row


def _ai_toolkit(side: int) -> dict[str, Any]:
    """Return a job of ai-toolkit: a LoRA for FLUX.1-Kontext on the pairs.

    The names are those of its example `train_lora_flux_kontext_24gb.yaml`.
    """
    dataset = {"folder_path": TARGETS, "control_path": CONTROL, "caption_ext": "txt"}
    dataset |= {"caption_dropout_rate": 0.05, "cache_latents_to_disk": True, "resolution": [side]}
    train = {"batch_size": 1, "steps": 3000, "gradient_accumulation_steps": 1, "train_unet": True}
    train |= {"train_text_encoder": False, "gradient_checkpointing": True, "noise_scheduler": "flowmatch"}
    train |= {"optimizer": "adamw8bit", "lr": 1e-4, "timestep_type": "weighted", "disable_sampling": True}
    process = {
        "type": "sd_trainer", "training_folder": "output", "device": "cuda:0",
        "network": {"type": "lora", "linear": 16, "linear_alpha": 16},
        "save": {"dtype": "float16", "save_every": 250, "max_step_saves_to_keep": 4},
        "datasets": [dataset], "train": train | {"dtype": "bf16"},
        "model": {
            "name_or_path": "black-forest-labs/FLUX.1-Kontext-dev", "arch": "flux_kontext", "quantize": True
        },
    }  # fmt: skip
    return {"job": "extension", "config": {"name": "dsd_pairs", "process": [process]}}


def _simpletuner(side: int) -> list[dict[str, Any]]:
    """Return SimpleTuner's dataset config: targets, the conditioning images paired to them, and text caches.

    `reference_loose` treats the two images as unaligned, which they are.
    """
    common = {"type": "local", "crop": False, "resolution": side, "resolution_type": "pixel_area"}
    targets = {
        "id": "dsd-targets", "dataset_type": "image", "conditioning_data": ["dsd-control"],
        "instance_data_dir": TARGETS, "caption_strategy": "textfile",
        "cache_dir_vae": "cache/vae/dsd-targets",
    }  # fmt: skip
    control = {
        "id": "dsd-control", "dataset_type": "conditioning", "conditioning_type": "reference_loose",
        "instance_data_dir": CONTROL, "caption_strategy": None,
        "cache_dir_vae": "cache/vae/dsd-control",
    }  # fmt: skip
    texts = {"id": "dsd-texts", "type": "local", "dataset_type": "text_embeds", "default": True}
    return [targets | common, control | common, texts | {"cache_dir": "cache/text/dsd"}]
