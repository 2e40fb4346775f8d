"""The panels of a strip: files in a gallery, each with its own settings, and the strip of them as files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from dsd.generate import provenance, story
from dsd.generate.drawing import Progress
from dsd.ui import uploads
from dsd.ui.events import Update
from dsd.ui.generate.handlers import explain_zero, report, save_once
from dsd.ui.generate.history import GONE, caption
from dsd.ui.messages import notice, problem, sentence, show, status, step_status

FILES = tuple(suffix.removeprefix(".") for suffix in story.SUFFIXES)  # of the strip


def pick(items: list[dict[str, Any]] | None, index: int, replaced: dict[int, str]) -> Update:
    """Return the words of a panel, to be changed, and the buttons that draw it again and download it.

    `replaced` holds the files, by their place, of the panels that were drawn again.
    """
    paths = finished(items)
    if not 0 <= index < len(paths):
        return {"again": gr.Column(visible=False), "picked": None}
    line = gr.Textbox(caption(paths[index]), label=f"Panel {index + 1}")
    shown = {"again": gr.Column(visible=True), "picked": index, "line": line, "line_remark": show()}
    return shown | {
        "panel": gr.DownloadButton(value=paths[index]),
        "back": gr.Button(visible=index in replaced),
    }


def exchange(paths: Sequence[str], index: int, path: str, replaced: dict[int, str]) -> Update:
    """Return the strip with another file as one of its panels, and keep the one before."""
    panels = gallery([*paths[:index], path, *paths[index + 1 :]])
    kept = {"replaced": replaced | {index: paths[index]}, "back": gr.Button(visible=True)}
    return {"panels": panels, "panel": gr.DownloadButton(value=path), **kept}


def bring_back(values: Update) -> Iterator[Update]:
    """Swap the picked panel with the one before it was drawn again; another click swaps them back."""
    paths, index, replaced = finished(values["panels"]), values["picked"], values["replaced"]
    if index not in replaced or index >= len(paths):
        yield {}
    elif not Path(path := replaced[index]).is_file():
        yield {"line_remark": show(problem(sentence(GONE)))}
    else:
        line = f"Panel {index + 1} is swapped. Its seed is {provenance.read_settings(path)['seed']}."
        swapped = exchange(paths, index, path, replaced) | {"line": caption(path), "status": status(line)}
        yield from _with_files(swapped, [*paths[:index], path, *paths[index + 1 :]])


def finished(items: list[dict[str, Any]] | None) -> list[str]:
    """Return the files of a gallery that were drawn to the end: previews carry no settings."""
    paths = [item["image"]["path"] for item in (items or [])[: story.MOST] if item["image"]]
    return [path for path in paths if provenance.carries_settings(path)]


def gallery(paths: Sequence[str], previews: Sequence[str] = (), *, count: int = 0) -> gr.Gallery:
    """Return a gallery of panels, with numbered captions, and of previews, in the columns of the strip.

    `count` is the number of panels that there will be.
    """
    columns = story.count_columns(count or max(1, len(paths)))
    captions = [(path, f"{number}. {caption(path)}") for number, path in enumerate(paths, 1)]
    drafts = [(path, "preview") for path in previews]
    return gr.Gallery([*captions, *drafts], columns=columns, selected_index=None)


def save(progress: Progress, folder: Path) -> list[str]:
    """Save the finished panels, each once, and return the files."""
    files = [folder / f"panel-{n}-{result.seed}.png" for n, result in enumerate(progress.results, 1)]
    return save_once(progress.results, files)


def begin() -> Update:
    """Return the status of a run that begins, without old messages and files that are about to change."""
    hidden = {kind: gr.DownloadButton(visible=False) for kind in FILES}
    return {"status": status("Starting", 0.0), "setting_remark": show(), "line_remark": show(), **hidden}


def watch(steps: Iterator[Progress], count: int, folder: Path) -> Iterator[Update]:
    """Yield what to show at every step; finished panels stay if ZeroGPU's time ends before the others."""
    paths: list[str] = []
    shown: Update = {}
    try:
        for progress in steps:
            if len(progress.results) > len(paths) or progress.previews:
                paths = save(progress, folder)
                drafts = [uploads.preview(image, folder) for image in progress.previews or []]
                # Sent again with every update: gradio's page can lose a file that the next one leaves out.
                shown = {"panels": gallery(paths, drafts, count=count)}
            yield shown | {"status": _line(progress, count)}
    except Exception as error:
        if not paths:
            raise
        line = f"{len(paths)} of {count} panels are drawn. {explain_zero(error)}"
        yield shown | {"status": problem(line)}


def _line(progress: Progress, count: int) -> str:
    seeds = [result.seed for result in progress.results]
    if len(seeds) < count:
        return step_status(progress.step, progress.total, progress.seconds_left)
    last = f"{count} panels, seeds {seeds[0]} to {seeds[-1]}" if count > 1 else f"seed {seeds[0]}"
    return status(f"Done, {last}. Click a panel to draw it again.")


def finish(values: Update) -> Iterator[Update]:
    """Yield the finished panels alone, without previews of a canceled one, and the strip as files.

    If there are none, the panels of the strip before are shown again.
    """
    items = values["panels"] or []
    paths = finished(items) or [path for path in values["kept"] if Path(path).is_file()]
    yield from _with_files({} if len(items) == len(finished(items)) else {"panels": gallery(paths)}, paths)


def _with_files(update: Update, paths: Sequence[str]) -> Iterator[Update]:
    """Yield an update of the panels together with the strip of these files."""
    update |= {"kept": tuple(paths)}
    if not paths:
        yield update
        return
    try:
        panels = [story.read_panel(uploads.open_upload(path, GONE)) for path in paths]
        with uploads.workplace() as folder:
            yield update | _strip(panels, folder) | {"font_remark": _about_font(panels)}
    except Exception as error:  # the page must always get an answer
        yield update | report(error)


def _strip(panels: Sequence[story.Panel], folder: str | Path) -> Update:
    """Save the strip as files, and return the buttons that download them."""
    name = Path(folder, f"story-{panels[0].settings.get('seed')}")
    files = {kind: story.save_strip(f"{name}.{kind}", panels) for kind in FILES}
    return {kind: gr.DownloadButton(value=str(file), visible=True) for kind, file in files.items()}


def _about_font(panels: Sequence[story.Panel]) -> gr.HTML:
    missing = story.font_notice([panel.settings["prompt"] for panel in panels])
    return show(notice(missing)) if missing else show()
