"""Keep a subject, change its world: diffusion self-distillation in the open.

`from dsd import load_pipeline, DSDPipeline`. Both arrive on first use, so that `import dsd` costs nothing.
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
