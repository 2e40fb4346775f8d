"""Baseline, tuned per subject: DreamBooth with a LoRA on the attention of the teacher's transformer.

The subject's full description takes the place of DreamBooth's rare token, because the teacher knows these
words. There is one reference image, and no images that preserve the class.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import FluxPipeline
from peft import LoraConfig
from PIL import Image

from dsd.grids.teacher import panel_side
from dsd.model.presets import ATTENTION
from dsd.training.student import linear_layers
from train.baselines.per_subject import Subject, Tuning, fit, fixed_texts, freeze
from train.baselines.single_frame import trained

ADAPTER = "subject"


@contextmanager
def tuned(pipe: FluxPipeline, image: Image.Image, subject: Subject, tuning: Tuning) -> Iterator[str]:
    """Tune a LoRA for the subject, yield the words for it, and remove the LoRA at the end."""
    freeze(pipe)
    torch.manual_seed(tuning.seed)  # for the LoRA's A matrices
    config = LoraConfig(r=tuning.rank, lora_alpha=tuning.rank, target_modules=list(ATTENTION))
    pipe.transformer.add_adapter(config, adapter_name=ADAPTER)
    try:
        weights = [*trained(pipe.transformer).values()]
        fit(pipe, weights, image, fixed_texts(pipe, subject.caption()), panel_side(pipe), tuning)
        yield subject.words
    finally:
        pipe.unload_lora_weights()


def trained_size(pipe: FluxPipeline, tuning: Tuning) -> int:
    """Return the number of weights in a subject's LoRA."""
    layers = linear_layers(pipe.transformer).items()
    chosen = [layer for name, layer in layers if any(name.endswith(f".{target}") for target in ATTENTION)]
    return sum(tuning.rank * (layer.in_features + layer.out_features) for layer in chosen)
