"""The ground-truth scorer: a small network, trained only on renders, that reads the traits from an image.

It measures identity and prompt following without another model's judgment, and how much an image differs from
the drawn world (`strangeness`), on which the app's warning is based.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch import Tensor, nn

from dsd.model import canvas
from dsd.pocket import world
from dsd.pocket.world import LIGHTS, PANEL, SCORER, Context, Critter

CHOICES = {
    "color": tuple(world.COLORS), "shape": world.SHAPES, "pattern": world.PATTERNS, "ears": world.EARS,
    "eyes": (1, 2, 3), "scene": world.SCENES, "accessory": world.ACCESSORIES,
    "accessory_color": tuple(world.ACCESSORY_COLORS), "light": LIGHTS, "place": world.PLACES,
}  # fmt: skip
IDENTITY = ("color", "shape", "pattern", "ears", "eyes")  # the choices that belong to the critter
# Angles are predicted as (cos, sin) of `turns` times the angle: stripes at 90 and -90 degrees look alike.
ANGLES = {"hue": 1, "accent_hue": 1, "stripe_angle": 2, "spot_turn": 4}
RANGES = {"stripe_width": (0.8, 1.3), "eye_size": (0.8, 1.25), "ear_length": (0.75, 1.35),
          "aspect": (0.9, 1.12)}  # fmt: skip
OF_PATTERN = {"plain": (), "striped": ("accent_hue", "stripe_angle", "stripe_width"),
              "spotted": ("accent_hue", "spot_turn")}  # fmt: skip
NUMBERS = 2 * len(ANGLES) + len(RANGES)
# Largest error at which a numeric trait counts as kept: in degrees, or as a share of its range.
TOLERANCE = {"hue": 14, "accent_hue": 45, "stripe_angle": 22, "spot_turn": 18, "stripe_width": 0.35,
             "eye_size": 0.35, "ear_length": 0.35, "aspect": 0.4}  # fmt: skip
FLAT = -3  # index in `Scorer.body` where the convolutions end and the features begin
BATCH = 128  # images read at a time
LEAN = 5  # largest difference in tilt, in degrees, that counts as the same pose


@dataclass(frozen=True)
class Reading:
    """The network's output for one image: the likeliest choice of each category, the value of each number."""

    choices: dict[str, str | int]
    numbers: dict[str, float]
    strangeness: float
    tilt: float = 0.0  # lean of the critter in degrees


class Scorer(nn.Module, PyTorchModelHubMixin, library_name="dsd", license="apache-2.0"):
    """A network from images [B, 3, size, size] in -1..1 to choices and numbers.

    `Scorer.from_pretrained(folder)` loads a scorer.
    """

    def __init__(self, width: int = 32, features: int = 192, size: int = PANEL):
        super().__init__()
        self.size = size
        w = width
        first = [_conv(3, w, 2)] if size == 64 else [_conv(3, w // 2, 2), _conv(w // 2, w, 2)]
        self.body = nn.Sequential(
            *first, _conv(w, 2 * w, 2), _Residual(2 * w), _conv(2 * w, 4 * w, 2), _Residual(4 * w),
            _conv(4 * w, 5 * w, 2), nn.Flatten(),
            nn.Linear(5 * w * 16, features), nn.BatchNorm1d(features), nn.ReLU(),
        )  # fmt: skip
        self.tilt = nn.Linear(5 * w * 16, 1)  # degrees; read before the features, which hardly contain it
        self.heads = nn.ModuleDict({n: nn.Linear(features, len(v)) for n, v in CHOICES.items()})
        self.numbers = nn.Linear(features, NUMBERS)
        self.strangeness = nn.Linear(features, 1)
        # An image with a higher strangeness counts as unlike the drawn world.
        self.register_buffer("strange", torch.tensor(float("inf")))

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Return logits by name [B, choices], numbers [B, NUMBERS], strangeness logit [B], tilt [B]."""
        convolved = self.convolve(images)
        features = self.body[FLAT:](convolved)
        logits = {name: head(features) for name, head in self.heads.items()}
        return logits, self.numbers(features), self.strangeness(features)[:, 0], self.tilt(convolved)[:, 0]

    def convolve(self, images: Tensor) -> Tensor:
        return self.body[:FLAT](images)  # [B, 80 * width]

    @torch.inference_mode()
    def read(self, images: list[Image.Image]) -> list[Reading]:
        """Return one reading for each PIL image; the images may have any size."""
        readings = []
        for start in range(0, len(images), BATCH):
            pixels = to_tensor(images[start : start + BATCH], self.size).to(self.strange.device)
            logits, numbers, strangeness, tilt = self.eval()(pixels)
            for i in range(len(pixels)):
                choices = {name: CHOICES[name][values[i].argmax()] for name, values in logits.items()}
                others = decode_numbers(numbers[i]), strangeness[i].item(), tilt[i].item()
                readings.append(Reading(choices, *others))
        return readings


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Sequential(_conv(width, width, 1), nn.Conv2d(width, width, 3, padding=1, bias=False),
                                   nn.BatchNorm2d(width))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.inner(x))


def _conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


@cache
def load(folder: str | Path = SCORER) -> Scorer:
    """Open a scorer; raise ValueError for one of an earlier version, which tells other lights apart."""
    try:
        return Scorer.from_pretrained(folder).eval()
    except RuntimeError as error:
        remedy = "train it again with python -m train.pocket.scorer"
        raise ValueError(f"the scorer in {folder} is of an earlier version: {remedy}") from error


def warning(image: Image.Image) -> str | None:
    """Return a warning if the image, of any size and mode, is unlike the drawn world, else None."""
    scorer = load()
    [reading] = scorer.read([canvas.fit(image, scorer.size, scorer.size)])
    if reading.strangeness <= scorer.strange.item():
        return None
    return (
        "This image is unlike the cartoon critters that are drawn here, so expect a poor likeness. "
        "You can still use it."
    )


def to_tensor(images: list[Image.Image], size: int) -> Tensor:
    """Convert PIL images of any size to a tensor [B, 3, size, size] in -1..1."""
    arrays = [np.asarray(p.convert("RGB").resize((size, size), Image.Resampling.BOX)) for p in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def encode_numbers(critter: Critter) -> list[float]:
    """Return the targets of the `numbers` head, [NUMBERS]."""
    encoded = []
    for name, turns in ANGLES.items():
        radians = math.radians(turns * true_number(critter, name))
        encoded += [math.cos(radians), math.sin(radians)]
    for name, (low, high) in RANGES.items():
        encoded.append(2 * (true_number(critter, name) - low) / (high - low) - 1)
    return encoded


def true_number(critter: Critter, name: str) -> float:
    """Return a numeric trait of the critter; `spot_turn` is the turn of its four spots modulo 90 degrees."""
    if name != "spot_turn":
        return getattr(critter, name)
    total = sum(np.exp(4j * math.atan2(y, x)) for x, y, _ in critter.spots)
    return math.degrees(np.angle(total)) / 4


def decode_numbers(row: Tensor) -> dict[str, float]:
    values = row.tolist()
    numbers = {}
    for i, (name, turns) in enumerate(ANGLES.items()):
        numbers[name] = math.degrees(math.atan2(values[2 * i + 1], values[2 * i])) / turns
    for value, (name, (low, high)) in zip(values[2 * len(ANGLES) :], RANGES.items(), strict=True):
        numbers[name] = low + (value + 1) / 2 * (high - low)
    return numbers


def visible_numbers(critter: Critter) -> list[str]:
    """Return the names of the numbers that can be seen: a plain critter, for example, has no stripe width."""
    return numbers_of(critter.pattern, critter.ears)


def numbers_of(pattern: str, ears: str) -> list[str]:
    """Return the names of the numbers that can be seen of a critter with this pattern and these ears."""
    return ["hue", "eye_size", "aspect", *OF_PATTERN[pattern], *([] if ears == "no" else ["ear_length"])]


def number_mask(critter: Critter) -> list[float]:
    """Return a mask [NUMBERS]: 1 for each number that can be seen, else 0."""
    visible = visible_numbers(critter)
    return [float(n in visible) for n in ANGLES for _ in (0, 1)] + [float(n in visible) for n in RANGES]


def check_traits(critter: Critter, reading: Reading) -> dict[str, bool]:
    """Return for each visible trait of the critter whether the image keeps it."""
    choices = {name: reading.choices[name] == getattr(critter, name) for name in IDENTITY}
    numbers = {name: true_number(critter, name) for name in visible_numbers(critter)}
    return choices | {name: is_close(name, true, reading.numbers[name]) for name, true in numbers.items()}


def identity(critter: Critter, reading: Reading) -> float:
    """Return the share of the critter's visible traits, choices and numbers, that the image keeps; 0..1."""
    traits = check_traits(critter, reading)
    return sum(traits.values()) / len(traits)


def check_context(context: Context, reading: Reading) -> dict[str, bool]:
    """Return whether the image shows each part of the context: scene, accessory with its color, light."""
    color = [] if context.accessory == "none" else ["accessory_color"]
    names = ["scene", "accessory", "light", *color]
    return {name: reading.choices[name] == getattr(context, name) for name in names}


def same_identity(readings: list[Reading]) -> bool:
    """Return whether all images show one critter: color, shape, pattern, ears, eyes and exact hue agree."""
    if any(len({reading.choices[name] for reading in readings}) > 1 for name in IDENTITY):
        return False
    hues = [reading.numbers["hue"] for reading in readings]
    return all(is_close("hue", a, b) for a in hues for b in hues)


def find_differing_parts(a: Reading, b: Reading) -> set[str]:
    """Return the parts of the context in which two images differ; an accessory includes its color."""
    parts = {part for part in ("scene", "accessory", "place", "light") if a.choices[part] != b.choices[part]}
    is_worn = "none" not in (a.choices["accessory"], b.choices["accessory"])
    is_recolored = is_worn and a.choices["accessory_color"] != b.choices["accessory_color"]
    return parts | {"accessory"} if is_recolored else parts


def is_close(name: str, a: float, b: float) -> bool:
    """Return whether two values of a number count as the same."""
    return distance(name, a, b) <= TOLERANCE[name]


def distance(name: str, a: float, b: float) -> float:
    """Return the distance in degrees, modulo the angle's period, or as a share of the number's range."""
    if name in ANGLES:
        period = 360 / ANGLES[name]
        return abs((a - b + period / 2) % period - period / 2)
    return abs(a - b) / (RANGES[name][1] - RANGES[name][0])
