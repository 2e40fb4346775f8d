"""Diffusion self-distillation: generate a given subject in new scenes.

`from dsd import load_pipeline, DSDPipeline`. Both are loaded on first use, so `import dsd` is cheap.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["DSDPipeline", "load_pipeline"]

_HOMES = {"DSDPipeline": "dsd.model.pipeline", "load_pipeline": "dsd.model.checkpoint"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dsd' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
