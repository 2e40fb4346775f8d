"""The Results view of the Curate tab: curves, scores, samples, and curation before and after."""

from collections.abc import Sequence

import gradio as gr
import pandas as pd

from dsd.curation.judge import Pair, read_pairs
from dsd.curation.report import interval, percent
from dsd.files.jsonl import Row
from dsd.training.curves import Series
from dsd.ui.curate import figures
from dsd.ui.events import AT_ONCE, Parts, Update
from dsd.ui.messages import explain, problem, quiet
from dsd.ui.models import Wheel

SAMPLE = "These are the figures of the small model whose grids are shown here."
OWN = (
    "These are the figures in the folder of your run, in its subfolders, and in student and scores beside it."
)
MISSING = {
    "worth": "It is not known how many pairs are right: python -m train.curate RUN --worth measures it, for "
    "runs of the drawn world.",
    "loss": "There is no curves.jsonl: python -m train.train writes it while it trains.",
    "scores": "There are no scores: python -m train.train measures them unless --validate none is given.",
    "lines": "There are no scores in curves.jsonl: python -m train.train writes them at every validation.",
    "samples": "There are no sample sheets: python -m train.train draws them at every validation.",
}
OUTDATED = "The run has changed since it was measured: run python -m train.curate RUN --worth again."
WORTH_ABOUT = (
    "A pair is right if both images truly show one subject, read by a scorer that the judge does not know."
)
SCORE_COLUMNS = ("measure", "score", "95 % interval", "by chance", "true images")
WORTH = {"of all pairs": "before curation", "of the kept": "after curation"}
CAPTIONS = {
    "student": "The model that learned from kept pairs: reference, its image, the teacher's, a true image",
    "teacher_grids": "Grids by the teacher, from which pairs are cut",
    "teacher_singles": "Single images by the teacher",
}
FLUSH = {"padding": False, "elem_classes": "dsd-flush"}
LINES = ("identity", "following", "product", "clip_i")


def build(wheel: Wheel, tab: gr.Tab) -> None:
    """Add the view to the page that is being built; the files are read when a visitor opens it."""
    parts = _layout("" if wheel.run is None else OWN if wheel.own else SAMPLE)

    def show() -> Update:
        return show_results(wheel)

    tab.select(**parts.call(show, [], list(parts)), **AT_ONCE)


def _layout(about: str) -> Parts:
    parts = Parts()
    gr.HTML(quiet(about), **FLUSH)
    parts["worth"] = gr.HTML(elem_id="results-worth", **FLUSH)
    parts["scores"] = gr.HTML(elem_id="results-scores", **FLUSH)
    parts["tables"] = gr.Markdown(visible=False)
    with gr.Row(elem_classes="dsd-columns"):
        for name, y, color in (("loss", "loss", None), ("lines", "score", "measure")):
            with gr.Column(min_width=260):
                parts[f"{name}_about"] = gr.HTML(**FLUSH)
                parts[name] = gr.LinePlot(
                    x="step", y="value", y_title=y, color=color, height=260, visible=False, buttons=[],
                    elem_id=f"results-{name}",
                )  # fmt: skip
    parts["samples_about"] = gr.HTML(**FLUSH)
    parts["samples"] = gr.Gallery(
        format="png", columns=3, height="auto", object_fit="contain", interactive=False, show_label=False,
        buttons=["fullscreen"], visible=False, elem_id="results-samples", elem_classes="dsd-frame",
    )  # fmt: skip
    return parts


def show_results(wheel: Wheel) -> Update:
    """Return all figures of the run, and a sentence in the place of each that is missing."""
    try:
        found = figures.find(wheel.run, own=wheel.own)
        pairs = read_pairs(wheel.run) if found.worth else []
    except Exception as error:  # the page must always get an answer
        return {"worth": problem(explain(error))}
    samples = [(str(path), CAPTIONS.get(path.stem, path.stem)) for path in found.samples]
    return {
        "worth": section("How many kept pairs are right", "worth", _worth(found.worth, pairs)),
        "scores": section("What the model learned", "scores", _scores(found.scores)),
        "tables": gr.Markdown(found.tables, visible=found.tables is not None),
        **_plot("loss", "Loss while it trained", _frame(found.curves, ("loss",))),
        **_plot("lines", "Scores while it trained", _frame(found.curves, LINES)),
        "samples_about": section("Samples", "samples", "" if samples else None),
        "samples": gr.Gallery(samples, visible=bool(samples)),
    }


def section(title: str, name: str, content: str | None) -> str:
    """Return a heading and its content, or why there is none."""
    return (
        f'<div class="dsd-facts"><h2>{title}</h2>{quiet(MISSING[name]) if content is None else content}</div>'
    )


def _worth(worth: Row | None, pairs: Sequence[Pair]) -> str | None:
    """Return the share of pairs that truly show one subject, before and after curation, as bars."""
    if worth is None:
        return None
    bars = "".join(_bar(when, worth["true_pairs"][group]) for group, when in WORTH.items())
    outdated = "" if figures.is_current(worth, pairs) else problem(OUTDATED)
    return f'{quiet(WORTH_ABOUT)}<ul class="dsd-reasons-why">{bars}</ul>{outdated}'


def _bar(when: str, one: Row) -> str:
    return (
        f"<li><span>{when}: {one['pairs']:,} pairs, 95 % interval {interval(one)}</span>"
        f'<b>{percent(one["share"])}</b><div class="dsd-bar">'
        f'<span class="dsd-kept" style="width:{one["share"] or 0:.1%}"></span></div></li>'
    )


def _scores(scores: Row | None) -> str | None:
    """Return the scores of the last validation as a table with intervals, chance level and ceiling."""
    if scores is None:
        return None
    heads = "".join(f'<th scope="col">{head}</th>' for head in SCORE_COLUMNS)
    rows = "".join(_score(name, scores) for name in figures.MEASURES if name in scores)
    about = quiet(f"On subjects that it never saw in training, after {scores['step']:,} steps.")
    return (
        f'{about}<div class="dsd-scroll" tabindex="0" role="region" aria-label="Table of scores">'
        f'<table class="dsd-traits"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _score(name: str, scores: Row) -> str:
    low, high, chance, ceiling = (scores.get(f"{name}_{level}") for level in figures.LEVELS)
    known = low is not None and high is not None
    cells = (_number(scores[name]), f"{_number(low)} to {_number(high)}" if known else "none")
    cells = "".join(f"<td>{cell}</td>" for cell in (*cells, _number(chance), _number(ceiling)))
    return f'<tr><th scope="row"><b>{name}</b>: {figures.MEASURES[name]}</th>{cells}</tr>'


def _number(value: float | None) -> str:
    return "none" if value is None else f"{round(value, 2) + 0.0:.2f}"  # not -0.00


def _frame(curves: Series, names: Sequence[str]) -> pd.DataFrame:
    """Return columns `step`, `measure` and `value`, with a row for each point."""
    points = [
        {"step": int(step), "measure": name, "value": float(value)}
        for name in names
        if name in curves
        for step, value in zip(*curves[name], strict=True)
    ]
    return pd.DataFrame(points, columns=["step", "measure", "value"])


def _plot(name: str, title: str, points: pd.DataFrame) -> Update:
    shown = len(points) > 0
    return {
        f"{name}_about": section(title, name, "" if shown else None),
        name: gr.LinePlot(points, visible=shown),
    }
