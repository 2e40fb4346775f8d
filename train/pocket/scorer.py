"""Train the ground-truth scorer without generated images: `python -m train.pocket.scorer RUN`.

There are two, from different seeds: `scorer` measures, `ranker` (`--ranker`) ranks and selects. If one
network did both, it would measure its own mistakes in the images that it selected. Held-out critters are not
used for training.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dsd.pocket.scorer import LEAN, Scorer, check_context, check_traits
from train import command
from train.pocket.loop import TrainState, descend, device, mixed_precision, step_seed
from train.pocket.presets import PRESETS, Preset, build_parser, locked
from train.pocket.scenes import FAMILY, Scene, all_scenes, render, take, targets
from train.pocket.strangers import draw_strangers
from train.pocket.vae.model import TEST_SEED, TRAIN_SEED, to_bytes, to_tensor

PEAK, FALSE_ALARMS = 2e-3, 0.03
SEEDS = {"scorer": 21, "ranker": 22}
TILTED, RIDGE = 2_000, 1e-4  # families that the tilt head is fitted to, and strength of its ridge penalty


def roughen(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images [B, 3, H, W] in -1..1, softer and noisier, as those of a VAE or a sampler are."""
    make = {"generator": generator, "device": images.device}
    share, level = torch.rand(2, len(images), 1, 1, 1, **make)
    blurred = functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    side = images.shape[-1] // 2
    noise = functional.interpolate(torch.randn(len(images), 3, side, side, **make), images.shape[-2:])
    return images.lerp(blurred, share) + 0.12 * level * noise


def reading_loss(logits: dict[str, Tensor], numbers: Tensor, wanted: dict[str, Tensor]) -> Tensor:
    """Return the loss of reading choices and numbers, against `scenes.targets` of the same images."""
    choices = sum(functional.cross_entropy(values, wanted[name]) for name, values in logits.items())
    error = ((numbers - wanted["numbers"]).square() * wanted["mask"]).sum() / wanted["mask"].sum()
    return choices + 4 * error


def train(run: Path, preset: Preset, steps: int, minutes: float | None = None, *, name: str) -> Scorer:
    """Return the trained network; `name` is a key of SEEDS."""
    seed, where = SEEDS[name], device()
    torch.manual_seed(seed)
    families = render(TRAIN_SEED, preset.rendered, preset.panel, run / "renders")
    wanted = targets(all_scenes(TRAIN_SEED, range(len(families))), where)
    scorer = Scorer(size=preset.panel).to(where, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(scorer.parameters(), PEAK, weight_decay=0.02)
    limits = {"steps": steps, "minutes": minutes}
    state = TrainState(run / f"{name}.pt", scorer, optimizer=optimizer, name="scorer", **limits)
    images = to_bytes(families, where)  # all on the device, so that no step waits
    others = to_bytes(draw_strangers(preset.strangers, preset.panel, seed), where)

    def sample(source: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(source), (count,), generator=generator, device=where)
        return rows, roughen(source[rows].float() / 127.5 - 1, generator)

    def loss(step: int) -> Tensor:
        generator, count = step_seed(seed, step, where), preset.scorer_batch
        rows, drawn = sample(images, count, generator)
        _, strange = sample(others, count // 3, generator)
        is_strange = (torch.arange(count + len(strange), device=where) >= count).float()
        with mixed_precision():
            logits, numbers, strangeness, _ = scorer(torch.cat([drawn, strange]))
            reading = reading_loss(take(logits, slice(count)), numbers[:count], take(wanted, rows))
            return reading + functional.binary_cross_entropy_with_logits(strangeness, is_strange)

    descend(state, loss, decay=0.6, clip=math.inf)
    return scorer.eval()


@torch.no_grad()
def set_threshold(scorer: Scorer, images: Tensor) -> None:
    """Set the strangeness that a share of `FALSE_ALARMS` of fresh renders [B, 3, H, W] exceeds."""
    roughened = [roughen(part, step_seed(0, -1)).to(device()) for part in images.split(200)]
    scorer.strange.copy_(torch.cat([scorer(part)[2] for part in roughened]).quantile(1 - FALSE_ALARMS))


@torch.no_grad()
def fit_tilt(scorer: Scorer, images: Tensor, tilts: Tensor) -> None:
    """Fit only the tilt head, by least squares, to images [N, 3, H, W] in -1..1 and tilts [N] in degrees."""
    inner, outer = 0.0, 0.0
    for i, (part, wanted) in enumerate(zip(images.split(200), tilts.split(200), strict=True)):
        convolved = scorer.eval().convolve(roughen(part, step_seed(0, i)).to(device()))
        inputs = functional.pad(convolved, (0, 1), value=1.0).double()  # [B, inputs + 1], last the bias
        inner, outer = inner + inputs.T @ inputs, outer + inputs.T @ wanted.to(inputs)
    penalty = RIDGE * inner.diagonal().mean() * torch.eye(len(inner)).to(inner)
    *weight, bias = torch.linalg.solve(inner + penalty, outer)
    scorer.tilt.weight.copy_(torch.stack(weight)[None])
    scorer.tilt.bias.fill_(bias)


def accuracy(scorer: Scorer, images: np.ndarray, scenes: list[Scene]) -> dict[str, float]:
    """Return the share of renders that are read correctly, by trait (numbers within their tolerance)."""
    right: dict[str, list[bool]] = {}
    readings = scorer.read([Image.fromarray(image) for image in images])
    for (critter, context), reading in zip(scenes, readings, strict=True):
        row = check_traits(critter, reading) | check_context(context, reading)
        row["place"] = reading.choices["place"] == context.place
        row["tilt"] = abs(reading.tilt - context.tilt) <= LEAN
        for name, value in row.items():
            right.setdefault(name, []).append(value)
    return {name: round(float(np.mean(values)), 4) for name, values in right.items()}


def main() -> None:
    parser = build_parser("scorer", "Train the scorer, which reads a critter's traits from an image.")
    parser.add_argument("--ranker", action="store_true", help="train the ranker, which has another seed")
    text = "fit only the tilt head of the scorer in this folder"
    parser.add_argument("--only-tilt", type=Path, metavar="SCORER", help=text)
    args = parser.parse_args()
    name = "ranker" if args.ranker else "scorer"
    with locked(args.run / name):
        _make(args, name)


def _make(args: argparse.Namespace, name: str) -> None:
    """Train, fit and save the scorer, and print how often it is right."""
    preset = PRESETS[args.preset]
    if args.only_tilt:
        scorer = Scorer.from_pretrained(args.only_tilt).to(device())
    else:
        scorer = train(args.run, preset, args.steps or preset.scorer_steps, args.minutes, name=name)
        set_threshold(scorer, to_tensor(render(TEST_SEED + 1, 250, preset.panel, args.run / "renders")))
    families = render(TRAIN_SEED, preset.rendered, preset.panel, args.run / "renders")[:TILTED]
    tilts = torch.tensor([context.tilt for _, context in all_scenes(TRAIN_SEED, range(len(families)))])
    fit_tilt(scorer, to_tensor(families), tilts)
    scorer.half().save_pretrained(args.run / name)
    scorer = Scorer.from_pretrained(args.run / name).to(device())  # in float32, from the rounded values
    for held_out in (False, True):
        families = render(TEST_SEED + 2, 125, preset.panel, args.run / "renders", held_out=held_out)
        scenes = all_scenes(TEST_SEED + 2, range(125), held_out=held_out)
        right = accuracy(scorer, families.reshape(-1, *families.shape[2:]), scenes)
        print(f"{name} on {125 * FAMILY} fresh renders, held out {held_out}: {right}", flush=True)


if __name__ == "__main__":
    command.run(main)
