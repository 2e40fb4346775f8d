"""The ground-truth scorer, trained on renders alone: `python -m train.pocket.scorer RUN`.

Pictures that a VAE or a sampler drew are softer and noisier than renders, so renders are blurred and
roughened a little at random. Held-out critters are not among them.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dsd.pocket.scorer import CHOICES, Scorer, encode_numbers, kept, number_mask
from dsd.pocket.world import Context, Critter
from train.pocket import scenes
from train.pocket.loop import State, device, learning_rate, step_seed
from train.pocket.presets import PRESETS, Preset
from train.pocket.vae import TEST_SEED, TRAIN_SEED, to_tensor

PEAK, FALSE_ALARMS, SEED = 2e-3, 0.03, 21


def truths(seed: int, count: int, *, held_out: bool = False) -> list[tuple[Critter, Context]]:
    return [scene for i in range(count) for scene in scenes.family(seed, i, held_out=held_out)]


def targets(pairs: list[tuple[Critter, Context]]) -> dict[str, Tensor]:
    """Indices of every choice [N] (-100: the colour of no accessory), numbers and mask [N, NUMBERS]."""
    both = [{**vars(critter), **vars(context)} for critter, context in pairs]
    result = {
        name: torch.tensor([values.index(row[name]) for row in both]) for name, values in CHOICES.items()
    }
    result["accessory_color"][result["accessory"] == CHOICES["accessory"].index("none")] = -100
    result["numbers"] = torch.tensor([encode_numbers(critter) for critter, _ in pairs])
    result["mask"] = torch.tensor([number_mask(critter) for critter, _ in pairs])
    return result


def roughen(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A random mix with a blurred copy, and a little noise: [B, 3, H, W] in -1..1."""
    share, level = torch.rand(2, len(pictures), 1, 1, 1, generator=generator)
    blurred = functional.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    noise = functional.interpolate(
        torch.randn(len(pictures), 3, 32, 32, generator=generator), pictures.shape[-2:]
    )
    return pictures.lerp(blurred, share) + 0.12 * level * noise


def loss(scorer: Scorer, pictures: Tensor, wanted: dict[str, Tensor]) -> Tensor:
    logits, numbers, _ = scorer(pictures)
    named = sum(functional.cross_entropy(logits[name], wanted[name]) for name in CHOICES)
    error = ((numbers - wanted["numbers"]).square() * wanted["mask"]).sum() / wanted["mask"].sum()
    return named + 4 * error


def train(run: Path, preset: Preset, steps: int) -> Scorer:
    torch.manual_seed(SEED)
    families = scenes.render(TRAIN_SEED, preset.families, preset.panel, run / "renders")
    count = min(preset.scorer_families, len(families))
    wanted = targets(truths(TRAIN_SEED, count))
    scorer = Scorer().to(device(), memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(scorer.parameters(), PEAK, weight_decay=0.02)
    state = State(run / "scorer.pt", scorer=scorer, optimizer=optimizer).load()
    pictures = families.reshape(-1, *families.shape[2:])
    while state.step < steps:
        generator = step_seed(SEED, state.step)
        rows = torch.randint(8 * count, (preset.scorer_batch,), generator=generator)
        batch = roughen(shrink(to_tensor(pictures[rows.numpy()])), generator).to(device())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(state.step, steps, PEAK, decay=0.6)
        value = loss(
            scorer.train(), batch, {name: tensor[rows].to(device()) for name, tensor in wanted.items()}
        )
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        state.tick()
        if state.step % 200 == 0:
            print(f"scorer {state.step}/{steps}  loss {value.item():.3f}", flush=True)
    state.save()
    return scorer.eval()


def shrink(pictures: Tensor) -> Tensor:
    return pictures if pictures.shape[-1] == 64 else functional.interpolate(pictures, (64, 64), mode="area")


@torch.no_grad()
def learn_strangeness(scorer: Scorer, pictures: Tensor) -> None:
    """Whiten features by renders; above the threshold lie `FALSE_ALARMS` of them."""
    generator = step_seed(SEED, -1)
    batches = [roughen(part, generator) for part in pictures.split(200)]
    features = torch.cat([scorer(batch.to(device()))[2] for batch in batches]).cpu().double()
    scorer.cpu()
    scorer.feature_mean.copy_(features.mean(0))
    values, vectors = torch.linalg.eigh(torch.cov(features.T))
    scorer.feature_whitening.copy_((vectors / (values + 0.05 * values.mean()).sqrt()).T)
    scorer.strange.copy_(scorer.strangeness(features.float()).quantile(1 - FALSE_ALARMS))


def accuracy(scorer: Scorer, pictures: np.ndarray, pairs: list[tuple[Critter, Context]]) -> dict[str, float]:
    """Share of fresh renders read right, trait by trait (a number within its tolerance)."""
    from PIL import Image

    readings = scorer.read([Image.fromarray(picture) for picture in pictures])
    right: dict[str, list[bool]] = {}
    for (critter, context), reading in zip(pairs, readings, strict=True):
        rows = kept(critter, reading)
        for name in ("scene", "accessory", "light", "place"):
            rows[name] = reading.choices[name] == getattr(context, name)
        if context.accessory != "none":
            rows["accessory_color"] = reading.choices["accessory_color"] == context.accessory_color
        for name, value in rows.items():
            right.setdefault(name, []).append(value)
    return {name: round(float(np.mean(values)), 4) for name, values in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--steps", type=int, help="default: the preset's")
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    scorer = train(args.run, preset, args.steps or preset.scorer_steps)
    fresh = scenes.render(TEST_SEED + 1, 250, preset.panel, args.run / "renders")
    learn_strangeness(scorer, shrink(to_tensor(fresh)))
    scorer.save_pretrained(args.run / "scorer")
    for held_out in (False, True):
        families = scenes.render(TEST_SEED + 2, 125, preset.panel, args.run / "renders", held_out=held_out)
        rows = accuracy(
            scorer, families.reshape(-1, *families.shape[2:]), truths(TEST_SEED + 2, 125, held_out=held_out)
        )
        print(f"scorer on 1000 fresh renders, held out {held_out}: {rows}", flush=True)


if __name__ == "__main__":
    main()
