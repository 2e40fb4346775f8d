"""Grid prompts: worded as taught, no two nearly alike, none of a held-out critter."""

import json
import subprocess
import sys

import numpy as np
import pytest

from dsd.files import jsonl
from dsd.grids import references, writers
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
        (
            {
                "subject": "red round striped critter with long ears",
                "places": ["red hat on the beach now"] * 4,
            },
            "a prompt of critters has at most 40 words, got 4",
        ),
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
        assert (
            set(words) <= set(VOCABULARY) and len(words) <= 40
        )  # and at most four tokens more for the end: 44
        assert row["subject"] in row["prompt"] and row["subject"] in row["caption"]


def test_the_scenes_of_a_drawn_grid_all_differ(critters):
    for row in critters:
        scenes = [place.split()[0] for place in row["places"]]
        assert len(set(scenes)) == 4 and set(scenes) <= set(SCENES)


def test_drawn_places_are_as_often_at_night_and_with_a_hat_as_in_the_images():
    generator, samples = rng(1), rng(2)
    drawn = [place for _ in range(250) for place in writers.draw_places(generator, 4)]
    seen = [describe_panel(sample_context(samples)) for _ in range(1000)]
    for word in ("hat", "flag", "moonlight", "sunset", "white"):
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


def test_the_command_reports_what_it_made_and_what_it_dropped(tmp_path, capsys):
    file = tmp_path / "captions.jsonl"
    file.write_text("\n".join(json.dumps({"alt": text}) for text in [*PETS, "two dogs"]))
    arguments = f"--count 9 --recipe identity --layout 1x2 --captions {file} --column alt".split()
    assert train_prompts.main([str(tmp_path / "run"), *arguments]) == 0
    said = capsys.readouterr().out
    assert "3 prompts in" in said and "too few usable captions for 9 prompts" in said
    assert "dropped: 1 several subjects" in said
    assert "diversity: 3 subjects, " in said and "different pairs of words" in said


@pytest.mark.parametrize("flag, needed", [("--column", "--captions"), ("--writer-model", "--writer")])
def test_a_flag_without_an_effect_is_refused(flag, needed, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train_prompts.main([str(tmp_path), "--count", "3", flag, "x"])
    assert f"{flag} would have no effect without {needed}" in capsys.readouterr().err


def test_prompts_about_photographs_need_captions(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train_prompts.main([str(tmp_path), "--count", "3", "--recipe", "relight"])
    assert "--recipe relight needs --captions" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_mistake_on_the_command_line_is_one_sentence_and_exit_code_2(tmp_path):
    again = [sys.executable, "-m", "train.prompts", str(tmp_path), "--count", "3", "--seed", "4"]
    written(tmp_path, count=2)
    done = subprocess.run(again, capture_output=True, text=True)
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert line.startswith("train.prompts: ") and "seed was 3000000, now 4000000" in line
