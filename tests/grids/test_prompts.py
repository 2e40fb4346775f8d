"""Grid prompts: worded as taught, no two nearly alike, the same after any number of kills."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dsd.files import jsonl
from dsd.grids import prompts, references, writers
from dsd.grids.prompts import Prompt, PromptError, compose_prompt, diversity, fingerprints, write_prompts
from dsd.grids.recipes import CRITTERS, IDENTITY, RECIPES
from dsd.pocket.words import VOCABULARY, describe_critter, describe_panel, grid_prompt
from dsd.pocket.world import SCENES, sample_context, sample_critter
from tests.writing import FOX, PETS, Fake, options, pairs, rng, written
from train import prompts as train_prompts


@pytest.mark.parametrize(("lines", "columns"), CRITTERS.layouts)
def test_the_critters_recipe_words_a_grid_exactly_as_pockets_teacher_was_taught(lines, columns):
    generator = rng()
    for _ in range(200):
        critter = sample_critter(generator)
        contexts = [sample_context(generator) for _ in range(lines * columns)]
        taught = grid_prompt(critter, contexts)
        if len(taught.split()) <= CRITTERS.longest["prompt"]:
            places = [describe_panel(context) for context in contexts]
            assert compose_prompt(CRITTERS, describe_critter(critter), places, lines, columns, 0) == taught


def test_a_typed_grid_names_its_subject_and_every_panel_in_reading_order():
    places = [f"place number {i}" for i in range(9)]
    for phrasing in range(len(IDENTITY.phrasings)):
        prompt = compose_prompt(IDENTITY, " a  red fox\n", places, 3, 3, phrasing)
        found = [prompt.index(text) for text in ("a red fox", *places)]
        assert found == sorted(found) and "9" in prompt and "3 by 3" in prompt and "{" not in prompt
    where = ("top left", "top center", "top right", "middle left", "middle center", "middle right", "bottom")
    assert [prompt.index(name) for name in where] == sorted(prompt.index(name) for name in where)
    assert "left one: a. The right one: b" in compose_prompt(IDENTITY, "fox", ["a", "b"], 1, 2, 0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"places": ["a", "b", "c"]}, "a 2x2 grid has 4 places, got 3"),
        ({"subject": "  "}, "a subject is empty"),
        ({"places": ["a", "b", "c", " "]}, "a place is empty"),
        ({"rows": 3, "columns": 3, "places": ["a"] * 9}, "grids of critters are 1x2, 2x2, got 3x3"),
        ({"phrasing": 1}, "critters has phrasings 0 to 0, got 1"),
        ({"subject": "x " * 8}, "a subject of critters has at most 7 words, got 8"),
        ({"places": ["red hat on the beach now"] * 4}, "a prompt of critters has at most 35 words, got 3"),
    ],
)
def test_what_makes_no_prompt_is_refused_with_its_value(changes, sentence):
    typed = {"subject": "fox", "places": ["a"] * 4, "rows": 2, "columns": 2, "phrasing": 0} | changes
    with pytest.raises(PromptError, match=sentence):
        compose_prompt(CRITTERS, **typed)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"count": 0}, "count must be from 1 to 1000000, got 0"),
        ({"seed": 4294}, "seed must be from 0 to 4293, got 4294"),
        ({"seed": -1}, "seed must be from 0"),
        ({"recipe": "cats"}, "recipe must be one of identity, relight, .*, got 'cats'"),
        ({"rows": 3, "columns": 3}, "grids of critters are 1x2, 2x2, got 3x3"),
    ],
)
def test_an_impossible_option_is_refused_with_its_value(changes, sentence):
    with pytest.raises(PromptError, match=sentence):
        options(**changes)


def test_every_recipe_has_its_questions_filled_from_a_caption():
    for recipe in RECIPES.values():
        assert "red {fox}" in recipe.filter.format(caption="red {fox}")
        assert "red {fox}" in recipe.write.format(caption="red {fox}", count=4)


@pytest.fixture(scope="module")
def critters(tmp_path_factory) -> list[jsonl.Row]:
    return written(tmp_path_factory.mktemp("critters"), count=200)


def test_the_drawn_worlds_prompts_are_in_its_few_words_and_fit_the_teacher(critters):
    assert len(critters) == 200
    for row in critters:
        words = row["prompt"].split()
        assert set(words) <= set(VOCABULARY) and len(words) <= 35  # and one token more for the end: 36
        assert row["subject"] in row["prompt"] and row["subject"] in row["caption"]


def test_the_scenes_of_a_drawn_grid_all_differ(critters):
    for row in critters:
        scenes = [place.split()[0] for place in row["places"]]
        assert len(set(scenes)) == 4 and set(scenes) <= set(SCENES)


def test_drawn_places_are_as_often_at_night_and_with_a_hat_as_in_the_images():
    generator, samples = rng(1), rng(2)
    drawn = [place for _ in range(250) for place in writers.draw_places(generator, 4)]
    seen = [describe_panel(sample_context(samples)) for _ in range(1000)]
    for word in ("hat", "flag", "night", "sunset", "white"):
        shares = [np.mean([word in place.split() for place in places]) for places in (drawn, seen)]
        assert abs(shares[0] - shares[1]) < 0.05


def test_a_rows_fields_are_those_of_the_run(critters):
    assert [row["id"] for row in critters[:2]] == ["000000", "000001"]
    assert [row["seed"] for row in critters[:3]] == [3_000_000, 3_000_001, 3_000_002]
    fixed = {"rows": 2, "columns": 2, "recipe": "critters", "phrasing": 0, "writer": "grammar"}
    assert all(row.items() >= fixed.items() for row in critters)


def test_held_out_critters_are_never_asked_for(tmp_path):
    captions = references.pocket(5)
    named = {writers.name_critter(next(captions)) for _ in range(600)}
    assert len(named) > 250 and not any(map(writers.is_held_out, named))
    held = "a yellow boxy spotted critter with round ears in the snow"  # with one eye, two or three
    assert writers.is_held_out(held)
    dropped = write_prompts(tmp_path, options(), captions=[held, "a red round plain critter with no ears"])
    assert dropped == {"held out": 1} and len(jsonl.read(tmp_path / "prompts.jsonl")) == 1


FOUR = ("on a sandy beach", "in deep snow", "under neon signs", "by a fireplace")


@pytest.mark.parametrize(
    ("subject", "places", "alike"),
    [
        ("Red fox!", FOUR, True),
        ("the red fox", FOUR[::-1], True),
        ("grey fox", FOUR, True),  # one word
        ("old red fox", FOUR, True),
        ("red fox", ("on a rocky beach", *FOUR[1:]), True),
        ("red fox", ("in a library of old books", *FOUR[1:]), True),  # one place
        ("grey owl", FOUR, False),
        ("red fox", ("on a rocky beach", "in wet snow", *FOUR[2:]), False),
        ("red fox", ("in a library", "at a fair", *FOUR[2:]), False),
    ],
)
def test_grids_are_alike_if_all_but_one_word_or_one_place_agree(subject, places, alike):
    assert bool(fingerprints("red fox", FOUR) & fingerprints(subject, places)) == alike


def test_grids_of_two_places_may_share_one():
    one, other = ("on a sandy beach", "in deep snow"), ("on a sandy beach", "by a warm fireplace")
    assert not fingerprints("red fox", one) & fingerprints("red fox", other)


def test_near_duplicates_are_dropped_and_counted(tmp_path):
    answers = {caption: FOX for caption in PETS[:2]} | {PETS[2]: FOX.replace("fox", "fox cub")}
    dropped = write_prompts(tmp_path, options(**pairs()), captions=PETS, vlm=Fake(answers))
    assert dropped == {"near-duplicate": 2}


def test_diversity_counts_what_differs():
    common = {"id": "", "prompt": "", "rows": 1, "columns": 2, "recipe": "", "seed": 0}
    grids = [
        Prompt(subject="red fox", places=["in snow", "in sand"], **common),
        Prompt(subject="Red  Fox", places=["in snow"], **common),
    ]
    assert diversity(grids) == {
        "subjects": 1, "places": 2, "ngrams_1": 5, "ngrams_2": 3, "ngrams_3": 0,
        "distinct_1": 5 / 10, "distinct_2": 3 / 5, "distinct_3": 0.0,
    }  # fmt: skip
    assert diversity([])["distinct_1"] == 0


@pytest.mark.parametrize("cut", [1, 300, 2500, 4000])
def test_a_run_that_was_cut_anywhere_is_completed_row_for_row(tmp_path, cut):
    whole = (written(tmp_path / "whole"), tmp_path / "whole" / "prompts.jsonl")[1].read_bytes()
    path = tmp_path / "cut" / "prompts.jsonl"
    path.parent.mkdir()
    path.write_bytes(whole[:-cut])
    written(path.parent)
    assert path.read_bytes() == whole


def test_more_rows_asked_for_later_are_added_and_fewer_remove_none(tmp_path):
    whole = written(tmp_path / "whole")
    assert written(tmp_path / "parts", count=5) == whole[:5]
    assert written(tmp_path / "parts") == whole
    assert written(tmp_path / "parts", count=2) == whole


def test_another_seed_gives_other_prompts(tmp_path):
    one, other = written(tmp_path / "one"), written(tmp_path / "other", seed=4)
    assert not {row["prompt"] for row in one} & {row["prompt"] for row in other}
    assert not {row["seed"] for row in one} & {row["seed"] for row in other}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 4}, "seed was 3000000, now 4000000"),
        ({"rows": 2}, "rows was 1, now 2"),
        ({"recipe": "critters", "captions": None}, "recipe was 'identity', now 'critters'"),
        ({"vlm": Fake()}, "writer was 'template', now 'fake'"),
        ({"captions": ["a blue car"]}, "caption was 'a photo of a red fox in the snow', now 'a blue car'"),
    ],
)
def test_a_run_is_not_continued_with_other_settings(tmp_path, changes, difference):
    before = written(tmp_path, PETS, **pairs())
    with pytest.raises(
        jsonl.RunError, match=f"made with other settings .{difference}.*: use those again, or another folder"
    ):
        written(tmp_path, **pairs(captions=PETS) | changes)
    assert jsonl.read(tmp_path / "prompts.jsonl") == before


@pytest.mark.parametrize("change", [{"batch": 3}, {"name": "other"}])
def test_answers_are_only_used_for_the_questions_they_answer(tmp_path, change):
    written(tmp_path, PETS, Fake(), **pairs(count=1))
    (tmp_path / "prompts.jsonl").unlink()
    vlm = Fake()
    vars(vlm).update(change)
    if "name" in change:
        with pytest.raises(
            jsonl.RunError, match="writer.jsonl was made with other settings .writer was 'fake', now 'other'"
        ):
            written(tmp_path, PETS, vlm, **pairs())
    else:
        assert len(written(tmp_path, PETS, vlm, **pairs())) == 3 and vlm.asked == []


def test_an_edited_row_is_not_built_upon(tmp_path):
    made = written(tmp_path)
    made[4]["prompt"] = "something else"
    with jsonl.writing(tmp_path / "prompts.jsonl") as append:
        (tmp_path / "prompts.jsonl").write_text("")
        append(made)
    with pytest.raises(
        jsonl.RunError, match="row 000004 was made with other settings .prompt was 'something else'"
    ):
        written(tmp_path)


def many() -> list[str]:
    return [f"a photo of a toy called {i:04}" for i in range(70)]


def write_in_blocks(run: Path, model: bool) -> None:
    prompts.BLOCK = 5  # more often half done; this process is a child of the test's
    changes = pairs(count=60) if model else {"count": 100}
    written(run, many() if model else None, Fake(wait=0.001) if model else None, **changes)


def content(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in run.glob("*.jsonl")}


def test_answers_that_a_killed_command_left_are_removed_at_the_end(tmp_path):
    write_in_blocks(tmp_path, model=True)
    (tmp_path / "answers.0.jsonl").write_text('{"id": "0", "answer": "Yes."}\n')
    write_in_blocks(tmp_path, model=True)
    assert not (tmp_path / "answers.0.jsonl").exists()


@pytest.mark.all_faults
@pytest.mark.skipif(os.name == "nt", reason="forks")
@pytest.mark.parametrize("model", [False, True])
def test_runs_killed_at_twenty_random_moments_equal_an_uninterrupted_one(tmp_path, model):
    fork, generator, begun = multiprocessing.get_context("fork"), rng(7), time.monotonic()
    whole = fork.Process(target=write_in_blocks, args=(tmp_path / "whole", model))
    whole.start()
    whole.join()
    took = time.monotonic() - begun
    kills, run = 0, 0
    while kills < 20 and run < 20:
        child = fork.Process(target=write_in_blocks, args=(tmp_path / str(run), model))
        child.start()
        child.join(generator.uniform(0, 0.4 * took))
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
        run += child.exitcode == 0  # it was done before: on with a new one
        assert child.exitcode in (0, -signal.SIGKILL)
    write_in_blocks(tmp_path / str(run), model)
    assert kills == 20
    for number in range(run + 1):
        assert content(tmp_path / str(number)) == content(tmp_path / "whole")


def test_the_command_reports_what_it_made_and_what_it_dropped(tmp_path, capsys):
    file = tmp_path / "captions.jsonl"
    file.write_text("\n".join(json.dumps({"alt": text}) for text in [*PETS, "two dogs"]))
    arguments = f"--count 9 --recipe identity --layout 1x2 --captions {file} --column alt".split()
    assert train_prompts.main([str(tmp_path / "run"), *arguments]) == 0
    said = capsys.readouterr().out
    assert "3 prompts in" in said and "too few usable captions for 9 prompts" in said
    assert "dropped: 1 several subjects" in said
    assert "diversity: 3 subjects, " in said and "different pairs of words" in said


def test_a_mistake_on_the_command_line_is_one_sentence_and_exit_code_2(tmp_path):
    again = [sys.executable, "-m", "train.prompts", str(tmp_path), "--count", "3", "--seed", "4"]
    written(tmp_path, count=2)
    done = subprocess.run(again, capture_output=True, text=True)
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert line.startswith("train.prompts: ") and "seed was 3000000, now 4000000" in line
