"""A LoRA of the text-to-image model itself, trained on whole grids by the loop that trains the student.

A grid is the canvas: its left half takes the place of the reference and its right half that of the target, so
that the two frames together are the grid. No reference is shown, and the loss is over the whole grid.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dsd.files import whole
from dsd.files.markdown import table
from dsd.generate.drawing import public_name
from dsd.model import flow, origin
from dsd.model.pipeline import DSDPipeline
from dsd.model.presets import LORA
from dsd.model.transformer import load_transformer
from dsd.training import student
from dsd.training.batches import Batch, other_inputs
from dsd.training.card import settings
from dsd.training.loop import Method, TrainResult
from dsd.training.options import TrainingError, TrainOptions
from dsd.training.student import ADAPTER, Base

# What makes the loop of the student train a text-to-image model on canvases without a reference.
FIXED = {
    "full": False, "condition_init_scale": 0.0, "condition_dropout": 1.0, "instruction_prob": 0.0,
    "reference_weight": 1.0, "target_weight": 1.0,
}  # fmt: skip
CARD = """\
# A teacher, tuned on its own grids

A LoRA of `{base}`, trained with `dsd` on {grids} grids of the run `{run}`, drawn by `{generator}`. A judge
kept at least {share:.0%} of the pairs of panels of each. It draws the grids of the next turn:

```bash
python -m train.grids RUN --model {base} --teacher-lora {file}
```

`FluxPipeline.load_lora_weights` of plain diffusers opens it, too. Its license is the strictest of the model's
and of the grids': {license}.

## Training

{cost}

{settings}
"""


def check_teacher(base: Base) -> None:
    """Raise TrainingError unless the model is a text-to-image pipeline of FLUX.1."""
    kind = origin.pipeline_class(base.source)
    if kind not in (None, FluxPipeline.__name__):
        raise TrainingError(
            f"{base.name} is a {kind}, and only a FluxPipeline (FLUX.1, pocket) can be tuned: choose another "
            "--model"
        )


def method(facts: Mapping[str, Any]) -> Method:
    """Return how the loop trains the LoRA; `facts` are noted in its file."""

    def write(base: Base, options: TrainOptions, weights: dict[str, Tensor], out: Path) -> None:
        save_lora(weights, options, out / LORA, facts)

    return Method(open_transformer, loss, write, widens=False, unit="grids")


def open_transformer(
    base: Base, options: TrainOptions, dtype: torch.dtype, device: torch.device
) -> FluxTransformer2DModel:
    """Load the text-to-image transformer with a new LoRA, the only weights that are trained."""
    transformer = load_transformer(base.source, subfolder="transformer", dtype=dtype)
    if options.quantize:
        transformer = student.quantize(transformer, options.quantize, dtype, device)
    student.make_trainable(transformer, options)
    return transformer


def loss(model: nn.Module, batch: Batch, options: TrainOptions, pipe: DSDPipeline) -> Tensor:
    """Return the mean squared error of the predicted velocities over the whole grid."""
    x_t = flow.interpolate(batch.data, batch.noise, batch.t)
    velocity = model(hidden_states=x_t, **other_inputs(batch, options, pipe))[0]
    return flow.loss(velocity, flow.velocity(batch.data, batch.noise))


def save_lora(
    weights: dict[str, Tensor], options: TrainOptions, path: Path, facts: Mapping[str, Any]
) -> None:
    """Write the LoRA as diffusers does, with its alpha and rank, and the facts in its metadata."""
    layers = {name.replace(f".{ADAPTER}.", "."): value for name, value in weights.items()}
    # Without dropout: stock diffusers leaves the layers of a LoRA in training mode.
    config = student.lora_config(options).to_dict()
    config |= {"lora_dropout": 0.0, "target_modules": sorted(options.targets)}
    with TemporaryDirectory() as folder:
        FluxPipeline.save_lora_weights(
            folder, transformer_lora_layers=layers, transformer_lora_adapter_metadata=config
        )
        file = Path(folder, LORA)
        with safe_open(file, framework="pt") as tensors:
            metadata = tensors.metadata() | {origin.METADATA: json.dumps(dict(facts))}
        whole.write_atomic(path, _sort_header(save(load_file(file), metadata)))


def _sort_header(content: bytes) -> bytes:
    """Return a safetensors file with a sorted header, so that the same training leaves the same bytes."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # tensors are aligned
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def card(result: TrainResult, file: Path, facts: Mapping[str, Any]) -> str:
    """Return README.md of the LoRA, with the facts that are noted in it."""
    options, hours = result.options, result.seconds / 3600
    count = options.batch * options.accumulate * result.processes
    cost = (
        f"{options.steps:,} steps of {count} grids, {hours:.2f} hours on {result.processes} x "
        f"{result.device}, without the encoding of the images."
    )
    values = {name: value for name, value in settings(options).items() if name.replace("-", "_") not in FIXED}
    about = {"base": public_name(result.base.name), "file": file, "cost": cost}
    return CARD.format(**facts, **about, settings=table(("setting", "value"), values.items()))
