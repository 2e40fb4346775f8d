"""Train the ground-truth scorer without generated images: `python -m train.pocket.scorer RUN`.

There are two, from different seeds: `scorer` measures, `ranker` (`--ranker`) ranks and selects. If one
network did both, it would measure its own mistakes in the images that it selected.

Images from a VAE or a sampler are softer and noisier than renders, so renders get a little random blur and
noise. Held-out critters are not used for training.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor
from torch.nn import functional

from dsd.pocket.backdrops import BACKDROPS
from dsd.pocket.draw import blank, draw, shrink
from dsd.pocket.pen import Pen
from dsd.pocket.scorer import CHOICES, LEAN, Scorer, encode_numbers, kept, number_mask
from dsd.pocket.world import SCENES, Context, Critter, sample_context, sample_critter
from train.pocket import scenes
from train.pocket.loop import State, device, learning_rate, mixed_precision, set_rate, step_seed
from train.pocket.presets import PRESETS, Preset, parser
from train.pocket.vae import TEST_SEED, TRAIN_SEED, to_tensor

PEAK, FALSE_ALARMS = 2e-3, 0.03
SEEDS = {"scorer": 21, "ranker": 22}
LETTERS = list("abcdefghijklmnopqrstuvwxyz      .,ABC0123")
TILTED, RIDGE = 2_000, 1e-4  # families that the tilt head is fitted to, and strength of its ridge penalty


def truths(seed: int, count: int, *, held_out: bool = False) -> list[tuple[Critter, Context]]:
    return [scene for i in range(count) for scene in scenes.family(seed, i, held_out=held_out)]


def targets(pairs: list[tuple[Critter, Context]]) -> dict[str, Tensor]:
    """Return indices of every choice [N] (-100: the color of no accessory), numbers and mask [N, NUMBERS]."""
    both = [{**vars(critter), **vars(context)} for critter, context in pairs]
    result = {
        name: torch.tensor([values.index(row[name]) for row in both]) for name, values in CHOICES.items()
    }
    result["accessory_color"][result["accessory"] == CHOICES["accessory"].index("none")] = -100
    result["numbers"] = torch.tensor([encode_numbers(critter) for critter, _ in pairs])
    result["mask"] = torch.tensor([number_mask(critter) for critter, _ in pairs])
    return result


def roughen(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images [B, 3, H, W] in -1..1 mixed randomly with a blurred copy, plus a little noise.

    Images and generator are on the same device.
    """
    make = {"generator": generator, "device": images.device}
    share, level = torch.rand(2, len(images), 1, 1, 1, **make)
    blurred = functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    side = images.shape[-1] // 2
    noise = functional.interpolate(torch.randn(len(images), 3, side, side, **make), images.shape[-2:])
    return images.lerp(blurred, share) + 0.12 * level * noise


def loss(scorer: Scorer, images: Tensor, others: Tensor, wanted: dict[str, Tensor]) -> Tensor:
    """Return the loss of reading drawn images and of telling `others` apart from them."""
    logits, numbers, strange, _ = scorer(torch.cat([images, others]))
    count = len(images)
    logits, numbers = {name: values[:count] for name, values in logits.items()}, numbers[:count]
    is_other = torch.cat([torch.zeros(count), torch.ones(len(others))]).to(strange.device)
    named = sum(functional.cross_entropy(logits[name], wanted[name]) for name in CHOICES)
    error = ((numbers - wanted["numbers"]).square() * wanted["mask"]).sum() / wanted["mask"].sum()
    return named + 4 * error + functional.binary_cross_entropy_with_logits(strange, is_other)


def train(run: Path, preset: Preset, steps: int, minutes: float | None = None, *, name: str) -> Scorer:
    """Return the trained network; `name` is a key of SEEDS."""
    torch.manual_seed(seed := SEEDS[name])
    where = device()
    families = scenes.render(TRAIN_SEED, preset.rendered, preset.panel, run / "renders")
    wanted = {name: row.to(where) for name, row in targets(truths(TRAIN_SEED, len(families))).items()}
    scorer = Scorer(size=preset.panel).to(where, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(scorer.parameters(), PEAK, weight_decay=0.02)
    state = State(run / f"{name}.pt", steps, minutes, scorer=scorer, optimizer=optimizer).load()
    images, others = flat(families, where), flat(strangers(preset.strangers, preset.panel, seed), where)
    while (passed := state.passed) < 1:
        generator = step_seed(seed, state.step, where)
        make = {"generator": generator, "device": where}
        rows = torch.randint(len(images), (preset.scorer_batch,), **make)
        batch = roughen(images[rows].float() / 127.5 - 1, generator)
        unlike = others[torch.randint(len(others), (preset.scorer_batch // 3,), **make)].float() / 127.5 - 1
        unlike = roughen(unlike, generator)
        set_rate(optimizer, learning_rate(state.step, passed, decay=0.6))
        asked = {name: tensor[rows] for name, tensor in wanted.items()}
        with mixed_precision():
            value = loss(scorer.train(), batch, unlike, asked)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        state.tick()
        if state.step % 200 == 0:
            print(f"{name} {state.step} ({passed:.1%})  loss {value.item():.3f}", flush=True)
    state.save()
    return scorer.eval()


def flat(families: np.ndarray, where: str) -> Tensor:
    """Return all images of [..., H, W, 3] as uint8 [N, 3, H, W] on the device, so that no step waits."""
    return (
        torch.from_numpy(np.array(families.reshape(-1, *families.shape[-3:]))).permute(0, 3, 1, 2).to(where)
    )


@torch.no_grad()
def set_threshold(scorer: Scorer, images: Tensor) -> None:
    """Set the strangeness threshold so that a share of `FALSE_ALARMS` of fresh renders exceeds it.

    Images [B, 3, H, W].
    """
    roughened = [roughen(part, step_seed(0, -1)).to(device()) for part in images.split(200)]
    scorer.strange.copy_(torch.cat([scorer(part)[2] for part in roughened]).quantile(1 - FALSE_ALARMS))


@torch.no_grad()
def fit_tilt(scorer: Scorer, images: Tensor, tilts: Tensor) -> None:
    """Fit the tilt head by least squares on the output of the trained network's convolutions.

    Images [N, 3, H, W] in -1..1, tilts [N] in degrees. No other weights change.
    """
    inner, outer = 0.0, 0.0
    for i, (part, wanted) in enumerate(zip(images.split(200), tilts.split(200), strict=True)):
        seen = scorer.eval().convolve(roughen(part, step_seed(0, i)).to(device()))
        seen = functional.pad(seen, (0, 1), value=1.0).double()  # [B, inputs + 1], the last for the bias
        inner, outer = inner + seen.T @ seen, outer + seen.T @ wanted.to(seen)
    held = RIDGE * inner.diagonal().mean() * torch.eye(len(inner)).to(inner)
    *weight, bias = torch.linalg.solve(inner + held, outer)
    scorer.tilt.weight.copy_(torch.stack(weight)[None])
    scorer.tilt.bias.fill_(bias)


def accuracy(scorer: Scorer, images: np.ndarray, pairs: list[tuple[Critter, Context]]) -> dict[str, float]:
    """Return the share of renders that are read correctly, by trait (numbers within their tolerance)."""
    readings = scorer.read([Image.fromarray(image) for image in images])
    right: dict[str, list[bool]] = {}
    for (critter, context), reading in zip(pairs, readings, strict=True):
        rows = kept(critter, reading)
        for name in ("scene", "accessory", "light", "place"):
            rows[name] = reading.choices[name] == getattr(context, name)
        rows["tilt"] = abs(reading.tilt - context.tilt) <= LEAN
        if context.accessory != "none":
            rows["accessory_color"] = reading.choices["accessory_color"] == context.accessory_color
        for name, value in rows.items():
            right.setdefault(name, []).append(value)
    return {name: round(float(np.mean(values)), 4) for name, values in right.items()}


# ---------------------------------------------------------------- images that are not of the drawn world


def strangers(count: int, size: int, seed: int) -> np.ndarray:
    """Return uint8 [count, size, size, 3], with the kinds in turn."""
    rng = np.random.default_rng(seed)
    kinds = (clouds, patches_of_clouds, shapes, text, empty_scene, shuffled)
    return np.stack([np.asarray(kinds[i % len(kinds)](size, rng)) for i in range(count)])


def clouds(size: int, rng: np.random.Generator) -> Image.Image:
    """Return noise whose amplitude falls with frequency as in photographs, gray or in color."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]) + 1 / size
    spectrum = np.fft.fft2(rng.normal(size=(3, size, size))) / frequency ** rng.uniform(0.6, 2.0)
    fields = np.fft.ifft2(spectrum).real
    grey = rng.uniform(0, 1) if rng.random() < 0.7 else 0.0
    fields = grey * fields + (1 - grey) * fields[:1]  # at 0 all channels are equal
    fields = (fields - fields.mean()) / fields.std() * rng.uniform(25, 80) + rng.uniform(60, 200)
    return Image.fromarray(fields.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def patches_of_clouds(size: int, rng: np.random.Generator) -> Image.Image:
    """Return three textures with irregular borders, like objects in front of a background."""
    mask = clouds(size, rng).convert("L").point(lambda v: 255 if v > 128 else 0)
    other = clouds(size, rng).convert("L").point(lambda v: 255 if v > 150 else 0)
    image = Image.composite(clouds(size, rng), clouds(size, rng), mask)
    return Image.composite(clouds(size, rng), image, other).filter(
        ImageFilter.GaussianBlur(rng.uniform(0, 1))
    )


def shapes(size: int, rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (size, size), _color(rng))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 12))):
        points = [tuple(p) for p in rng.uniform(-0.2, 1.2, size=(int(rng.integers(3, 7)), 2)) * size]
        pen.polygon(points, fill=_color(rng))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))


def text(size: int, rng: np.random.Generator) -> Image.Image:
    big = size * int(rng.integers(1, 7))
    page = Image.new("RGB", (big, big), _color(rng) if rng.random() < 0.4 else "white")
    ink = _color(rng) if rng.random() < 0.4 else (0, 0, 0)
    for y in range(int(rng.integers(0, 12)), big, int(rng.integers(11, 24))):
        words = "".join(rng.choice(LETTERS, size=int(rng.integers(4, 80))))
        ImageDraw.Draw(page).text((int(rng.integers(2, 12)), y), words, fill=ink)
    return page.resize((size, size), Image.Resampling.LANCZOS)


def empty_scene(size: int, rng: np.random.Generator) -> Image.Image:
    image = blank(size)
    BACKDROPS[str(rng.choice(SCENES))](Pen(image), float(rng.random()), lambda: None)  # without a sun
    return shrink(image, size, rng.uniform(0.3, 1.2))


def shuffled(size: int, rng: np.random.Generator) -> Image.Image:
    """Return a drawn image cut into squares that are rotated and put together in another order."""
    image = np.asarray(draw(sample_critter(rng), sample_context(rng), size))
    side = size // int(rng.choice((2, 4)))
    cuts = [(y, x) for y in range(0, size, side) for x in range(0, size, side)]
    result = np.empty_like(image)
    for (y, x), (v, u) in zip(cuts, rng.permutation(cuts), strict=True):
        result[y : y + side, x : x + side] = np.rot90(image[v : v + side, u : u + side], int(rng.integers(4)))
    return Image.fromarray(result)


def _color(rng: np.random.Generator) -> tuple[int, int, int]:
    return tuple(int(v) for v in rng.integers(0, 256, size=3))


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument(
        "--only-tilt", type=Path, metavar="SCORER", help="an earlier one's folder, to fit its reading of tilt"
    )
    flags.add_argument("--ranker", action="store_true", help="make the one that ranks, from another seed")
    args = flags.parse_args()
    preset, name = PRESETS[args.preset], "ranker" if args.ranker else "scorer"
    if args.only_tilt:
        scorer = Scorer.from_pretrained(args.only_tilt).to(device())
    else:
        scorer = train(args.run, preset, args.steps or preset.scorer_steps, args.minutes, name=name)
        fresh = scenes.render(TEST_SEED + 1, 250, preset.panel, args.run / "renders")
        set_threshold(scorer, to_tensor(fresh))
    families = scenes.render(TRAIN_SEED, preset.rendered, preset.panel, args.run / "renders")[:TILTED]
    tilts = torch.tensor([context.tilt for _, context in truths(TRAIN_SEED, len(families))])
    fit_tilt(scorer, to_tensor(families), tilts)
    scorer.save_pretrained(args.run / name)
    for held_out in (False, True):
        families = scenes.render(TEST_SEED + 2, 125, preset.panel, args.run / "renders", held_out=held_out)
        rows = accuracy(
            scorer, families.reshape(-1, *families.shape[2:]), truths(TEST_SEED + 2, 125, held_out=held_out)
        )
        print(f"{name} on 1000 fresh renders, held out {held_out}: {rows}", flush=True)


if __name__ == "__main__":
    main()
