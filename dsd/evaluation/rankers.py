"""Rankers of images: the network of the drawn world, or an image encoder and a judge.

The network reads the traits of reference and images, so it needs no ground truth. An image encoder compares
whole images, background included, and reads no prompt; a judge that is asked as well scores both.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from PIL import Image

from dsd.generate.ranking import Ranker, Score
from dsd.model.presets import PRESETS, Preset
from dsd.pocket import scorer, world
from dsd.pocket.scorer import Reading, Scorer
from dsd.pocket.words import LIGHT_WORDS, USUAL
from dsd.vlm import schemas
from dsd.vlm.answers import TOP_SCORE, likely_cause, read_judgment
from dsd.vlm.base import AGAIN, VLM, Request, UnusableError
from dsd.vlm.embed import Embedder, open_embedder, similarity

PARTS = ("identity", "prompt")
QUESTION = (
    "You see two pictures. The second one was made to show the subject of the first one as requested here: "
    '"{prompt}". Score with whole numbers from 0 (not at all) to 4 (exactly) how well the second picture '
    "keeps the identity of the subject, whatever its pose, light and place, and how well it shows what the "
    "prompt requests. Answer with one JSON object and nothing else, in this form, with each N replaced by a "
    'score:\n{{"scores": {{"identity": N, "prompt": N}}}}'
)
SCHEMA = schemas.fields(scores=schemas.fields(**dict.fromkeys(PARTS, schemas.choice(*range(TOP_SCORE + 1)))))
NO_RANKER = "nothing here knows such images well enough to rank them: name an image encoder with --embedder"


def open_ranker(
    preset: Preset, *, embedder: str | None = None, judge: VLM | None = None, device: str | None = None
) -> Ranker:
    """Return what ranks a model's images: its family's network, or an image encoder and a judge.

    `embedder` is a folder or hub id; None means the family's. The family's network is not used beside it, and
    asks no judge. Raise ValueError if the family has neither.
    """
    family = PRESETS.get(preset.like, preset)
    if family.ranker and not embedder:
        return CritterRanker(scorer.load(family.ranker))
    if not (embedder or family.embedder):
        raise ValueError(NO_RANKER)
    return EncoderRanker(open_embedder(embedder or family.embedder, vlm=judge, device=device), judge)


class CritterRanker:
    """A ranker based on a network that reads traits: an image should have those of the reference."""

    def __init__(self, network: Scorer) -> None:
        self.network = network

    def __call__(self, frame: Image.Image, prompt: str, images: Sequence[Image.Image]) -> list[Score]:
        """Return the share of the reference's visible traits and of the prompt's words that each shows."""
        reference, *readings = self.network.read([frame, *images])
        requested = find_requested(prompt)
        return [_score(reference, requested, reading) for reading in readings]


def _score(reference: Reading, requested: dict[str, set[str]], reading: Reading) -> Score:
    same = [reading.choices[name] == reference.choices[name] for name in scorer.IDENTITY]
    names = scorer.numbers_of(reference.choices["pattern"], reference.choices["ears"])
    gaps = [
        scorer.distance(name, reference.numbers[name], reading.numbers[name]) / scorer.TOLERANCE[name]
        for name in names
    ]
    shown = [reading.choices[name] in values for name, values in requested.items()]
    identity = fmean([*same, *(gap <= 1 for gap in gaps)])
    return Score(identity, fmean(shown) if shown else None, -fmean(gaps))


def find_requested(prompt: str) -> dict[str, set[str]]:
    """Return for each part of the context the values that a prompt requests; none if it names no part.

    As in captions, a prompt that names no accessory requests none, and one that names no light the usual one.
    """
    words = re.findall(r"\w+", prompt.lower())
    scenes = {word for word in words if word in world.SCENES}
    places = [i for i, word in enumerate(words) if word in world.ACCESSORIES[1:]]
    colors = {words[i - 1] for i in places if i and words[i - 1] in world.ACCESSORY_COLORS}
    named = _named_lights(" ".join(words))
    if not (scenes or places or named):
        return {}
    requested = {"scene": scenes, "accessory_color": colors}
    requested["accessory"] = {words[i] for i in places} or {"none"}
    requested["light"] = named or {USUAL}
    return {name: values for name, values in requested.items() if values}


def _named_lights(text: str) -> set[str]:
    """Return the lights that a text names; `at sunset` alone names those from both sides."""
    exact = {light for light, words in LIGHT_WORDS.items() if (words or "in daylight") in text}
    begun = tuple(words for words in ("at sunset", "at night") if words in text)
    sides = [side for side in ("left", "right") if f"from the {side}" in text] or [""]
    kinds = {light for light, words in LIGHT_WORDS.items() if words.startswith(begun)}
    return exact or {light for light in kinds if light.endswith(tuple(sides))}


class EncoderRanker:
    """A ranker based on an image encoder's similarity; a judge, if any, scores subject and prompt."""

    def __init__(self, embedder: Embedder, judge: VLM | None = None) -> None:
        self.embedder, self.judge = embedder, judge

    def __call__(self, frame: Image.Image, prompt: str, images: Sequence[Image.Image]) -> list[Score]:
        """Return the scores; without a judge, identity is the cosine similarity and the prompt is not judged.

        With a judge, the similarity orders images whose scores are equal. Raise VLMError if it cannot judge.
        """
        reference, *vectors = self.embedder.embed([frame, *images])
        alike = [max(0.0, min(1.0, similarity(reference, vector).item())) for vector in vectors]
        if self.judge is None:
            return [Score(value, None, value) for value in alike]
        judged = ask(self.judge, frame, prompt, images)
        return [Score(*shares, value) for shares, value in zip(judged, alike, strict=True)]


def ask(
    judge: VLM, frame: Image.Image, prompt: str, images: Sequence[Image.Image]
) -> Iterator[tuple[float, float]]:
    """Yield a judge's scores for subject and prompt, from 0 to 1; an unreadable answer is asked for again."""
    question = QUESTION.format(prompt=" ".join(prompt.split()))
    requests = [Request(question, (frame, image), schema=SCHEMA) for image in images]
    for request, answer in zip(requests, judge.ask_many(requests), strict=True):
        scores = read_judgment(answer, PARTS).scores
        if scores is None:
            (answer,) = judge.ask_many([replace(request, seed=AGAIN)])
            scores = read_judgment(answer, PARTS).scores
        if scores is None:
            raise UnusableError(f"the judge's scores cannot be read: {likely_cause(answer)}")
        yield scores["identity"] / TOP_SCORE, scores["prompt"] / TOP_SCORE
