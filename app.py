"""The app: `python app.py` opens the page with the embedded model; `--model flux-dev` with the large one."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import spaces  # noqa: F401  On ZeroGPU it has to come before anything that touches the GPU.
from PIL import Image

from dsd import command
from dsd.checkpoint import PRESETS
from dsd.ui import page
from dsd.ui.loaded import Loaded

EXAMPLES = Path(__file__).resolve().parent / "assets" / "examples"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket", help=f"{', '.join(PRESETS)}, a folder or a hub id")
    parser.add_argument("--weights", help="trained weights to put on the model: a folder, file or hub id")
    parser.add_argument("--device", help="cpu, cuda, mps; the best there is when left out")
    parser.add_argument(
        "--offload",
        default="none",
        choices=("none", "model", "group", "sequential"),
        help="keep parts of a large model in main memory",
    )
    parser.add_argument("--host", help="address to serve on; 0.0.0.0 for the whole network")
    parser.add_argument(
        "--port", type=int, help="port to serve on; the first free one from 7860 when left out"
    )
    parser.add_argument("--share", action="store_true", help="make a public link through gradio's servers")
    return parser.parse_args(argv)


def load(args: argparse.Namespace) -> Loaded:
    """The model and what the page says about it."""
    pipe = command.open_model(args.model, weights=args.weights, device=args.device, offload=args.offload)
    preset = PRESETS.get(args.model)
    return Loaded(
        pipe=pipe,
        name=args.model,
        weights=args.weights,
        warn=world_warning(args.model),
        description=preset.description if preset else "",
        licence=preset.licence if preset else "",
    )


def world_warning(model: str) -> Callable[[Image.Image], str | None] | None:
    """The embedded model knows only its drawn world, and can tell when a picture is not from there."""
    if model != "pocket":
        return None
    from dsd.pocket import warning

    return warning


def main(argv: list[str] | None = None) -> int:
    """Load, build, serve until stopped."""
    args = parse(argv)
    command.quiet()
    try:
        loaded = load(args)
    except ValueError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    page.launch(page.build(loaded, EXAMPLES), server_name=args.host, server_port=args.port, share=args.share)
    return 0


if __name__ == "__main__":
    sys.exit(main())
