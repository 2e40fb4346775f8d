"""Serve the app: `python app.py` uses the embedded models, `python app.py --model flux-dev` the large one."""

import gc

if __name__ == "__main__":
    # Garbage collection among modules that stay loaded took a fifth of the startup time; `main` enables it
    # again once they are loaded.
    gc.disable()

import argparse
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import spaces  # On ZeroGPU it must be imported before anything that touches the GPU.
from PIL import Image

from dsd.doctor import space
from dsd.files import hub
from dsd.generate import command
from dsd.grids.recipes import IDENTITY, RECIPES, Recipe
from dsd.model import compile as compiling
from dsd.model import presets
from dsd.model.checkpoint import best_device, resolve
from dsd.model.memory import QUANTIZED
from dsd.model.presets import PRESETS, Preset
from dsd.ui import page
from dsd.ui.late import Late
from dsd.ui.loaded import Loaded, Wheel, shown_name
from dsd.vlm.base import VLM

ROOT = Path(__file__).resolve().parent
EXAMPLES = ROOT / "assets" / "examples"
DEFAULT = presets.DEFAULT.name
AUTH, COMPILE = "DSD_AUTH", "DSD_COMPILE"
# Visitors wait in a queue, so an unreachable server must fail quickly.
SERVER = {"timeout": 60, "retries": 1, "patience": 60}
OWN_WEIGHTS = "What it draws well depends on these weights."


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command-line flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--model",
        default=os.environ.get(space.MODEL) or DEFAULT,
        help=f"{', '.join(PRESETS)}, a folder or a hub id; the variable {space.MODEL} does too, for a Space",
    )
    add("--weights", help="trained weights to put on the model: a folder, file or hub id")
    add("--device", help="cpu, cuda, mps; the best there is when left out")
    add(
        "--offload",
        default="none",
        choices=("none", "model", "group", "sequential"),
        help="keep parts of large models in main memory",
    )
    add("--quantize", choices=QUANTIZED, help="weights in 8bit or 4bit, on an NVIDIA GPU; needs bitsandbytes")
    add(
        "--compile",
        action="store_true",
        default=os.environ.get(COMPILE, "").lower() in ("1", "t", "true"),
        help="compile the model for the GPU: a later start, faster images; "
        f"{COMPILE}=1 does too, for a Space",
    )
    add(
        "--teacher",
        default=DEFAULT,
        choices=PRESETS,
        help="who draws on the Grids tab, opened when first used (pocket); a FLUX needs 24 GB of its own",
    )
    add("--judge", help="who compares and describes images: pocket, a folder, a hub id, or http://host/v1")
    add("--run", type=Path, help="folder of a judged run for the Curate tab (a small sample)")
    add("--host", help="address to serve on; 0.0.0.0 for the whole network")
    add("--port", type=int, help="port to serve on; the first free one from 7860 when left out")
    add("--share", action="store_true", help="make a public link through gradio's servers")
    add(
        "--auth",
        metavar="USER:PASSWORD",
        help=f"ask visitors for these; the variable {AUTH} does too, unseen in the list of processes",
    )
    add("--mcp", action="store_true", help="offer the same to language models, as a tool; needs gradio[mcp]")
    add("--check-space", action="store_true", help="check that this folder runs as a Space, then stop")
    return parser.parse_args(argv)


def check_space(args: argparse.Namespace) -> int:
    """Check that the folder and the page would work on a Space; print problems and return 1 if any."""
    problems = space.check(ROOT)
    try:
        args, loaded = settle(args, eyes := judge(args))
        page.build(loaded, EXAMPLES, wheel(args, eyes)).close()
    except ValueError as error:
        problems.append(str(error))
    for problem in problems:
        print(f"app.py: {problem}", file=sys.stderr)
    if not problems:
        print("Nothing here stands against a Space. Only a Space can tell how its build and its GPU behave.")
    return 1 if problems else 0


def settle(args: argparse.Namespace, judge: Late[VLM]) -> tuple[argparse.Namespace, Loaded]:
    """Load the requested model; on a Space that cannot open it, load pocket with a note on what is missing.

    Elsewhere the error is raised, because the person who started the app can read it.
    """
    if not space.is_space():
        return args, load(args, judge)
    try:
        if lacks := space.lacking(args.model, device=best_device(), token=hub.has_token()):
            raise hub.LoadError(lacks)
        return args, load(args, judge)
    except Exception as error:  # for any error, a page that reports it is better than none
        if args.model == DEFAULT:
            raise
        print(f"app.py: {told(error)}; pocket runs instead", file=sys.stderr)
        missing = why_missing(args.model, error)
    # Outside the except block, because the error keeps everything that was loaded in memory.
    embedded = {"model": DEFAULT, "weights": None, "offload": "none", "quantize": None}
    args = argparse.Namespace(**vars(args) | embedded)
    return args, replace(load(args, judge), missing=missing)


def why_missing(model: str, error: Exception) -> str:
    """Return the reason to show on the page; for an unexpected error it only points to the log."""
    if isinstance(error, ValueError):
        return str(error)
    return f"{shown_name(model)} could not be opened: the log of this Space says why"


def told(error: Exception) -> str:
    """Return an error as one log line, with the type of an unexpected one, because its text may be vague."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def open_now(wheel: Wheel) -> None:
    """Open the other models too: on ZeroGPU only this thread can place weights, not a visitor's."""
    for late in filter(None, (wheel.teacher, wheel.judge)):
        try:
            late()
        except Exception as error:  # the tab that needs the model reports the error again
            print(f"app.py: {told(error)}", file=sys.stderr)


def load(args: argparse.Namespace, judge: Late[VLM]) -> Loaded:
    """Load the model and what the page says about it."""
    held = {"device": args.device, "offload": args.offload, "quantize": args.quantize}
    pipe = command.open_model(args.model, weights=args.weights, **held)
    preset = resolve(args.model)
    return Loaded(
        pipe=pipe,
        name=args.model,
        weights=args.weights,
        warn=world_warning(args.model),
        description=OWN_WEIGHTS if args.weights else preset.description,
        license="" if preset.license == Preset.license else preset.license,  # do not show an unknown license
        describer=judge if knows(args, args.model) else None,
        recipe=recipe_of(args.judge, args.model),
    )


def world_warning(model: str) -> Callable[[Image.Image], str | None] | None:
    """Return a function that warns about images from outside pocket's drawn world; None for other models."""
    if model not in PRESETS or not PRESETS[model].knows_world:
        return None
    from dsd.pocket.scorer import warning

    return warning


def recipe_of(*names: str | None) -> Recipe:
    """Return the recipe of the first of these presets that has one of its own, else the usual one."""
    own = [PRESETS[name].recipe for name in names if name in PRESETS]
    return next((RECIPES[recipe] for recipe in own if recipe != IDENTITY.name), IDENTITY)


def sample_run() -> Path | None:
    run = PRESETS[DEFAULT].run
    return Path(run) if run and Path(run).is_dir() else None


def wheel(args: argparse.Namespace, judge: Late[VLM]) -> Wheel:
    """Return what the Grids and Curate tabs work with; nothing is opened yet."""
    return Wheel(
        teacher=Late(args.teacher, lambda: open_teacher(args)),
        recipe=recipe_of(args.teacher),
        judge=judge if knows(args, args.teacher) else None,
        about=about_teacher(args),
        run=args.run or sample_run(),
        own=args.run is not None,
    )


def open_teacher(args: argparse.Namespace) -> Any:
    """Open the `dsd.grids.teacher.Teacher`; pocket is small and never offloaded."""
    from dsd.grids.teacher import load_teacher

    offload = "none" if PRESETS[args.teacher].embedded else args.offload
    return load_teacher(args.teacher, device=args.device, offload=offload)


def about_teacher(args: argparse.Namespace) -> str:
    """Return a sentence for the page about the model that draws the grids."""
    if not PRESETS[args.teacher].embedded:
        return f"{args.teacher} draws them here."
    if args.model == args.teacher:
        return "A small embedded model draws them here; it knows one world of drawn critters."
    return (
        "Here a small embedded model draws them, which knows one world of drawn critters; "
        "python app.py --teacher flux-dev loads a large one, which takes another 24 GB of memory."
    )


def judge(args: argparse.Namespace) -> Late[VLM]:
    """Return the named judge, or the embedded one; the whole app shares it, so it is opened once."""
    name, missing = args.judge or DEFAULT, None
    if name in PRESETS and not Path(PRESETS[name].judge or "").is_dir():
        missing = "the embedded judge is not in this copy yet: python -m train.pocket.judge makes it"
    return Late(name, lambda: open_judge(args, name), missing=missing)


def knows(args: argparse.Namespace, model: str) -> bool:
    """Return whether the judge can assess this model's images; the embedded judge knows only drawn critters.

    A custom model may draw critters too: naming the embedded judge together with it means that it does.
    """
    return (
        model == DEFAULT or args.judge not in (None, DEFAULT) or (bool(args.judge) and model not in PRESETS)
    )


def open_judge(args: argparse.Namespace, name: str) -> VLM:
    """Open a judge on this machine or on a server."""
    from dsd.vlm.open import open_vlm

    is_server = name.startswith(("http://", "https://"))
    return open_vlm(name, **(SERVER if is_server else {"device": args.device}))


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for options that would otherwise fail only when a visitor needs them."""
    if args.judge and args.judge != DEFAULT and "://" not in args.judge:
        hub.check_source(args.judge)
    if args.judge == DEFAULT and args.teacher != DEFAULT:
        raise ValueError(
            f"--judge pocket knows drawn critters only, not what {args.teacher} draws: name another"
        )
    if args.mcp:
        page.check_mcp()
        if credentials(args):
            raise ValueError(f"--mcp asks nobody for a password: leave it out, or --auth and {AUTH}")
    if args.run is not None and not args.run.is_dir():
        raise ValueError(f"--run {args.run} is not a folder: name one that train.curate has judged")


def credentials(args: argparse.Namespace) -> tuple[str, str] | None:
    """Return the user name and password that visitors must enter, or None for open access.

    Raise ValueError, which never quotes them, if one of them is empty.
    """
    given = os.environ.get(AUTH) if args.auth is None else args.auth
    if given is None:
        return None
    user, _, password = given.partition(":")
    if not user.strip() or not password:  # an empty variable must not mean open access
        raise ValueError(f"--auth and {AUTH} take USER:PASSWORD, neither of them empty")
    return user.strip(), password


def main(argv: list[str] | None = None) -> int:
    """Load the models, build the page and serve it until stopped."""
    args = parse(argv)
    command.quiet()
    try:
        check(args)
        if args.check_space:
            return check_space(args)
        auth = credentials(args)
        args, loaded = settle(args, eyes := judge(args))
        if args.compile:
            zero = spaces if space.is_zero() else None
            print(f"app.py: {compiling.compile_blocks(loaded.pipe, zero)}", file=sys.stderr, flush=True)
        tabs = wheel(args, eyes)
        if space.is_zero():
            open_now(tabs)
        built = page.build(loaded, EXAMPLES, tabs)
    except ValueError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    gc.freeze()
    gc.enable()
    # Services are stopped with SIGTERM: handle it like Ctrl-C, so that no upload is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if args.host and (problem := no_host(args.host)):
        print(f"app.py: {problem}", file=sys.stderr)
        return 2
    place = {"server_name": args.host, "server_port": args.port, "share": args.share}
    try:
        page.launch(built, auth=auth, mcp=args.mcp, **place)
    except (OSError, OverflowError, ValueError) as error:  # OverflowError: not a port number
        print(f"app.py: {unserved(args, error)}", file=sys.stderr)
        return 2
    return 0


def no_host(host: str) -> str | None:
    """Return why the app cannot be served at this host, or None if it can.

    gradio would try a hundred ports, each for seconds, before it fails.
    """
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(place)
    except OSError as error:
        return f"{host} is no address of this machine ({error}): leave out --host, or try --host 0.0.0.0"
    return None


def unserved(args: argparse.Namespace, error: Exception) -> str:
    """Return why the page is not served and what to do; gradio's own messages are meant for programmers."""
    if isinstance(error, ValueError):
        return told(error)
    where = f" at {args.host}" if args.host else ""
    if args.port is None:
        return f"no free port was found{where}: name one with --port"
    return (
        f"port {args.port} cannot be used{where}, another program may have it: name another with --port, "
        "or leave it out for the first free one"
    )


if __name__ == "__main__":
    sys.exit(main())
