"""Relighting and edits in pocket's trainings: what is drawn, said and asked, at toy size."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dsd.curation.verdict import Judged, Thresholds, add_answer, decide
from dsd.grids.recipes import CRITTERS_EDIT, CRITTERS_RELIGHT
from dsd.pocket.words import describe_edit
from tests.toys import TOY, toy_latents
from train.pocket import lessons, scenes, teacher, text
from train.pocket.judge import model as judge
from train.pocket.judge import pairs, words
from train.pocket.judge.pairs import sample_edit, sample_related, scene
from train.pocket.vae import model as vae

COUNT = 4
MANY = 30  # families, so that every trait is changed in some
LESSONS = (lessons.EDITED, lessons.COPIED_EDITED)


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> scenes.Truths:
    return scenes.load_truths(vae.TRAIN_SEED, COUNT, tmp_path_factory.mktemp("truths"), edits=True)


def decided(first: scenes.Scene, second: scenes.Scene, recipe) -> str:
    """Why the pair is kept or dropped if the judge says what it is taught."""
    text = words.whole_comparison(first, second, np.random.default_rng(0))
    pair = Judged(id="", recipe=recipe.name, seed=0, similarity=None)
    return decide(add_answer(pair, text, recipe), Thresholds())[1]


# ---------------------------------------------------------------- the teacher


def test_edits_follow_the_panels_of_their_family(known, tmp_path):
    alone = scenes.load_truths(vae.TRAIN_SEED, COUNT, tmp_path)
    assert (known.panels, alone.panels) == (scenes.FAMILY + scenes.EDITS, scenes.FAMILY)
    assert known.families == alone.families == COUNT
    for family in range(COUNT):
        assert known.scene(family, 3) == alone.scene(family, 3)
        for edit, (_, context) in enumerate(scenes.edits(vae.TRAIN_SEED, family)):
            seen = known.scene(family, scenes.FAMILY + edit)
            assert (seen.place, seen.accessory, seen.light) == (
                context.place,
                context.accessory,
                context.light,
            )
    images = scenes.render(vae.TRAIN_SEED, 1, 32, tmp_path, kind="edits")
    assert images.shape == (1, scenes.EDITS, 32, 32, 3) and len(np.unique(images, axis=1)[0]) == scenes.EDITS


def test_grids_of_edits_show_one_scene_and_say_what_differs(known):
    rng, t5 = np.random.default_rng(0), text.build_t5_tokenizer()
    for lesson in LESSONS:
        grids = [lessons.sample_grid(known, i % COUNT, lesson, rng) for i in range(60)]
        for i, grid in enumerate(grids):
            told = [known.scene(i % COUNT, panel) for panel in grid.panels]
            assert sorted(grid.panels) == sorted(scenes.EDITED) and any(grid.shown) == lesson.copying
            assert len({(one.scene, one.light) for one in told}) == 1 and "top left" in grid.prompt
            assert len(t5(grid.prompt).input_ids) <= lesson.tokens
            assert t5.unk_token_id not in t5(grid.prompt).input_ids


def test_the_tasks_change_the_last_stage_alone_and_only_on_request(known):
    assert lessons.STAGES[0.0] is lessons.TASK_STAGES[0.0] and not set(LESSONS) & set(lessons.STAGES[0.55])
    assert set(LESSONS) < set(lessons.TASK_STAGES[0.55])
    assert all(sum(shares.values()) == pytest.approx(1) for shares in lessons.TASK_STAGES.values())
    settings = {"steps": 1, "lessons": (0.9, 0.9)}
    sampler = lessons.Sampler(known, 4, **settings, stages=lessons.TASK_STAGES)
    assert {sampler[step].lesson for step in range(60)} & set(LESSONS)


def test_the_teacher_learns_grids_of_edits(known):
    edits = torch.randn(COUNT, scenes.EDITS, 16, 8, 8, generator=torch.Generator().manual_seed(1)).half()
    images = teacher.Images(torch.cat([toy_latents(), edits], 1), known.targets("cpu"))
    sampler = lessons.Sampler(known, 8, steps=1, stages={0.0: {lessons.EDITED: 1.0}})
    loss = teacher.loss(teacher.Teacher(TOY), images, TOY, 0, sampler[0])
    assert torch.isfinite(loss) and sampler[0].panels.max() >= scenes.FAMILY


# ---------------------------------------------------------------- the judge


def test_the_judge_is_taught_answers_that_keep_one_change_of_the_tasks_kind():
    rng = np.random.default_rng(2)
    for _ in range(20):
        relit = [scene(row) for row in sample_related("relit", COUNT, rng)]
        edited = [scene(row) for row in sample_edit(COUNT, rng)]
        assert decided(*relit, CRITTERS_RELIGHT) == decided(*edited, CRITTERS_EDIT) == "same subject"
        assert decided(*relit, CRITTERS_EDIT) == decided(*edited, CRITTERS_RELIGHT) == "a part scores low"
        assert decided(relit[0], relit[0], CRITTERS_RELIGHT) == "nothing changes"
        other = (
            scenes.family(vae.TRAIN_SEED, 0)[scenes.SAME][0],
            relit[1][1],
        )  # a near miss in the same context
        first = scenes.family(vae.TRAIN_SEED, 0)[0][0], relit[0][1]
        assert decided(first, other, CRITTERS_RELIGHT) == "judged different"


def test_an_edit_with_two_changes_is_dropped():
    two = [(0, scenes.FAMILY + 2), (scenes.FAMILY, scenes.FAMILY + 2)]  # moved; moved and another accessory
    reasons = [decided(*(scene(pairs._row(1, panel)) for panel in panels), CRITTERS_EDIT) for panels in two]
    assert reasons == ["same subject", "a part scores low"]


def test_the_tasks_words_follow_the_others_and_all_are_known():
    plain, whole = judge.build_tokenizer(), judge.build_tokenizer(tasks=True)
    assert plain.get_vocab().items() < whole.get_vocab().items()
    for step in (0, 3, 6, 7):
        rows, question, answers = judge.sample_task_batch(MANY, 30, step)
        for answer in answers:
            assert whole.unk_token_id not in whole(f"{question} answer: {answer}").input_ids
            assert len(whole(answer).input_ids) + 2 * 64 + 10 < 512  # of the judge's positions
        assert len(rows) == 30 and question in (CRITTERS_EDIT.compare, "which light", "which change")


def test_instructions_say_the_change_that_leads_to_the_second_image():
    rows, _, answers = judge.sample_task_batch(COUNT, 20, 7)
    for (before, after), answer in zip(rows, answers, strict=True):
        assert (
            answer
            == describe_edit(scene(before)[1], scene(after)[1])
            != describe_edit(scene(after)[1], scene(before)[1])
        )


def test_the_judge_learns_from_edits_on_request():
    rng = np.random.default_rng(0)
    plain, edits = (
        rng.integers(0, 256, (MANY * n, 32, 32, 3), np.uint8) for n in (scenes.FAMILY, scenes.EDITS)
    )
    images = SimpleNamespace(count=MANY, taught_count=MANY, plain=plain, edits=edits, redrawn=(), true=())
    images.pick = lambda row, chance: judge.Images.pick(images, row, chance)
    images.batch = lambda rows, generator: judge.Images.batch(images, rows, generator)
    small, tokenizer = (
        SimpleNamespace(judge_width=32, judge_eye_blocks=1, judge_blocks=1),
        judge.build_tokenizer(tasks=True),
    )
    model = judge.build(small, tokenizer)
    losses = [judge.answer_loss(model, tokenizer, images, 2, step, tasks=True) for step in (0, 16, 22, 23)]
    assert all(torch.isfinite(loss) for loss in losses)
    assert np.array_equal(images.pick(-2, 0.0), edits[1]) and np.array_equal(images.pick(1, 0.9), plain[1])
