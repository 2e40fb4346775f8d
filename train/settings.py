"""The flags of a training's settings, which several commands share; it imports nothing slow."""

import argparse
import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from dsd.files import old_names
from dsd.model.presets import DEFAULT
from dsd.training.options import LORA_ONLY, TrainOptions

METAVARS = {int: "N", float: "X", str: "NAME"}


def add_settings(parser: argparse.ArgumentParser, only: Mapping[str, str] | None = None) -> None:
    """Add a flag for each field of `TrainOptions`; the default None lets the model's own setting apply.

    `only` names some of them, with their help.
    """
    title = "settings" if only else "settings; [..] is for pocket where it differs"
    group = parser.add_argument_group(title)
    kinds = get_type_hints(TrainOptions)
    old_flags = {new: old for old, new in old_names.KEYS.items()}
    for one in fields(TrainOptions):
        if only is not None and one.name not in only:
            continue
        kind = kinds[one.name]
        if isinstance(kind, types.UnionType):  # with None
            kind = next(part for part in get_args(kind) if part is not types.NoneType)
        kind = get_origin(kind) or kind  # `tuple` for `tuple[str, ...]`
        special = {bool: {"action": argparse.BooleanOptionalAction}, tuple: {"nargs": "+"}}
        settings = {"dest": one.name, "default": None}
        settings |= special.get(kind, {"type": kind, "metavar": METAVARS.get(kind)})
        text = f"{one.metadata['help']}{_default(one)}" if only is None else only[one.name]
        group.add_argument(_flag(one.name), help=text, **settings)
        if one.name in old_flags:
            group.add_argument(_flag(old_flags[one.name]), help=argparse.SUPPRESS, **settings)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _default(one: Any) -> str:
    is_shown = isinstance(one.default, int | float | str) and one.default is not False
    text = f" ({one.default})" if is_shown else ""
    suited = DEFAULT.training.get(one.name)
    return text if suited is None else f"{text} [{suited}]"


def flags_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the command line names."""
    flags = {one.name: getattr(args, one.name, None) for one in fields(TrainOptions)}
    flags = {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
    return {name: value for name, value in flags.items() if value is not None}


def options_of(args: argparse.Namespace) -> TrainOptions:
    """Return the options from the flags, then from what suits the model, then from the defaults."""
    from dsd.model.checkpoint import resolve

    flags = flags_of(args)
    suited = dict(resolve(flags.get("model", TrainOptions.model)).training)
    if "start_from" in flags:  # its columns for the condition are trained already
        suited |= {"condition_init_scale": 0.0}
    if not flags.get("full", suited.get("full")):
        suited.pop("optimizer", None)  # Muon trains all weights only
    options = TrainOptions(**suited | flags)
    unused = [_flag(name) for name in LORA_ONLY if name in flags] if options.full else []
    if unused:
        raise ValueError(
            f"{' and '.join(unused)} would have no effect, because all weights are trained (--full, which is "
            f"the default of {DEFAULT.name}): drop it, or add --no-full for a LoRA"
        )
    return options
