"""Convert the form's fields to options, and the settings of an image or a link back to fields.

Images and links are untrusted: a value that the page does not offer raises an error with value and range.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from dsd.doctor import space
from dsd.generate import drawing, provenance
from dsd.generate.drawing import Options
from dsd.model import checkpoint
from dsd.model.canvas import MULTIPLE
from dsd.model.request import DEFAULT_GUIDANCE, check_number, embedded_guidance
from dsd.model.sampling import QUALITIES, check_whole
from dsd.ui.messages import explain, notice, problem
from dsd.ui.models import Loaded

FIELDS: dict[str, type] = {  # of Options, in the order of links and of the API
    "prompt": str, "count": int, "steps": int, "image_guidance": float, "text_guidance": float,
    "guidance": float, "seed": int, "width": int, "height": int, "fit": str, "quality": str,
}  # fmt: skip
RANGES = {"count": (1, 8), "steps": (1, 100)} | dict.fromkeys(
    ("image_guidance", "text_guidance", "guidance"), (0, 10)
)
PATTERNS = {int: (r"-?\d{1,10}", "a whole number"), float: (r"-?\d{1,4}(\.\d{1,6})?", "a number")}
LONGEST_LINK = 4000  # characters: gradio repeats the query with every event, and many servers refuse 8 kB
NO_PROMPT = "-"  # placeholder for a prompt that is still to be written
LINK_READ = "The settings of this link are loaded. Links never carry an image: add yours and click Create."
RESTORED = (
    "This image was made here. Its settings and its reference image have been restored: Create draws it "
    "again, and without the seed in More settings, a new one."
)
NO_TASK = "The link asks for the choice {}, which this page does not have."
OTHER_MODEL = " It was made by another model, so this one will draw it differently."


class Form:
    def __init__(self, loaded: Loaded) -> None:
        self.pipe = loaded.pipe
        self.has_guidance = checkpoint.has_embedded_guidance(loaded.pipe)
        # Computed here, in the main thread: on ZeroGPU, other threads cannot read the weights.
        self.model_hash = checkpoint.model_hash(loaded.pipe)
        self.ranges = RANGES | dict.fromkeys(("width", "height"), loaded.side_range)
        side = self.pipe.frame_size
        self.tasks = [task.name for task in loaded.tasks]
        self.sizes = {name: _round_size(sides, side) for name, sides in loaded.aspects.items()}

    def defaults(self) -> dict[str, Any]:
        """Return the values of all settings on a fresh page; the prompt is not one of them."""
        width, height = self.pipe.frame
        guidance = DEFAULT_GUIDANCE if self.has_guidance else None
        own = {"width": width, "height": height, "guidance": guidance, **self.pipe.scales}
        fields = self.values(Options(prompt=NO_PROMPT, **own))
        return _without(fields, "prompt") | {"seed": drawing.RANDOM_SEED, "rank": False} | self.aspect(fields)

    def aspect(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the name of the aspect ratio of a width and a height, or None if it is not offered."""
        sizes = {size: name for name, size in self.sizes.items()}
        return {"aspect": sizes.get((values["width"], values["height"]))}

    def options(self, values: Mapping[str, Any]) -> Options:
        """Convert field values to options; raise ValueError for a value that the page does not offer."""
        fields = {name: whole(values[name]) for name in FIELDS if values.get(name) is not None}
        self.check_ranges(fields)
        options = Options(**{"prompt": "", **self.pipe.scales, **fields})
        embedded_guidance(options, self.pipe)
        return options

    def check_ranges(self, fields: Mapping[str, Any]) -> None:
        """Raise ValueError, as the library words it, for a value outside the ranges of the page."""
        for name, (low, high) in self.ranges.items():
            if fields.get(name) is not None:
                check = check_whole if FIELDS[name] is int else check_number
                check(name.replace("_", " "), fields[name], low, high)

    def values(self, options: Options) -> dict[str, Any]:
        """Convert options to field values; raise ValueError for a value that the page does not offer."""
        self.check_ranges({name: getattr(options, name) for name in FIELDS})
        values = {name: getattr(options, name) for name in FIELDS}
        values |= {"steps": options.loop.steps, "quality": _offered_quality(options)}
        if options.guidance is None or not self.has_guidance:
            del values["guidance"]
        return values

    def restore(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of an `image` that was made here, with the reference it was made from."""
        image, hidden = values["image"], {"restored": gr.Group(visible=False)}
        if not image or not provenance.carries_settings(image):
            return hidden
        try:
            settings = provenance.read_settings(image)
            fields = self.values(drawing.options_from(settings))
            frame = provenance.read_reference(image)
        except Exception as error:  # an untrusted file can cause any error
            line = f"The settings of this image were not used. {explain(error)}"
            return hidden | {"remarks": gr.HTML(problem(line), visible=True)}
        note = RESTORED + (OTHER_MODEL if settings.get("model_hash") != self.model_hash else "")
        return {
            **fields, **self.aspect(fields), "count": 1, "image": frame, "own_image": image,
            "restored": gr.Group(visible=True), "note": notice(note),
        }  # fmt: skip

    def read_link(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the fields set by the query of the page's address, or only a message if a value is invalid.

        On a Space, the page is in a frame that receives the query of the surrounding page, and names that
        Spaces adds, such as `__theme`. Unknown names are ignored. A task only changes what is suggested, so
        that a link to one that this page lacks brings its other settings.
        """
        try:
            fields = self._fields(query)
        except Exception as error:  # an untrusted link can cause any error
            line = f"The settings in this link were not used. {explain(error)}"
            return {"link_notice": gr.HTML(problem(line), visible=True)}
        said = [LINK_READ] if fields else []
        if (task := query.get("task", self.tasks[0])) not in self.tasks:
            said.append(NO_TASK.format(_shorten(task)))
        box = {"link_notice": gr.HTML(notice(" ".join(said)), visible=True)}
        return fields | box if said else {}

    def _fields(self, query: Mapping[str, str]) -> dict[str, Any]:
        task = self._task(query)
        link = {name: _parse(name, query[name]) for name in FIELDS if name in query}
        if not link:
            return task
        prompt = link.get("prompt", "").strip()
        own = {**dict(zip(("width", "height"), self.pipe.frame, strict=True)), **self.pipe.scales}
        self.check_ranges(link)
        is_random = link.get("seed") == drawing.RANDOM_SEED
        given = _without(link, "seed") if is_random else link
        fields = self.values(Options(**{**own, **given, "prompt": prompt or NO_PROMPT}))
        fields |= {"seed": drawing.RANDOM_SEED} if is_random else {}
        absent = ([] if prompt else ["prompt"]) + ([] if "seed" in link else ["seed"])
        return _without(fields | self.aspect(fields) | task, *absent)

    def _task(self, query: Mapping[str, str]) -> dict[str, str]:
        """Return the task that a link names, if the page offers it."""
        return {"task": query["task"]} if query.get("task") in self.tasks else {}

    def make_link(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return a link with the fields' values, or a message that says why there is none."""
        try:
            link = self.link(values)
        except Exception as error:  # the page must always get an answer
            return {"link": gr.Textbox("", visible=False), "link_remark": problem(explain(error))}
        return {"link": gr.Textbox(link, visible=True), "link_remark": ""}

    def link(self, values: dict[str, Any]) -> str:
        """Return a link with the fields' values; raise ValueError if it could not be read back.

        On a Space, it leads to the surrounding page, where visitors have their GPU quota.
        """
        return f"{space.page() or values['address']}?{self._query(values)}"

    def _query(self, values: dict[str, Any]) -> str:
        query = {name: _text(values[name]) for name in FIELDS if values[name] is not None}
        if values["seed"] == drawing.RANDOM_SEED:
            del query["seed"]
        if values.get("task") not in (None, self.tasks[0]):  # the first one is what a page opens with
            query["task"] = values["task"]
        self._fields(query)  # raises ValueError for what could not be read back
        text = urlencode(query)
        if len(text) > LONGEST_LINK:
            words = f"a prompt of {len(query['prompt']):,} characters"
            raise ValueError(f"{words} is too long for a link: make it shorter")
        return text


def whole(value: Any) -> Any:
    """Convert whole floats, which sliders and programs may send, to int; return other values unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _round_size(sides: tuple[float, float], frame: int) -> tuple[int, int]:
    """Return width and height in pixels, multiples of what the model can draw."""
    width, height = (max(1, round(side * frame / MULTIPLE)) * MULTIPLE for side in sides)
    return width, height


def _text(value: Any) -> str:
    return str(round(whole(value), 3) if isinstance(value, float) else value).strip()


def _offered_quality(options: Options) -> str:
    """Return the name of the page's quality that draws as these options do, even if it was renamed.

    A quality of an earlier version that draws in another way today is offered by its name.
    """
    loop = options.loop
    for name, quality in QUALITIES.items():
        if replace(quality, name=loop.name, steps=loop.steps) == loop:
            return name
    if loop.name in QUALITIES:
        return loop.name
    raise ValueError(f"quality must be one of {', '.join(QUALITIES)}, got custom {loop.solver} settings")


def _parse(name: str, text: str) -> int | float | str:
    """Return a value from a link; raise ValueError for text that should be a number and is not."""
    kind = FIELDS[name]
    if kind is str:
        return text
    pattern, words = PATTERNS[kind]
    if not re.fullmatch(pattern, text, re.ASCII):
        raise ValueError(f"{name.replace('_', ' ')} must be {words}, got {_shorten(text)}")
    return kind(text)


def _shorten(text: str) -> str:
    """Return a value of a link in quotes, cut if it is long."""
    return f'"{text}"' if len(text) <= 40 else f'"{text[:40]} ..."'
