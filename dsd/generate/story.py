"""A story about one subject: lines in, a panel for each line, and one comic strip of them out.

A panel is an ordinary image with a seed of its own, so that each can be drawn again without the others. The
words of a strip are drawn with a font of this machine; letters that none of them has become boxes.
"""

import json
import math
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dsd.generate import provenance
from dsd.generate.drawing import Options, Result, options_from
from dsd.vlm import schemas
from dsd.vlm.answers import read_places
from dsd.vlm.base import AGAIN, VLM, Request, VLMError, is_refused

MOST = 8  # lines, and panels
LONGEST = 200  # characters of a line that can stand below a panel
SUFFIXES = (".png", ".pdf")
PANEL = 360  # least width of a panel in the strip, in pixels; smaller ones are enlarged
GAP, BORDER, LETTER = 16, 3, 22  # pixels
INK, PAPER = "#1c1917", "white"
RESOLUTION = 150  # pixels per inch of a PDF
# Pillow's own font has ASCII letters only.
FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf", "NotoSansCJK-Regular.ttc",
    "msyh.ttc",
)  # fmt: skip
USUAL = ("on the beach", "in the forest wearing a red hat")  # for models without example lines
WRITE = (
    'Tell this as a story in {count} pictures of one character: "{sentence}"\n'
    "Give one line for each picture: where the character is and what it does, wears or holds, in at most ten "
    "words, without its name and without its looks, in lines such as: {examples}. Answer with one JSON "
    "object and nothing else, in this form, with a key for each number up to {count}:\n"
    '{{"subject": "...", "1": "...", "2": "..."}}'
)


@dataclass(frozen=True)
class Panel:
    """A panel that was read from its file."""

    image: Image.Image
    frame: Image.Image  # the reference as the model saw it
    settings: dict[str, Any]


def read_panel(image: Image.Image) -> Panel:
    """Return an image that was drawn here as a panel.

    Raise ValueError without its settings, or if it has another size than they say: an image of any size
    would make a strip of any size.
    """
    settings = provenance.read_settings(image)
    options = options_from(settings)
    if image.size != (options.width, options.height):
        raise ValueError(f"a panel of {image.width} x {image.height} pixels was changed: draw it again")
    return Panel(image.convert("RGB"), provenance.read_reference(image), settings)


def read_lines(text: str) -> tuple[str, ...]:
    """Return the lines of a story without empty ones; raise ValueError for none, too many or a long one."""
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not 1 <= len(lines) <= MOST:
        raise ValueError(f"a story needs 1 to {MOST} lines, one for each panel, got {len(lines)}")
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST:
            limit = f"at most {LONGEST} fit below a panel, so use fewer words"
            raise ValueError(f"line {number} of the story has {len(line)} characters: {limit}")
    return lines


def plan(lines: Sequence[str], options: Options) -> list[Options]:
    """Return the options of each panel: its line as the prompt, and the seeds count up from the first."""
    replace(options, count=len(lines))  # raises ValueError if the seed is too high for that
    return [replace(options, prompt=line, seed=options.seed + i, count=1) for i, line in enumerate(lines)]


def write_lines(vlm: VLM, sentence: str, examples: Sequence[str], count: int = 6) -> list[str]:
    """Return the lines of a story that a language model makes of one sentence.

    `examples` are lines that suit the image model. An unreadable answer is asked for once more; raise
    VLMError if the second cannot be read either.
    """
    if not sentence.strip():
        raise ValueError("there is no sentence yet: say in a few words what the story is about")
    told = " ".join(sentence[: 5 * LONGEST].split())
    question = WRITE.format(count=count, sentence=told, examples="; ".join(examples or USUAL))
    for seed in (None, AGAIN):
        (answer,) = vlm.ask_many([Request(question, seed=seed, schema=schemas.places(count))])
        written = None if is_refused(answer) else read_places(answer, count)
        if written:
            return written[1]
    raise VLMError(f"the model wrote no story, but {answer[:100]!r}: write the lines yourself")


# ---------------------------------------------------------------- the strip


def save_strip(path: str | Path, panels: Sequence[Result | Panel]) -> Path:
    """Write the panels as one PNG or PDF file that holds the settings of each and the mark of every image."""
    settings = {"made_by": provenance.MARK, "prompt": "\n".join(map(_caption, panels))}
    settings["panels"] = [panel.settings for panel in panels]
    strip = compose([panel.image for panel in panels], [*map(_caption, panels)])
    if Path(path).suffix.lower() == ".pdf":
        return provenance.save_pdf(path, strip, json.dumps(settings, ensure_ascii=False), RESOLUTION)
    return provenance.save(path, strip, settings, panels[0].frame)


def _caption(panel: Result | Panel) -> str:
    return panel.settings["prompt"]


def compose(images: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Return the images as a comic strip of one or two rows, each in a border above its caption."""
    columns = count_columns(len(images))
    scale = max(1, math.ceil(PANEL / images[0].width))
    width, height = images[0].width * scale, images[0].height * scale
    cells = [_cell(*pair, (width, height)) for pair in zip(images, captions, strict=True)]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    size = columns * (width + GAP) + GAP, sum(heights) + GAP * (len(rows) + 1)
    page, top = Image.new("RGB", size, PAPER), GAP
    for row, tall in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            page.paste(cell, (GAP + column * (width + GAP), top))
        top += tall + GAP
    return page


def count_columns(count: int) -> int:
    """Return in how many columns the panels of a strip stand: in one row up to three, else in two rows."""
    return count if count <= 3 else math.ceil(count / 2)


def _cell(image: Image.Image, caption: str, size: tuple[int, int]) -> Image.Image:
    """Return an image of this size with a border, above its wrapped caption."""
    font = pick_font(caption)
    lines, line_height = wrap(caption, font, size[0]), round(1.4 * LETTER)
    cell = Image.new("RGB", (size[0], size[1] + line_height * len(lines) + LETTER // 2), PAPER)
    cell.paste(image.resize(size, Image.Resampling.LANCZOS))
    pen = ImageDraw.Draw(cell)
    pen.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=INK, width=BORDER)
    for number, line in enumerate(lines):
        pen.text((0, size[1] + LETTER // 2 + number * line_height), line, fill=INK, font=font)
    return cell


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Return the text in lines that are at most `width` pixels long in this font."""
    for letters in range(len(text), 0, -1):
        lines = textwrap.wrap(text, letters)
        if all(font.getlength(line) <= width for line in lines):
            break
    return lines


def pick_font(text: str) -> ImageFont.FreeTypeFont:
    """Return the first font of this machine that has all letters of a text, or the one that lacks fewest."""
    return min(_fonts(), key=lambda font: len(missing_letters(text, font)))


def font_notice(lines: Sequence[str]) -> str | None:
    """Return a notice of the letters that no font of this machine has, or None."""
    missing = "".join(letter for line in lines for letter in missing_letters(line, pick_font(line)))
    boxes = f"No font of this machine has {missing}: the strip shows boxes, the files have the words."
    return boxes if missing else None


def missing_letters(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """Return the letters of a text that a font shows as the box that it has for unknown ones."""
    box = bytes(font.getmask("\uffff"))
    return [letter for letter in dict.fromkeys(text) if bytes(font.getmask(letter)) == box]


@cache
def _fonts() -> list[ImageFont.FreeTypeFont]:
    """Return the fonts of this machine; Pillow searches all font folders for each."""
    fonts = [ImageFont.load_default(size=LETTER)]
    for name in FONTS:
        with suppress(OSError):  # not on this machine
            fonts.append(ImageFont.truetype(name, LETTER))
    return fonts
