"""An auxiliary loss for the teacher: read each panel's critter from tokens in the middle of the transformer.

Velocities alone teach small traits slowly: three eyes instead of two are a few pixels of a grid. So a panel's
tokens must also predict, in the middle of the transformer, the traits of the critter that they show or should
show; if a panel is noise, only another panel reveals them. This is the idea of REPA (Yu et al. 2024, arXiv
2410.06940), with the drawn world's known truth instead of another network's features. The reader is discarded
after training.
"""

from torch import Tensor, nn
from torch.nn import functional

from dsd.pocket.scorer import CHOICES, NUMBERS
from train.pocket.presets import Preset

READ = ("color", "shape", "pattern", "ears", "eyes")  # and the numbers, as the scorer reads them
NARROW, FEATURES = 32, 192


class Reader(nn.Module):
    """A head from panel tokens [B, tokens, width] to logits by name [B, choices] and numbers [B, NUMBERS]."""

    def __init__(self, preset: Preset):
        super().__init__()
        width, tokens = preset.heads * preset.head_width, (preset.panel // 16) ** 2
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, NARROW), nn.Flatten(-2), nn.GELU(),
            nn.Linear(NARROW * tokens, FEATURES), nn.GELU(),
        )  # fmt: skip
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, len(CHOICES[name])) for name in READ})
        self.numbers = nn.Linear(FEATURES, NUMBERS)

    def forward(self, tokens: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        features = self.body(tokens)
        return {name: head(features) for name, head in self.heads.items()}, self.numbers(features)

    def loss(self, tokens: Tensor, wanted: dict[str, Tensor]) -> Tensor:
        """Return the loss of `tokens` against `train.pocket.scorer.targets` of the same panels, in order."""
        logits, numbers = self(tokens)
        named = sum(functional.cross_entropy(logits[name], wanted[name]) for name in READ)
        error = ((numbers - wanted["numbers"]).square() * wanted["mask"]).sum() / wanted["mask"].sum()
        return named + 4 * error


def by_panel(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Split tokens of grids [B, rows columns n, width] by panel [B rows columns, n, width], row by row."""
    side = int((tokens.shape[1] / (rows * columns)) ** 0.5)  # panels are square
    split = tokens.unflatten(1, (rows, side, columns, side)).transpose(
        2, 3
    )  # [B, rows, columns, side, side, w]
    return split.flatten(0, 2).flatten(1, 2)
