"""Serve the app: `python app.py` uses the embedded models, `python app.py --model flux-dev` the large one.

Slow modules are imported inside the functions, so that `--help` and mistyped flags respond at once.
"""

import gc

if __name__ == "__main__":
    # Garbage collection among modules that stay loaded took a fifth of the startup time; `main` enables it
    # again once they are loaded.
    gc.disable()

import argparse
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsd.doctor import space
from dsd.files.errors import LoadError, escape_output
from dsd.generate import command, flags
from dsd.model import presets
from dsd.model.presets import PRESETS, TEACHERS, family_of

if TYPE_CHECKING:
    from dsd.ui.models import Loaded, Wheel

ROOT = Path(__file__).resolve().parent
DEFAULT = presets.DEFAULT.name
AUTH, COMPILE, ALLOW = "DSD_AUTH", "DSD_COMPILE", "DSD_ALLOW_HOST"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = flags.Parser(prog="app.py", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    model, compiled = os.environ.get(space.MODEL) or DEFAULT, os.environ.get(COMPILE, "").lower()
    names = f"{', '.join(PRESETS)}, a folder or a hub id"
    add("--model", default=model, help=f"{names}; on a Space, set the variable {space.MODEL}")
    flags.add_loading_flags(parser)
    text = f"compile the model for the GPU: slower start, faster images; on a Space, set {COMPILE}=1"
    add("--compile", action="store_true", default=compiled in ("1", "t", "true"), help=text)
    text = f"model of the Grids tab, opened at first use ({DEFAULT}); FLUX.1: 34 GB, less with --quantize"
    add("--teacher", default=DEFAULT, choices=TEACHERS, help=text)
    flags.add_judge_flags(parser)
    add("--run", type=Path, help="folder of a judged run for the Curate tab (a small sample)")
    add("--host", help="address to serve on; 0.0.0.0 for the whole network")
    add("--port", type=int, help="port to serve on (the first free one from 7860)")
    text = f"name by which browsers may reach the app, or site that may call it; repeatable ({ALLOW})"
    allowed = os.environ.get(ALLOW, "").split()
    add("--allow-host", metavar="HOST", action="append", default=allowed, help=text)
    text = "address of a reverse proxy that tells visitors' addresses, which limits each of them; repeatable"
    add("--trust-proxy", metavar="ADDRESS", action="append", default=[], help=text)
    add("--root-path", metavar="PATH", help="path of the app behind a reverse proxy, such as /dsd")
    add("--time-limit", type=float, metavar="SECONDS", help="end requests that take longer (no limit)")
    add("--log-requests", action="store_true", help="write a JSON line for each request, without contents")
    add("--share", action="store_true", help="create a public link through gradio's servers")
    text = f"ask visitors for these; the variable {AUTH} hides them from the list of processes"
    add("--auth", metavar="USER:PASSWORD", help=text)
    add("--mcp", action="store_true", help="offer the app to language models, as a tool; needs gradio[mcp]")
    add("--check-space", action="store_true", help="check that this folder runs as a Space, then stop")
    args = parser.parse_args(argv)
    flags.check_judge_flags(parser, args)
    return args


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for options that would otherwise fail only when a visitor needs them."""
    from dsd.files import hub
    from dsd.ui import models, page, server

    if args.judge and args.judge != DEFAULT and "://" not in args.judge:
        hub.check_source(args.judge)
    if args.judge == DEFAULT and not models.judge_knows(args.judge, args.teacher):
        raise ValueError(f"--judge {args.judge} cannot judge what {args.teacher} draws: name another judge")
    if args.mcp:
        page.check_mcp()
        if credentials(args):
            raise ValueError(f"--mcp works only without a password: leave out --mcp, or --auth and {AUTH}")
    server.check(args.allow_host, args.trust_proxy)
    if args.root_path and not args.root_path.startswith(("/", "https://", "http://")):
        raise ValueError(f"--root-path must begin with / or be an address, got {args.root_path!r}")
    if args.time_limit is not None and not args.time_limit > 0:
        raise ValueError(f"--time-limit must be above 0 seconds, got {args.time_limit:g}")
    if args.run is not None and not args.run.is_dir():
        raise ValueError(f"--run {args.run} is not a folder: name one that train.curate has judged")


def credentials(args: argparse.Namespace) -> tuple[str, str] | None:
    """Return the user name and password that visitors must enter, or None for open access.

    Raise ValueError, which never quotes them, if one of them is empty.
    """
    text = os.environ.get(AUTH) if args.auth is None else args.auth
    if text is None:
        return None
    user, _, password = text.partition(":")
    if not user.strip() or not password:  # an empty variable must not mean open access
        raise ValueError(f"--auth and {AUTH} take USER:PASSWORD, neither of them empty")
    return user.strip(), password


def load(args: argparse.Namespace) -> "tuple[Loaded, Wheel]":
    """Load the model; the models of the other tabs are opened on first use."""
    from dsd.ui import models

    way = flags.way(args)
    pipe = command.open_model(args.model, weights=args.weights, lora=args.lora, **way, **flags.speed(args))
    judge = models.lazy_judge(args.judge, model=args.judge_model, device=args.device)
    describer = judge if models.judge_knows(args.judge, args.model) else None
    asked = describer if args.judge not in (None, DEFAULT) else None  # the embedded judge gives no scores
    # On ZeroGPU only the process of a visitor's call has a GPU, and it keeps nothing open.
    device = "cpu" if space.is_zero() else args.device
    ranker = models.lazy_ranker(args.model, embedder=args.embedder, judge=asked, device=device)
    about = {"weights": args.weights, "describer": describer, "ranker": ranker}
    loaded = models.describe_model(pipe, args.model, **about)
    judge = judge if models.judge_knows(args.judge, args.teacher) else None
    return loaded, models.lazy_wheel(args.teacher, judge=judge, run=args.run, **way)


def load_or_fall_back(args: argparse.Namespace) -> "tuple[Loaded, Wheel]":
    """Load the models; on a Space that cannot open them, load pocket with a note on what is missing."""
    from dsd.files import hub
    from dsd.model.checkpoint import best_device
    from dsd.ui import models

    # Elsewhere the person who started the app can read the error.
    if not space.is_space() or args.model == DEFAULT:
        return load(args)
    try:
        if lacks := space.find_missing(args.model, device=best_device(), token=hub.has_token()):
            raise LoadError(lacks)
        return load(args)
    except Exception as error:  # for any error, a page that reports it is better than none
        report(error, "; pocket runs instead")
        log_only = f"{models.display_name(args.model)} could not be opened: the log of this Space says why"
        missing = str(error) if isinstance(error, ValueError) else log_only
    # Outside the except block, because the error keeps everything that was loaded in memory.
    embedded = {"model": DEFAULT, "weights": None, "lora": [], "offload": "none", "quantize": None}
    embedded |= {"cache": None, "attention": None, "embedder": None}
    loaded, wheel = load(argparse.Namespace(**vars(args) | embedded))
    return replace(loaded, missing=missing), wheel


def open_now(wheel: "Wheel") -> None:
    """Open the other models too: on ZeroGPU only this thread can place weights, not a visitor's."""
    for lazy in filter(None, (wheel.teacher, wheel.judge)):
        try:
            lazy()
        except Exception as error:  # the tab that needs the model reports the error again
            report(error)


def report(message: str | Exception, end: str = "") -> None:
    """Print one log line, with the type of an unexpected error, because its text may be vague."""
    kind = "" if isinstance(message, str | ValueError) else f"{type(message).__name__}: "
    print(f"app.py: {kind}{' '.join(str(message).split())}{end}", file=sys.stderr, flush=True)


def build(args: argparse.Namespace) -> Any:
    from dsd.model import compile as compiling
    from dsd.ui import page

    loaded, wheel = load_or_fall_back(args)
    if args.compile:
        report(compiling.compile_blocks(loaded.pipe, space.is_zero()))
    if space.is_zero():
        open_now(wheel)
    return page.build(loaded, examples_folder(loaded), wheel)


def examples_folder(loaded: "Loaded") -> Path:
    """Return the folder of examples for a model; it is missing for FLUX, which small critters do not suit."""
    preset = family_of(loaded.pipe.transformer.config) or presets.DEFAULT
    return Path(preset.examples or ROOT / "assets" / "examples" / preset.name)


def check_space(args: argparse.Namespace) -> int:
    """Check that the folder and the page would work on a Space; print problems and return 1 if any."""
    problems = space.check(ROOT)
    try:
        build(args).close()
    except ValueError as error:
        problems.append(str(error))
    for problem in problems:
        report(problem)
    if problems:
        return 1
    print("Ready for Spaces. Only a Space can tell how its build and its GPU behave.")
    return 0


def launch(args: argparse.Namespace, built: Any, auth: tuple[str, str] | None) -> None:
    """Serve the page until it is stopped."""
    from dsd.ui import page, request_log

    if args.log_requests:
        request_log.start()
    names = ("mcp", "host", "port", "share", "allow_host", "trust_proxy", "root_path", "time_limit")
    page.launch(built, auth=auth, **{name: getattr(args, name) for name in names})


def main(argv: list[str] | None = None) -> int:
    """Load the models, build the page and serve it until stopped."""
    args = parse(argv)
    try:
        import spaces  # noqa: F401 On ZeroGPU it must be imported before anything that touches the GPU.

        command.quiet()
        check(args)
        if args.check_space:
            return check_space(args)
        auth, built = credentials(args), build(args)
        gc.freeze()
        gc.enable()
        # Services are stopped with SIGTERM: handle it like Ctrl-C, so that no upload is left behind.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        launch(args, built, auth)
    except ValueError as error:
        report(error)
        return 2
    except KeyboardInterrupt:  # while loading; `launch` ends by itself
        report("stopped")
        return 130
    return 0


if __name__ == "__main__":
    escape_output()
    sys.exit(main())
