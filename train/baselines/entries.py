"""The rows of the comparison: how each is trained or tuned, and how it draws.

An entry with choices (learning rates, or strengths of SDEdit) is made once for each on a short schedule, and
then with the best one on the full schedule.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from dsd.curation.captions import GRID
from dsd.curation.dataset import write_dataset
from dsd.curation.selection import Choice
from dsd.evaluation import validation
from dsd.evaluation.scores import Draw
from dsd.files import jsonl
from dsd.files.pairs import Pairs, read_pairs
from dsd.grids.teacher import panel_side
from dsd.model.checkpoint import weights_hash
from dsd.training.cache import text_hash
from dsd.training.loop import default_method
from dsd.training.options import TrainOptions
from dsd.training.student import find_base, match_training, open_encoders
from train import comparison
from train.baselines import (
    concatenation,
    dreambooth,
    image_prompt,
    per_subject,
    reference_tokens,
    single_frame,
    textual_inversion,
)
from train.baselines.ablations import ABLATIONS, Ablation
from train.baselines.per_subject import Clock
from train.baselines.sdedit import STRENGTHS, by_sdedit
from train.baselines.workshop import ENCODED, Workshop, train_once

OURS = "ours"
SPREAD = 3.0  # the learning rates are a third of the usual one, the usual one and three times it
DREAMBOOTH, INVERSION = "DreamBooth-LoRA", "textual inversion"
TUNING_RATES = {DREAMBOOTH: (3e-4, 1e-3, 3e-3), INVERSION: (5e-3, 2e-2, 8e-2)}


@dataclass(frozen=True)
class Made:
    """A way of drawing that is ready, and what it cost."""

    draw: Draw
    key: str  # identifies weights and settings
    parameters: int = 0  # trained weights
    seconds: float = 0.0  # of training
    clock: Clock | None = None  # seconds for each subject


@dataclass(frozen=True)
class Entry:
    """A row of the comparison; `make(choice, is_short)` gets it ready."""

    name: str
    make: Callable[[float | None, bool], Made]
    choices: tuple[float, ...] = ()
    described: bool = False  # whether it is asked with the full caption
    names_subject: bool = False  # whether it adds the subject's words itself: the full caption, too
    like: str | None = None  # entry whose choice it takes


# ---------------------------------------------------------------- what is trained


def _schedule(shop: Workshop, options: TrainOptions, rate: float, is_short: bool) -> TrainOptions:
    return replace(options, lr=rate, steps=shop.search_steps if is_short else options.steps)


def make_ours(
    shop: Workshop, options: TrainOptions, open_pairs: Callable[[], Pairs], rate: float, is_short: bool
) -> Made:
    """Return our student: two frames, trained and drawn as in the app."""
    options = _schedule(shop, options, rate, is_short)
    folder = train_once(shop, OURS, default_method(), options, open_pairs())
    pipe = comparison.open_student(str(folder), base=options.model, device=str(shop.device))
    draw = validation.by_student(pipe, **shop.guidance)
    return _made(draw, f"{OURS} {comparison.part_hashes(pipe)} {shop.guidance}", folder)


def make_single_frame(
    shop: Workshop, kind: str, open_wrap: Callable[[], single_frame.Wrap], rate: float, is_short: bool
) -> Made:
    """Return a baseline of one frame."""
    wrap = open_wrap()
    # A widened model starts at zero here: there is no frame in which a copied start would show the subject.
    options = replace(_schedule(shop, shop.options, rate, is_short), condition_init_scale=0.0)
    folder = train_once(shop, kind, single_frame.method(wrap), options, shop.pairs)
    base = find_base(options)
    pipe = open_encoders(base, shop.dtype).to(shop.device)
    match_training(pipe, base, options)
    model = single_frame.load(wrap, base, options, folder, shop.dtype).to(shop.device, shop.dtype)
    guidance = options.guidance if model.config.guidance_embeds else None
    draw = single_frame.by_single_frame(pipe, model, guidance=guidance, **shop.guidance)
    weights = comparison.part_hashes(pipe) | {"transformer": weights_hash(model)}
    return _made(draw, f"{kind} {weights} {shop.guidance}", folder)


class Training(TypedDict):
    """What is read of `made.json`."""

    parameters: int
    seconds: float


def _made(draw: Draw, key: str, folder: Path) -> Made:
    about = jsonl.read_object(folder / "made.json", Training)
    return Made(draw, key, about["parameters"], about["seconds"])


# ---------------------------------------------------------------- what is not, or per subject


def make_teacher(shop: Workshop, choice: None, is_short: bool) -> Made:
    """Return the teacher, prompted without an image."""
    settings = {"steps": shop.steps, "guidance": shop.teacher.settings.guidance}
    draw = validation.by_teacher(shop.teacher.pipe, **settings)
    return Made(draw, f"teacher {shop.teacher_hashes} {settings}")


def make_sdedit(shop: Workshop, strength: float, is_short: bool) -> Made:
    settings = {"steps": shop.steps, "guidance": shop.teacher.settings.guidance, "strength": strength}
    return Made(by_sdedit(shop.teacher.pipe, **settings), f"sdedit {shop.teacher_hashes} {settings}")


def make_tuned(shop: Workshop, name: str, rate: float, is_short: bool) -> Made:
    """Return a method that tunes the teacher for each subject."""
    method = {DREAMBOOTH: dreambooth, INVERSION: textual_inversion}[name]
    teacher = shop.tuned_teacher
    tuning = replace(shop.tuning, rate=rate)
    settings = {"steps": shop.steps, "guidance": teacher.settings.guidance}
    key = f"{name} {shop.teacher_hashes} {settings} {tuning}"
    clock = Clock(shop.out / "tuning.jsonl", text_hash(key))
    plain = validation.by_teacher(teacher.pipe, **settings)
    subjects = per_subject.find_subjects(shop.cases)
    draw = per_subject.by_tuning(method.tuned, teacher.pipe, plain, subjects, tuning, clock)
    return Made(draw, key, method.trained_size(teacher.pipe, tuning), clock=clock)


def make_reconstruction(shop: Workshop, choice: None, is_short: bool) -> Made:
    """Return the VAE's own reconstruction of the reference: what its code alone loses."""
    pipe = shop.teacher.pipe
    side = panel_side(pipe)
    return Made(validation.by_reconstructing(pipe, side, side), f"vae {weights_hash(pipe.vae)}")


# ---------------------------------------------------------------- the list


def baselines(shop: Workshop) -> Iterator[Entry]:
    """Yield our method and all baselines."""
    rates = learning_rates(shop.options)
    ours = partial(make_ours, shop, shop.options, lambda: shop.pairs)
    yield Entry(OURS, ours, rates)
    yield Entry(f"{OURS} with full caption", ours, described=True, like=OURS)
    yield Entry("prompted teacher", partial(make_teacher, shop), described=True)
    yield Entry("SDEdit", partial(make_sdedit, shop), STRENGTHS, described=True)
    wraps: dict[str, Callable[[], Any]] = {
        "reference tokens": lambda: reference_tokens.wrap,
        ENCODED: lambda: image_prompt.wrapper(shop.encoder()),
        "channel concatenation": lambda: concatenation.wrap,
    }
    for name, open_wrap in wraps.items():
        yield Entry(name, partial(make_single_frame, shop, name, open_wrap), rates)
    for name, choices in TUNING_RATES.items():
        is_named = name == DREAMBOOTH  # textual inversion has a word of its own
        yield Entry(name, partial(make_tuned, shop, name), choices, names_subject=is_named)
    yield Entry(comparison.VAE, partial(make_reconstruction, shop))


def learning_rates(options: TrainOptions) -> tuple[float, ...]:
    return (options.lr / SPREAD, options.lr, options.lr * SPREAD)


def ablations(shop: Workshop) -> Iterator[Entry]:
    """Yield the ablations of our method."""
    for one in ABLATIONS:
        options = replace(shop.options, **one.changes)
        make = partial(make_ours, shop, options, partial(ablated_pairs, shop, one))
        yield Entry(one.name, make, learning_rates(options) if one.search else (), like=OURS)


def ablated_pairs(shop: Workshop, one: Ablation) -> Pairs:
    """Return an ablation's rows; a dataset of other pairs of the run is written first."""
    count = len(shop.pairs)
    if one.which == "judge":
        return read_pairs(shop.run, max_rows=max(2, int(count * one.share)))
    folder = shop.out / f"dataset-{one.which}"
    words = "grid" if shop.pairs[0].get("caption_writer") == GRID else "written"
    write_dataset(shop.run, folder, Choice(which=one.which, words=words, max_rows=count - count % 2))
    return read_pairs(folder)
