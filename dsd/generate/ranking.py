"""Rank the images of one request: how well each keeps the subject and shows the prompt, the best first.

A ranker takes the reference frame, the prompt and the images. `dsd.evaluation.rankers` opens the one that
suits a model. The scores are written into the settings of each image, so that its PNG carries them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from dsd.generate.drawing import Result

SETTING = "scores"  # in the settings of an image


@dataclass(frozen=True)
class Score:
    """The scores of one image, from 0 to 1."""

    identity: float  # how much of the subject it keeps
    following: float | None  # how much of the prompt it shows; None: nobody can tell
    closeness: float = 0.0  # orders images whose scores are equal; any number, higher is better

    @property
    def order(self) -> tuple[float, float]:
        """Return what images are sorted by."""
        return self.identity * (1.0 if self.following is None else self.following), self.closeness


Ranker = Callable[[Image.Image, str, Sequence[Image.Image]], list[Score]]


def rank(results: Sequence[Result], ranker: Ranker) -> list[Result]:
    """Return the results of one request, the best first, with their scores in the settings."""
    first = results[0]
    scores = ranker(first.frame, first.settings["prompt"], [result.image for result in results])
    pairs = sorted(zip(results, scores, strict=True), key=lambda pair: pair[1].order, reverse=True)
    return [replace(result, settings=result.settings | _record(score)) for result, score in pairs]


def _record(score: Score) -> dict[str, Any]:
    following = None if score.following is None else round(score.following, 4)
    return {SETTING: {"identity": round(score.identity, 4), "following": following}}


def read_score(settings: Mapping[str, Any]) -> Score | None:
    """Return the scores in an image's settings; None if there are none, or if they are not from 0 to 1."""
    scores = settings.get(SETTING)
    if not isinstance(scores, dict) or not _is_share(scores.get("identity")):
        return None
    following = scores.get("following")
    return Score(scores["identity"], following if _is_share(following) else None)


def _is_share(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 0 <= value <= 1


def in_words(score: Score) -> str:
    """Return scores in words, such as `same subject 92 %, prompt 100 %`."""
    prompt = "prompt not judged" if score.following is None else f"prompt {score.following:.0%}"
    return f"same subject {score.identity:.0%}, {prompt}".replace("%", " %")
