"""Refuse models whose files lack weights: the libraries would set them at random, or leave them empty."""

from collections.abc import Iterable
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn
from transformers import PreTrainedModel

from dsd.files import hub
from dsd.files.errors import LoadError


def check_complete(source: str, missing: Iterable[str]) -> None:
    """Raise LoadError if weights are missing."""
    if names := sorted(missing):
        problem = f"lacks {len(names)} of its weights, such as {names[0]}"
        raise LoadError(f"{source} {problem}: download or copy it again")


def open_complete(opener: Any, source: str, *, unread: str = "", **options: Any) -> PreTrainedModel:
    """Open a model of transformers, and check it; weights of layers named `unread` may be missing."""
    options = {"output_loading_info": True, **options, **hub.SAFE}
    model, loading = opener.from_pretrained(source, **options)
    check_complete(source, (key for key in loading["missing_keys"] if not unread or unread not in key))
    return model


def check_parts(pipe: DiffusionPipeline, source: str) -> None:
    """Raise LoadError if a part of a pipeline that was just opened lacks weights."""
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            check_complete(f"the {name} of {source}", _find_missing(part))


def _find_missing(part: nn.Module) -> Iterable[str]:
    if not isinstance(part, PreTrainedModel):  # diffusers leaves them empty
        return [key for key, tensor in part.state_dict().items() if tensor.is_meta]
    # A pipeline drops the report of transformers; without memory for the weights it costs milliseconds.
    options = {"device_map": "meta", "output_loading_info": True, "use_safetensors": True}
    return type(part).from_pretrained(part.name_or_path, **options)[1]["missing_keys"]
