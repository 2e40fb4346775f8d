"""Ablations of our method: one record for each, naming what differs from the run's own settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A training of our method with other pairs or other settings."""

    name: str
    which: str = "judge"  # pairs, as in `train.dataset --only`; as many rows as the judged dataset has
    share: float = 1.0  # of the rows, the first ones
    changes: Mapping[str, Any] = field(default_factory=dict)  # fields of `dsd.training.options.TrainOptions`
    search: bool = False  # whether it needs a learning rate of its own; otherwise ours


# The judge is asked only about pairs within the similarity thresholds, so its verdicts alone are not a
# dataset: the judged pairs of the run's own training passed both.
ABLATIONS = (
    Ablation(name="no curation", which="all"),
    Ablation(name="similarity alone", which="floor"),
    Ablation(name="half of the pairs", share=1 / 2),
    Ablation(name="a quarter of the pairs", share=1 / 4),
    Ablation(name="an eighth of the pairs", share=1 / 8),
    Ablation(name="a sixteenth of the pairs", share=1 / 16),
    Ablation(name="loss on both frames", changes={"reference_weight": 1.0, "target_weight": 1.0}),
    Ablation(name="loss on the target alone", changes={"reference_weight": 0.0, "target_weight": 1.0}),
    Ablation(name="columns from 0", changes={"condition_init_scale": 0.0}),
    Ablation(name="columns from 1", changes={"condition_init_scale": 1.0}),
    Ablation(name="columns from 3", changes={"condition_init_scale": 3.0}),
    Ablation(name="no image dropout", changes={"condition_dropout": 0.0}),
    Ablation(name="no text dropout", changes={"text_dropout": 0.0}),
    Ablation(name="LoRA of rank 16", changes={"full": False, "optimizer": "adamw", "rank": 16}, search=True),
    Ablation(
        name="LoRA of rank 128", changes={"full": False, "optimizer": "adamw", "rank": 128}, search=True
    ),
    Ablation(name="all weights", changes={"full": True}, search=True),
)
