"""Baseline, tuned per subject: textual inversion, one learned word in each of the two text encoders.

The word starts as the mean of the words that describe the subject, and nothing else is trained.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import FluxPipeline
from PIL import Image
from torch import Tensor, nn

from dsd.grids.teacher import panel_side
from train.baselines.per_subject import Subject, Tuning, fit, freeze
from train.baselines.single_frame import encode_texts

WORD = "<subject>"
ENCODERS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))


@contextmanager
def tuned(pipe: FluxPipeline, image: Image.Image, subject: Subject, tuning: Tuning) -> Iterator[str]:
    """Learn the word for the subject and yield it; the next subject's word takes its place."""
    freeze(pipe)
    _mark_end(pipe)
    learned = [_add_word(getattr(pipe, name), getattr(pipe, part), subject) for name, part in ENCODERS]
    hooks = [table.register_hook(_only_row(row)) for table, row in learned]
    try:
        tables = [table for table, _ in learned]
        prompt = [subject.caption(WORD)]
        fit(pipe, tables, image, lambda: encode_texts(pipe, prompt), panel_side(pipe), tuning)
        yield WORD
    finally:
        for hook in hooks:
            hook.remove()
        freeze(pipe)


def _mark_end(pipe: FluxPipeline) -> None:
    """Let CLIP pool at its end token; old configs pool at the highest token, which the new word would be."""
    for module in pipe.text_encoder.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = pipe.tokenizer.eos_token_id


@torch.no_grad()
def _add_word(tokenizer: Any, encoder: nn.Module, subject: Subject) -> tuple[nn.Parameter, int]:
    """Return an encoder's embeddings, trainable, and the row of the word, set to its start."""
    known = tokenizer(subject.words, add_special_tokens=False).input_ids
    if tokenizer.add_tokens([WORD]):
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    row = tokenizer.convert_tokens_to_ids(WORD)
    table = encoder.get_input_embeddings().weight  # [words, D]
    table[row] = table[known].mean(0)
    return table.requires_grad_(True), row


def _only_row(row: int) -> Callable[[Tensor], Tensor]:
    """Return a hook that zeroes the gradient of all other rows, so that AdamW leaves them as they are."""

    def keep(gradient: Tensor) -> Tensor:
        kept = torch.zeros_like(gradient)
        kept[row] = gradient[row]
        return kept

    return keep


def trained_size(pipe: FluxPipeline, tuning: Tuning) -> int:
    """Return the number of weights that a subject's word has in both encoders."""
    return sum(getattr(pipe, part).get_input_embeddings().weight.shape[1] for _, part in ENCODERS)
