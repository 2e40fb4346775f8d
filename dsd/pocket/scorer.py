"""The ground-truth scorer: a small network, trained only on renders, that reads the traits from an image.

It measures identity and prompt following without another model's opinion. It also estimates how unlike the
drawn world an image is (`strangeness`); the app's warning is based on that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch import Tensor, nn

from dsd.pocket.family import SCORER
from dsd.pocket.world import (
    ACCESSORIES,
    ACCESSORY_COLORS,
    COLORS,
    EARS,
    LIGHTS,
    PATTERNS,
    PLACES,
    SCENES,
    SHAPES,
    Context,
    Critter,
)  # fmt: skip

CHOICES = {
    "color": tuple(COLORS), "shape": SHAPES, "pattern": PATTERNS, "ears": EARS, "eyes": (1, 2, 3),
    "scene": SCENES, "accessory": ACCESSORIES, "accessory_color": tuple(ACCESSORY_COLORS), "light": LIGHTS,
    "place": PLACES,
}  # fmt: skip
# Angles are predicted as (cos, sin) of `turns` times the angle: stripes at 90 and -90 degrees are the same.
ANGLES = {"hue": 1, "accent_hue": 1, "stripe_angle": 2, "spot_turn": 4}
RANGES = {
    "stripe_width": (0.8, 1.3),
    "eye_size": (0.8, 1.25),
    "ear_length": (0.75, 1.35),
    "aspect": (0.9, 1.12),
}
NUMBERS = 2 * len(ANGLES) + len(RANGES)
# Largest error at which an unnamed trait counts as kept: in degrees, or as a share of its range.
TOLERANCE = {"hue": 14, "accent_hue": 45, "stripe_angle": 22, "spot_turn": 18, "stripe_width": 0.35,
             "eye_size": 0.35, "ear_length": 0.35, "aspect": 0.4}  # fmt: skip
FLAT = -3  # index in `Scorer.body` where the convolutions end and the features begin
LEAN = 5  # largest difference in tilt, in degrees, that counts as the same pose


@dataclass(frozen=True)
class Reading:
    """The network's output for one image: the likeliest choice of each category and the value of each number.

    `tilt` is the lean of the critter in degrees.
    """

    choices: dict[str, str | int]
    numbers: dict[str, float]
    strangeness: float
    tilt: float = 0.0


class Scorer(nn.Module, PyTorchModelHubMixin, library_name="dsd", license="apache-2.0"):
    """A network from images [B, 3, size, size] in -1..1 to choices and numbers.

    `Scorer.from_pretrained(folder)` loads one. `lights` are the names of the lights that it distinguishes.
    """

    def __init__(self, width: int = 32, features: int = 192, size: int = 128, lights: Sequence[str] = LIGHTS):
        super().__init__()
        self.size, self.choices = size, CHOICES | {"light": tuple(lights)}
        w = width
        first = [_conv(3, w, 2)] if size == 64 else [_conv(3, w // 2, 2), _conv(w // 2, w, 2)]
        self.body = nn.Sequential(
            *first, _conv(w, 2 * w, 2), _Residual(2 * w), _conv(2 * w, 4 * w, 2), _Residual(4 * w),
            _conv(4 * w, 5 * w, 2), nn.Flatten(),
            nn.Linear(5 * w * 16, features), nn.BatchNorm1d(features), nn.ReLU(),
        )  # fmt: skip
        self.tilt = nn.Linear(5 * w * 16, 1)  # degrees; read before the features, which hardly contain it
        self.heads = nn.ModuleDict(
            {name: nn.Linear(features, len(values)) for name, values in self.choices.items()}
        )
        self.numbers = nn.Linear(features, NUMBERS)
        self.strangeness = nn.Linear(features, 1)
        self.register_buffer("strange", torch.tensor(float("inf")))  # above it, an image is unlike the world

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Return logits by name [B, choices], numbers [B, NUMBERS], strangeness logit [B], tilt [B]."""
        seen = self.see(images)
        features = self.body[FLAT:](seen)
        named = {name: head(features) for name, head in self.heads.items()}
        return named, self.numbers(features), self.strangeness(features)[:, 0], self.tilt(seen)[:, 0]

    def see(self, images: Tensor) -> Tensor:
        """Return the output of the convolutions, [B, 80 width]."""
        return self.body[:FLAT](images)

    @torch.inference_mode()
    def read(self, images: list[Image.Image], batch: int = 128) -> list[Reading]:
        """Return one reading for each PIL RGB image, of any size."""
        readings = []
        for start in range(0, len(images), batch):
            readings += self._read(
                to_tensor(images[start : start + batch], self.size).to(self.strange.device)
            )
        return readings

    def _read(self, images: Tensor) -> list[Reading]:
        logits, numbers, strangeness, tilt = self.eval()(images)
        chosen = {
            name: [self.choices[name][i] for i in values.argmax(1).tolist()]
            for name, values in logits.items()
        }
        told = zip(numbers.cpu(), strangeness.tolist(), tilt.tolist(), strict=True)
        return [
            Reading({name: values[i] for name, values in chosen.items()}, decode_numbers(row), strange, lean)
            for i, (row, strange, lean) in enumerate(told)
        ]


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
    return Scorer.from_pretrained(folder).eval()


def to_tensor(images: list[Image.Image], size: int) -> Tensor:
    """Convert PIL images of any size to a tensor [B, 3, size, size] in -1..1."""
    arrays = [np.asarray(p.convert("RGB").resize((size, size), Image.Resampling.BOX)) for p in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


# ---------------------------------------------------------------- numbers, and which of them are visible


def encode_numbers(critter: Critter) -> list[float]:
    """Return the targets of the `numbers` head, [NUMBERS]."""
    angles = {
        **{name: getattr(critter, name) for name in ("hue", "accent_hue", "stripe_angle")},
        "spot_turn": _turn(critter),
    }
    encoded = []
    for name, turns in ANGLES.items():
        radians = math.radians(turns * angles[name])
        encoded += [math.cos(radians), math.sin(radians)]
    return encoded + [
        2 * (getattr(critter, name) - low) / (high - low) - 1 for name, (low, high) in RANGES.items()
    ]


def decode_numbers(row: Tensor) -> dict[str, float]:
    values = row.tolist()
    numbers = {}
    for i, (name, turns) in enumerate(ANGLES.items()):
        numbers[name] = math.degrees(math.atan2(values[2 * i + 1], values[2 * i])) / turns
    for value, (name, (low, high)) in zip(values[2 * len(ANGLES) :], RANGES.items(), strict=True):
        numbers[name] = low + (value + 1) / 2 * (high - low)
    return numbers


def visible_numbers(critter: Critter) -> list[str]:
    """Return the numbers that can be seen: a plain critter has no stripes, one without ears no ear length."""
    seen = ["hue", "eye_size", "aspect"]
    if critter.pattern != "plain":
        seen.append("accent_hue")
    if critter.pattern == "striped":
        seen += ["stripe_angle", "stripe_width"]
    if critter.pattern == "spotted":
        seen.append("spot_turn")
    return seen + (["ear_length"] if critter.ears != "no" else [])


def number_mask(critter: Critter) -> list[float]:
    """Return a mask [NUMBERS]: 1 for each number that can be seen, else 0."""
    seen = visible_numbers(critter)
    return [float(n in seen) for n in ANGLES for _ in (0, 1)] + [float(n in seen) for n in RANGES]


def _turn(critter: Critter) -> float:
    """Return the rotation of the four spots from a cross, in degrees within a quarter turn."""
    total = sum(np.exp(4j * math.atan2(y, x)) for x, y, _ in critter.spots)
    return math.degrees(np.angle(total)) / 4


# ---------------------------------------------------------------- identity and prompt following


def kept(critter: Critter, reading: Reading) -> dict[str, bool]:
    """Return for each visible trait of the critter whether the image keeps it."""
    result = {
        name: reading.choices[name] == getattr(critter, name)
        for name in ("color", "shape", "pattern", "ears", "eyes")
    }
    for name in visible_numbers(critter):
        truth = _turn(critter) if name == "spot_turn" else getattr(critter, name)
        result[name] = distance(name, truth, reading.numbers[name]) <= TOLERANCE[name]
    return result


def identity(critter: Critter, reading: Reading) -> float:
    """Return the share of the critter's visible traits, named and unnamed, that the image keeps; 0..1."""
    traits = kept(critter, reading)
    return sum(traits.values()) / len(traits)


def followed(context: Context, reading: Reading) -> dict[str, bool]:
    """Return whether the image shows each part of the requested context.

    The parts are scene, accessory, light and, if there is an accessory, its color.
    """
    parts = {
        name: reading.choices[name] == getattr(context, name) for name in ("scene", "accessory", "light")
    }
    if context.accessory != "none":
        parts["accessory_color"] = reading.choices["accessory_color"] == context.accessory_color
    return parts


def same_identity(readings: list[Reading]) -> bool:
    """Return whether all images show one critter: color, shape, pattern, ears, eyes and exact hue agree."""
    first = readings[0]
    names = ("color", "shape", "pattern", "ears", "eyes")
    agree = all(r.choices[n] == first.choices[n] for r in readings for n in names)
    return agree and all(
        distance("hue", a.numbers["hue"], b.numbers["hue"]) <= TOLERANCE["hue"]
        for a in readings
        for b in readings
    )


def distance(name: str, a: float, b: float) -> float:
    """Return the distance in degrees, modulo the angle's period, or as a share of the number's range."""
    if name in ANGLES:
        period = 360 / ANGLES[name]
        return abs((a - b + period / 2) % period - period / 2)
    low, high = RANGES[name]
    return abs(a - b) / (high - low)
