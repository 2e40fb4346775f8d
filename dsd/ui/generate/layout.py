"""Layout of the Create tab: every part under the name by which handlers know it."""

from dataclasses import dataclass

import gradio as gr

from dsd.generate.drawing import RANDOM_SEED
from dsd.generate.sheet import SIDE
from dsd.model.sampling import QUALITIES
from dsd.ui import messages
from dsd.ui.events import Parts
from dsd.ui.generate.enhancing import Enhancing
from dsd.ui.generate.form import RANGES, Form
from dsd.ui.generate.history import KEPT, SCALE, Visit, describe
from dsd.ui.generate.reference import NO_BACKGROUNDS, can_remove_background
from dsd.ui.generate.tasks import Choice
from dsd.ui.models import Loaded

FRAME = ["dsd-small-frame", "dsd-frame"]  # classes in style.css
QUALITY = {  # work: model evaluations compared with `best`
    "draft": "Draft: to try things, at most a quarter of the work.",
    "balanced": "Balanced: at most half of the work.",
    "best": "Best: takes its time, for an image to keep.",
}
SLIDERS = {  # field -> step, label, explanation
    "steps": (1, "Steps", "More are slower and a little finer. Each quality brings its own number."),
    "image_guidance": (0.1, "Keep the subject", "Raise it when the subject changes too much. 1 is neutral."),
    "text_guidance": (0.1, "Follow the prompt", "Raise it when the prompt is ignored. 1 is neutral."),
    "guidance": (0.1, "Vividness", "Higher is bolder and more contrasty, lower is softer."),
}
TASKS = "This only changes the suggested words and examples: any prompt works with any choice."
RANK = "Scores how well each keeps the subject and shows the prompt, and puts the best first."
SHEET = (
    f"{SIDE * SIDE} images of one seed: rows below keep the subject more, columns to the right follow the "
    "prompt more. A click on one takes over its two settings."
)
NEW_SEED = f"{RANDOM_SEED} is a new one each time."
HEIGHT = 320  # pixels of the reference and of the result, which stand side by side
FINISHED = "An example, with the reference it was made from. Change the words, or pick another character."
BUTTONS = ["download", "fullscreen"]  # of the result; both are also there while it fills the screen
SMALL = {"size": "sm", "min_width": 110}


@dataclass(frozen=True)
class Finished:
    """An example that is already drawn."""

    image: str
    prompt: str
    path: str  # of the result


def find_finished(choice: Choice) -> Finished | None:
    """Return the example that the page opens with, or None if this model drew none."""
    if row := choice.opening:
        return Finished(str(choice.folder / row["image"]), row["prompt"], str(choice.folder / row["result"]))
    return None


def examples(parts: Parts, choice: Choice) -> None:
    """Add the examples, characters to start from, if a task has any; a click draws one."""
    if choice.has_examples:
        gr.set_static_paths(choice.folder)  # served in place, not copied for every visitor
        title, shown = "<h2>Pick a character, or bring your own</h2>", choice.pictures(choice.first)
        kind = ["dsd-tiles"] if choice.opening and "tile" in choice.opening else []
        parts["heading"] = gr.HTML(title, visible=bool(shown), padding=False, elem_classes="dsd-heading")
        parts["examples"] = gr.Gallery(
            shown, visible=bool(shown), show_label=False, container=False, height="auto", interactive=False,
            allow_preview=False, buttons=[], object_fit="contain", elem_id="examples",
            elem_classes=[*FRAME, *kind],
        )  # fmt: skip


def reference(parts: Parts, first: Finished | None) -> None:
    """Add the upload, with remarks and tools below."""
    parts["image"] = gr.Image(
        first.image if first else None, label="Reference", type="filepath",
        sources=["upload"], format="png", buttons=[], height=HEIGHT, alt_text="The reference",
        elem_id="upload", elem_classes=FRAME,
    )  # fmt: skip
    parts["remarks"] = gr.HTML(elem_id="remarks", visible=False, padding=False)
    tools(parts, first.image if first else None)
    with gr.Group(visible=False, elem_id="restored") as parts["restored"]:
        parts["note"] = gr.HTML(padding=False)
        parts["use_itself"] = gr.Button("Use the image itself instead", size="sm")
    parts["own_image"] = gr.State()
    parts["planned"] = gr.State()  # the seed of an example, for the next run


def tools(parts: Parts, image: str | None, *, prefix: str = "") -> None:
    """Add the tools of a reference, hidden without an image; `prefix` begins the ids of another tab."""
    parts["original"] = gr.State()  # the file as the visitor gave it, if a tool changed it
    look = {"elem_id": f"{prefix}tools", "elem_classes": "dsd-actions"}
    with gr.Row(visible=image is not None, **look) as parts["tools"]:
        parts["crop"] = gr.Button("Crop", elem_id=f"{prefix}crop", **SMALL)
        if can_remove_background():
            parts["background"] = gr.Button("Remove background", elem_id=f"{prefix}background", **SMALL)
        look = {"visible": False, "elem_id": f"{prefix}restore-original", **SMALL}
        parts["restore"] = gr.Button("Undo changes", **look)
        with gr.Row(elem_classes="dsd-seen"):
            gr.HTML("<p>The model sees:</p>", padding=False)
            parts["seen"] = gr.Image(
                image, show_label=False, container=False, interactive=False, format="png", buttons=[],
                height=48, width=48, min_width=48, scale=0, alt_text="What the model sees",
                elem_id=f"{prefix}seen", elem_classes=FRAME,
            )  # fmt: skip
    parts["box"] = gr.Textbox(visible="hidden")  # the browser fills it in


def form(parts: Parts, choice: Choice, first: Finished | None) -> None:
    """Add the choice of a task where there is one, the prompt, the buttons, the cost, and words to insert."""
    parts["link_notice"] = gr.HTML(elem_id="brought", visible=False, padding=False)
    _tasks(parts, choice)
    parts["prompt"] = gr.Textbox(
        first.prompt if first else None, label=choice.first.question, placeholder=choice.first.placeholder,
        lines=1, max_lines=6, elem_id="prompt",
    )  # fmt: skip
    parts["unknown"] = gr.HTML(elem_id="unknown-words", visible=False, padding=False)
    with gr.Row():
        parts["create"] = gr.Button("Create", variant="primary", elem_id="create", scale=3, min_width=120)
        parts["cancel"] = gr.Button("Cancel", interactive=False, elem_id="cancel", scale=1, min_width=90)
    parts["cost"] = gr.HTML(elem_id="cost", padding=False)  # filled in when a page opens
    parts["setting_remark"] = gr.HTML(elem_id="setting-remark", visible=False, padding=False)
    phrases = choice.first.phrases
    parts["chips"] = gr.HTML(messages.chips(phrases), visible=bool(phrases), padding=False, elem_id="chips")


def _tasks(parts: Parts, choice: Choice) -> None:
    """Add the choice of a task; weights that were trained for one have none to show."""
    titles, name = [(task.title, task.name) for task in choice.tasks.values()], choice.first.name
    if len(titles) == 1:
        parts["task"] = gr.State(name)
        return
    parts["task"] = gr.Radio(titles, value=name, label="What would you like?", info=TASKS, elem_id="task")


def more(parts: Parts, loaded: Loaded, form: Form) -> None:
    """Add all other settings, folded."""
    with gr.Accordion("More settings", open=False, elem_id="advanced"):
        _settings(parts, form, can_rank=loaded.ranker is not None)
        _link(parts)
        _sheet(parts)


def description(parts: Parts, enhancing: Enhancing) -> None:
    """Add the box that suggests a prompt, folded."""
    with gr.Accordion("Describe my image for me", open=False, elem_id="describe"):
        gr.HTML(enhancing.about(), padding=False)
        able = enhancing.trouble is None
        parts["describe"] = gr.Button("Describe it", size="sm", visible=able, elem_id="describe-it")
        parts["describe_remark"] = gr.HTML(padding=False, elem_id="describe-remark")
        text = {"label": "Suggested prompt", "lines": 2, "max_lines": 6}
        parts["suggestion"] = gr.Textbox(visible=False, elem_id="suggestion", **text)
        use = {"size": "sm", "elem_id": "use-suggestion"}
        parts["use_suggestion"] = gr.Button("Use this as my prompt", visible=False, **use)


def _settings(parts: Parts, form: Form, can_rank: bool) -> None:
    default = form.defaults()
    parts["count"] = gr.Slider(*RANGES["count"], 1, step=1, label="Number of images", elem_id="count")
    parts["rank"] = gr.Checkbox(False, label="Rank them", info=RANK, visible=can_rank, elem_id="rank")
    parts["aspect"] = gr.Radio(
        list(form.sizes), value=default["aspect"], label="Shape of the image", visible=len(form.sizes) > 1,
        elem_id="aspect",
    )  # fmt: skip
    for name in ("width", "height"):  # set by the shape, by a link or by a program
        parts[name] = gr.Number(default[name], label=name.capitalize(), visible="hidden")
    choices = [(QUALITY[name], name) for name in QUALITIES]
    parts["quality"] = gr.Radio(choices, value=default["quality"], label="Quality", elem_id="quality")
    for name, (step, label, info) in SLIDERS.items():
        if name == "guidance" and not form.has_guidance:
            parts[name] = gr.State(None)  # cannot be set, neither here nor by a program
            continue
        parts[name] = gr.Slider(*RANGES[name], default[name], step=step, label=label, info=info, elem_id=name)
    seed(parts, f"{NEW_SEED} The same seed and settings give the same image.", elem_id="seed")
    fits = [("Crop to fill", "crop"), ("Keep all, add white", "pad")]
    parts["fit"] = gr.Radio(fits, value=default["fit"], label="Fitting your image")
    if not can_remove_background():
        gr.HTML(messages.quiet(f"{NO_BACKGROUNDS}."), padding=False)
    parts["reset"] = gr.Button("Reset settings", elem_id="reset", size="sm")


def _sheet(parts: Parts) -> None:
    """Add the guidance sheet, with a Cancel and a status of its own, because it stands below the result."""
    with gr.Column(elem_id="sheet"):
        gr.HTML(f"<h2>Guidance sheet</h2>{messages.quiet(SHEET)}", padding=False, elem_classes="dsd-heading")
        with gr.Row(elem_classes="dsd-actions"):
            parts["draw_sheet"] = gr.Button("Draw the sheet", elem_id="draw-sheet", **SMALL)
            parts["cancel_sheet"] = gr.Button("Cancel", interactive=False, elem_id="cancel-sheet", **SMALL)
            parts["sheet_cost"] = gr.HTML(elem_id="sheet-cost", padding=False)
        parts["sheet_status"] = gr.HTML(elem_id="sheet-status", padding=False)
        parts["sheet"] = gr.Gallery(
            show_label=False, container=False, visible=False, columns=SIDE, height="auto", interactive=False,
            allow_preview=False, buttons=[], object_fit="contain", format="png", type="filepath",
            elem_id="sheet-images", elem_classes=FRAME,
        )  # fmt: skip


def seed(parts: Parts, info: str, *, elem_id: str) -> None:
    """Add the seed of a tab, at first the one that means a new seed each time."""
    # Not None, because gradio turns an empty number into 0 when the accordion is opened.
    parts["seed"] = gr.Number(RANDOM_SEED, label="Seed", placeholder="random", info=info, elem_id=elem_id)


def _link(parts: Parts) -> None:
    parts["make_link"] = gr.Button("Copy link", size="sm", elem_id="link-make")
    parts["link"] = gr.Textbox(
        label="Link", info="It carries the prompt and these settings, never your image.", lines=1,
        max_lines=1, interactive=False, buttons=["copy"], visible=False, elem_id="link",
    )  # fmt: skip
    parts["link_remark"] = gr.HTML(elem_id="link-remark", padding=False)
    parts["address"] = gr.Textbox(visible=False)  # of the page: the browser fills it in


def results(parts: Parts, first: Finished | None) -> None:
    """Add the images, the caption of the shown one, and what can be done with it."""
    parts["visit"] = gr.State(Visit(shown=first.path if first else None))
    parts["images"] = gr.Gallery(
        [(first.path, first.prompt)] if first else [], selected_index=0 if first else None, label="Result",
        type="filepath", buttons=BUTTONS, columns=2, format="png", interactive=False,
        object_fit="contain", height=HEIGHT, elem_id="images", elem_classes=FRAME,
    )  # fmt: skip
    status = messages.idle(FINISHED if first else "Your images will appear here.")
    parts["status"] = gr.HTML(status, elem_id="status", padding=False)
    parts["about"] = gr.HTML(
        describe(first.path, with_reference=True) if first else "", elem_id="about", padding=False
    )
    with gr.Row(visible=first is not None, elem_id="actions", elem_classes="dsd-actions") as parts["actions"]:
        parts["another"] = gr.Button("Draw another", elem_id="another", **SMALL)
        parts["refer"] = gr.Button("Use as reference", elem_id="refer", **SMALL)
        parts["download"] = gr.Button("Download", elem_id="download", **SMALL)
        label = f"Download {SCALE}\u00d7 larger (Lanczos)"  # named, because it adds no detail
        parts["enlarge"] = gr.Button(label, elem_id="enlarge", **SMALL)
        parts["copy"] = gr.Button("Copy settings", elem_id="copy", **SMALL)
        parts["reuse"] = gr.Button("Use these settings", elem_id="reuse", **SMALL)
    parts["copy_remark"] = gr.HTML(elem_id="copy-remark", padding=False)
    parts["copied"] = gr.Textbox(visible="hidden")
    parts["file"] = gr.File(visible="hidden")


def history(parts: Parts) -> None:
    """Add all images of this visit, hidden until there is one; a click shows one again."""
    with gr.Column(visible=False, elem_id="history") as parts["history"]:
        line = f"Only you see them, until you close or reload this page. The newest {KEPT} are kept."
        title = f"<h2>Your images of this visit</h2>{messages.quiet(line)}"
        gr.HTML(title, padding=False, elem_id="history-title", elem_classes="dsd-heading")
        parts["strip"] = gr.Gallery(
            show_label=False, container=False, height="auto", interactive=False, allow_preview=False,
            buttons=[], object_fit="contain", format="png", elem_id="history-strip", elem_classes=FRAME,
        )  # fmt: skip
