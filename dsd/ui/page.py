"""The whole page: header, tabs, footer, theme, and the settings it is served with."""

import html
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it once, at import

import gradio as gr
from starlette.middleware import Middleware

from dsd.doctor import space
from dsd.model.presets import PRESETS
from dsd.ui import preview, server, sessions, uploads
from dsd.ui.curate import tab as curate_tab
from dsd.ui.gate import Page, close_routes
from dsd.ui.generate import tab as generate_tab
from dsd.ui.grids import tab as grids_tab
from dsd.ui.messages import notice, sentence
from dsd.ui.models import Loaded, Wheel, display_name
from dsd.ui.story import tab as story_tab
from dsd.ui.tools import Tools

TITLE = "Same subject, somewhere new"
ABOUT = (
    "Give it one image of a character or a thing, and say where it should be. It draws the same one there."
)
STYLES = ("style.css", "wheel.css")
HERE = Path(__file__).parent
QUEUE = 20  # waiting visitors before the page says that it is full
# Gradio's default grays and accent have too little contrast: WCAG 2.2 AA requires 4.5 to 1.
LIGHT_AND_DARK = {
    "block_title_background_fill": "transparent",
    "block_title_text_color": "*body_text_color",
    "checkbox_label_background_fill_selected": "*primary_700",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_cancel_background_fill": "#b91c1c",
    "button_cancel_background_fill_hover": "#991b1b",
}
THEME = gr.themes.Soft(
    primary_hue="teal", neutral_hue="stone", radius_size="lg",
    font=["system-ui", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    **LIGHT_AND_DARK,
    **{f"{name}_dark": value for name, value in LIGHT_AND_DARK.items()},
    body_background_fill="*neutral_50", body_text_color_subdued="*neutral_600",
    block_background_fill="white", block_shadow="none",
    block_border_width="1px", block_border_color="*neutral_200",
    block_title_padding="0", block_title_text_weight="600",
    block_label_text_weight="500", block_label_text_color="*body_text_color_subdued",
    block_label_background_fill="*background_fill_primary",
    input_border_width="1px", input_shadow="none",
    input_border_color="*neutral_500", input_border_color_dark="*neutral_500",
    input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_300",
    checkbox_border_color="*neutral_500", checkbox_border_color_dark="*neutral_400",
    button_cancel_text_color="white",
    button_secondary_background_fill_hover_dark="*primary_700",
    link_text_color="*primary_700", link_text_color_dark="*primary_300",
    link_text_color_hover="*primary_800", link_text_color_hover_dark="*primary_200",
    link_text_color_visited="*primary_700", link_text_color_visited_dark="*primary_300",
    color_accent="*primary_700",  # the theme has no variable for the dark accent; style.css sets it
)  # fmt: skip


def build(loaded: Loaded, examples: Path, wheel: Wheel | None = None) -> gr.Blocks:
    """Build the page for one loaded model.

    `examples` is a folder with `examples.json`; `wheel` adds the tabs on where the training pairs come from.
    """
    # Uploads and results are private: the server deletes them after six hours.
    uploads.settle()
    with Page(title=TITLE, delete_cache=(uploads.EVERY, uploads.KEPT), analytics_enabled=False) as page:
        page.public = (examples,)
        gr.HTML(_header(loaded), elem_id="header", padding=False)
        with gr.Tabs():
            with gr.Tab("Create", id="generate"):
                work = generate_tab.build(loaded, examples)
            with gr.Tab("Story", id="story"):
                story_tab.build(loaded, examples, work)
            if wheel is not None:
                with gr.Tab("Grids", id="grids"):
                    grids_tab.build(wheel)
                with gr.Tab("Curate", id="curate") as tab:
                    curate_tab.build(wheel, tab)
        gr.HTML(_footer(loaded), elem_id="footer", padding=False)
    return page.queue(max_size=QUEUE)


def _header(loaded: Loaded) -> str:
    missing = notice(sentence(loaded.missing)) if loaded.missing else ""
    links = {"The paper": loaded.more, "The code": space.code()}
    more = "".join(
        f' <a href="{html.escape(address)}" target="_blank">{name}</a>'
        for name, address in links.items()
        if address
    )
    return f"<h1>{TITLE}</h1><p>{ABOUT} {_model(loaded)}{html.escape(loaded.description)}{more}</p>{missing}"


def _model(loaded: Loaded) -> str:
    """Return the names of a model and of weights of the host's own; others mean nothing to visitors."""
    names = [] if loaded.name in PRESETS else [loaded.name]
    names += [loaded.weights] if loaded.weights else []
    return "".join(f"<b>{html.escape(display_name(name))}:</b> " for name in names)


def _footer(loaded: Loaded) -> str:
    about = f"License of the model and of what it makes: {html.escape(loaded.license)}. "
    return (
        f"<p>All images made here are AI-generated, and their files say so. {about if loaded.license else ''}"
        "Uploads are not kept: they leave the server within six hours.</p>"
    )


def check_mcp() -> None:
    """Raise ValueError if the MCP server cannot start, because `launch(mcp=True)` only prints the failure."""
    from gradio.mcp import GradioMCPServer

    try:
        GradioMCPServer(gr.Blocks(analytics_enabled=False))
    except (ImportError, AttributeError, TypeError) as error:  # not installed, or an incompatible version
        raise ValueError('--mcp needs an extra that is missing here: pip install "gradio[mcp]"') from error


def launch(
    page: gr.Blocks,
    *,
    mcp: bool = False,
    host: str | None = None,
    port: int | None = None,
    allow_host: Sequence[str] = (),
    trust_proxy: Sequence[str] = (),
    time_limit: float | None = None,
    prevent_thread_lock: bool = False,
    **options: Any,
) -> Any:
    """Serve the page without recording anything about visitors or fetching anything from other servers.

    `mcp` also offers `/generate` as a tool to language models. Anyone who can reach the address can use it,
    because the login does not protect it. Raise ValueError if the address cannot be used.
    """
    if host:
        _check_host(host)
    # The MCP server saves inline images in a folder that gradio chose when it was imported, and has no option
    # for another one. `dsd.ui.gate` accepts only files of the upload folder, which is swept.
    gr.mcp.DEFAULT_TEMP_DIR, gr.mcp.GradioMCPServer = str(uploads.settle()), Tools
    uploads.keep_sweeping()
    settings = server.make(allow_host, host=host, proxies=trust_proxy)
    page._queue.time_limit, page._queue.by_address = time_limit, settings.trusts_proxy
    around = [Middleware(server.guard, server=settings), Middleware(close_routes)]
    around += [Middleware(preview.serve, title=TITLE, about=ABOUT)]
    try:
        served = page.launch(
            theme=THEME, css_paths=[HERE / name for name in STYLES],
            js=(HERE / "script.js").read_text(encoding="utf-8"), footer_links=["api"],
            run_history=False, enable_monitoring=False, ssr_mode=False, pwa=False,
            mcp_server=mcp,  # always set: a gradio environment variable could enable it without the login
            max_file_size="30mb", state_session_capacity=sessions.CAPACITY,
            server_name=host, server_port=port, prevent_thread_lock=True,
            app_kwargs={"middleware": around, "exception_handlers": server.REFUSALS},
            **{"quiet": True, **options},  # gradio would advise `share=True`, an argument of Python
        )  # fmt: skip
    except (OSError, OverflowError) as error:  # OverflowError: not a port number
        place = "no free port was found" if port is None else f"port {port} cannot be used"
        remedy = "pass a free one as --port" if port is None else "pass another --port, or leave it out"
        raise ValueError(f"{place}{f' at {host}' if host else ''}: {remedy}") from error
    if page.share_url and settings.hosts is not None:
        settings.hosts.add(server.host_name(page.share_url))
    if not prevent_thread_lock:
        addresses = " and ".join(filter(None, (page.local_url, page.share_url)))
        print(f"Running on {addresses} (Ctrl-C stops it)", flush=True)
        server.run_until_stopped(page, settings)
    return served


def _check_host(host: str) -> None:
    """Raise ValueError unless the app can be served at this host; gradio would first try a hundred ports."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError as error:
        remedy = "leave out --host, or pass --host 0.0.0.0"
        raise ValueError(f"{host} is not an address of this machine ({error}): {remedy}") from error
