"""DreamBench++'s protocol: a vision-language judge scores identity and prompt following from 0 to 4.

The judge answers three questions about an image: how well it keeps the subject of its reference (shape,
color, texture, face), how well it follows the prompt, and again how well it keeps the subject, where a copy
of the reference scores 0 (de-biased). The criteria are the benchmark's and the wording is ours: compare only
scores of the same judge and wording. A score is divided by 4.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import nan

from PIL import Image

from dsd.evaluation.photographs import PhotographScorer
from dsd.evaluation.scores import Case, Measure, Numbers, Scores
from dsd.vlm import schemas
from dsd.vlm.answers import TOP_SCORE, likely_cause, read_judgment
from dsd.vlm.base import AGAIN, VLM, Request, VLMError
from dsd.vlm.fields import read_fields

SIDE = 512  # pixels of an image that is judged
FORM = 'Answer with one JSON object and nothing else: {{"reason": "one sentence", "scores": {{"{part}": N}}}}'
SCALE = "Replace N by a whole number: 0 for {none}, 1 for poor, 2 for fair, 3 for good, 4 for {full}. "
COMPARED = (
    "You see two images. The first one is the reference. The second one was generated to show the same "
    "subject. Score how well the second image keeps the subject of the first one. Compare shape (outline, "
    "structure, proportions), color (hue, saturation, brightness, distribution), texture (details, material) "
    "and, of a person or an animal, the face. "
)
QUESTIONS = {  # measure -> its question, the part that is scored, and whether the judge sees the reference
    "cp": (
        COMPARED + SCALE.format(none="no resemblance", full="a near-identical subject"), "identity", True
    ),
    "pf": (
        "You see an image that was generated from this prompt: \"{prompt}\". Score how well the image shows "
        "what the prompt requests: every thing, attribute, action, place and style that it names, and "
        "nothing that contradicts it. " + SCALE.format(none="no relation", full="everything"), "prompt",
        False,
    ),
    "debiased_cp": (
        COMPARED + "Ignore background, view, pose and light, unless this is the prompt: \"{prompt}\" names "
        "them. An image that repeats the reference as a picture (same pose, view and background) although "
        "the prompt requests something else is a copy and scores 0. "
        + SCALE.format(none="no resemblance or a copy", full="the same subject, shown anew"), "identity",
        True,
    ),
}  # fmt: skip
MOST, FEWEST = 0.2, 20  # share of unreadable answers that stops the scoring, of at least this many
WORDS_OUT = 60  # tokens of an answer, as estimated: a sentence and a number


class JudgedScorer:
    """Scorer that adds a judge's scores to those of DINOv2 and CLIP.

    `open_judge` is called for each set of images, so that it sees answers that other processes recorded. An
    answer that cannot be read, asked for twice, leaves its score empty (NaN), and is counted.
    """

    measures = (
        Measure("cp", "CP (judge)", "the judge's score for the subject, divided by 4", is_identity=True),
        Measure(
            "pf", "PF (judge)", "the judge's score for the prompt, divided by 4", truth_is_best=False
        ),
        Measure(
            "cp_pf", "CP x PF (judge)", "CP times PF, image by image, then the mean", truth_is_best=False
        ),
        Measure(
            "debiased", "de-biased CP x PF (judge)",
            "PF times a CP for which a copy of the reference scores 0", truth_is_best=False,
        ),
        *PhotographScorer.measures,
    )  # fmt: skip
    traits = ()

    def __init__(self, networks: PhotographScorer, open_judge: Callable[[], VLM]) -> None:
        self.networks, self.open_judge = networks, open_judge
        judge = open_judge()
        self.backbones = networks.backbones | {f"judge {judge.name}": judge.weights or "on a server"}

    def score(self, cases: Sequence[Case], images: Sequence[Image.Image]) -> list[Numbers]:
        """Return the scores of each image; raise VLMError if too many answers cannot be read."""
        answers = self._ask(cases, images)
        rows = []
        for row, read in zip(self.networks.score(cases, images), answers, strict=True):
            cp, pf, debiased = (score for score, _ in read)
            rows.append({"cp": cp, "pf": pf, "cp_pf": cp * pf, "debiased": debiased * pf} | row)
        return rows

    def explain(self, cases: Sequence[Case], scores: Scores) -> list[str]:
        """Return the judge's reasons, from its recorded answers."""
        names = ("CP", "PF", "de-biased CP")
        return [
            "; ".join(f"{name}: {reason}" for name, (_, reason) in zip(names, read, strict=True))
            for read in self._ask(cases, scores.images)
        ]

    def _ask(self, cases: Sequence[Case], images: Sequence[Image.Image]) -> list[list[tuple[float, str]]]:
        """Return for each image the score, from 0 to 1, and the reason of every question."""
        questions = [
            (build(name, case, image), QUESTIONS[name][1])
            for case, image in zip(cases, images, strict=True)
            for name in QUESTIONS
        ]
        read = list(_read_answers(self.open_judge(), questions))
        return [read[start : start + len(QUESTIONS)] for start in range(0, len(read), len(QUESTIONS))]


def build(name: str, case: Case, image: Image.Image) -> Request:
    """Return one of the `QUESTIONS` about an image, with both images at 512 pixels."""
    question, part, is_compared = QUESTIONS[name]
    text = question.replace("{prompt}", " ".join(case.caption.split())) + FORM.format(part=part)
    shown = (case.reference, image) if is_compared else (image,)
    scores = schemas.fields(**{part: schemas.choice(*range(TOP_SCORE + 1))})
    return Request(
        text,
        tuple(one.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for one in shown),
        schema=schemas.fields(reason=schemas.TEXT, scores=scores),
    )


def _read_answers(judge: VLM, questions: list[tuple[Request, str]]) -> Iterator[tuple[float, str]]:
    """Yield score and reason of each answer; those that cannot be read are asked for once more."""
    answers = list(_check_readable(judge, questions))
    unread = [i for i, (_, part) in enumerate(questions) if _read_score(answers[i], part) is None]
    again = judge.ask_many(replace(questions[i][0], seed=AGAIN) for i in unread)
    for i, answer in zip(unread, again, strict=True):
        answers[i] = answer
    for answer, (_, part) in zip(answers, questions, strict=True):
        score = _read_score(answer, part)
        yield nan if score is None else score / TOP_SCORE, _read_reason(answer)


def _check_readable(judge: VLM, questions: list[tuple[Request, str]]) -> Iterator[str]:
    """Yield the answers; raise VLMError as soon as too many of them cannot be read."""
    unread = 0
    answers = judge.ask_many(request for request, _ in questions)
    for done, (answer, (_, part)) in enumerate(zip(answers, questions, strict=True), 1):
        unread += _read_score(answer, part) is None
        if done >= FEWEST and unread > MOST * done:
            raise VLMError(
                f"{unread} of {done} scores of {judge.name} cannot be read: {likely_cause(answer)}"
            )
        yield answer


def _read_score(answer: str, part: str) -> int | None:
    scores = read_judgment(answer, (part,)).scores
    return scores[part] if scores else None


def _read_reason(answer: str) -> str:
    values = read_fields(answer, {"reason": ("rationale", "explanation", "analysis")}).get("reason")
    return values[-1].strip(" \"'") if values else ""


# ---------------------------------------------------------------- cost


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What judging costs at most: retries and images already judged are not counted."""

    images: int
    requests: int
    tokens_in: int
    tokens_out: int

    def dollars(self, price_in: float, price_out: float) -> float:
        """Return the price, from prices of a million tokens."""
        return (self.tokens_in * price_in + self.tokens_out * price_out) / 1e6

    def __str__(self) -> str:
        return (
            f"{self.requests:,} questions about {self.images:,} images, about {self.tokens_in / 1e6:.2f} "
            f"million tokens in and {self.tokens_out / 1e6:.2f} million out"
        )


def estimate(cases: Sequence[Case], ways: int) -> Estimate:
    """Return the cost of judging the cases drawn in `ways` ways, counting those that set the levels.

    Four characters count as a token of text, and 750 pixels as one of an image, as hosted models count.
    """
    truths = sum(case.truth is not None for case in cases)
    images = len(cases) * ways + truths
    pixels = SIDE * SIDE * sum(1 + is_compared for _, _, is_compared in QUESTIONS.values())
    letters = sum(len(question) + len(FORM) for question, _, _ in QUESTIONS.values())
    prompt = sum(len(case.caption) for case in cases) / len(cases)
    each = (letters + 2 * prompt) / 4 + pixels / 750
    return Estimate(
        images=images,
        requests=images * len(QUESTIONS),
        tokens_in=round(images * each),
        tokens_out=images * len(QUESTIONS) * WORDS_OUT,
    )
