"""Ranked images and guidance sheets: order, settings, words, and the command line."""

import itertools

import pytest

from dsd.generate import command, drawing, flags, provenance, ranking, sheet, terminal
from dsd.generate.drawing import Options
from dsd.generate.ranking import Score
from tests import tiny


@pytest.fixture(scope="module")
def results(pipe):
    options = Options(prompt=" a hat ", seed=5, count=3, steps=1)
    return drawing.generate(pipe, tiny.image(), options)


def fixed(*scores: Score):
    return lambda frame, prompt, images: list(scores)


SCORES = (Score(0.5, 1.0), Score(0.9, 1.0), Score(1.0, 0.25))


def test_the_best_stands_first_and_each_carries_its_scores(results, tmp_path):
    seen = []

    def ranker(*given):
        seen.append(given)
        return list(SCORES)

    ranked = ranking.rank(results, ranker)
    assert [result.seed for result in ranked] == [6, 5, 7]
    ((frame, prompt, images),) = seen
    assert (frame, prompt) == (results[0].frame, "a hat")
    assert images == [result.image for result in results]
    drawing.save(ranked[0], tmp_path / "best.png")
    settings = provenance.read_settings(tmp_path / "best.png")
    assert ranking.read_score(settings) == Score(0.9, 1.0)
    assert drawing.options_from(settings).seed == 6
    assert ranking.SETTING not in results[0].settings


def test_equal_scores_are_ordered_by_closeness_and_then_by_seed(results):
    near = ranking.rank(results, fixed(Score(1, 1, -0.5), Score(1, 1, -0.5), Score(1, 1, -0.1)))
    assert [result.seed for result in near] == [7, 5, 6]


def test_an_unjudged_prompt_leaves_the_subject_to_decide(results):
    ranked = ranking.rank(results, fixed(*(Score(value, None) for value in (0.2, 0.3, 0.1))))
    assert [result.seed for result in ranked] == [6, 5, 7]


@pytest.mark.parametrize(
    "scores",
    [None, "high", {}, {"identity": "1"}, {"identity": 2}, {"identity": float("nan")}, {"identity": True}],
)
def test_a_stranger_s_scores_are_not_shown(scores):
    assert ranking.read_score({ranking.SETTING: scores}) is None


def test_scores_are_said_in_words():
    assert ranking.in_words(Score(0.923, 1.0)) == "same subject 92 %, prompt 100 %"
    assert ranking.in_words(Score(0.5, None)) == "same subject 50 %, prompt not judged"


# ---------------------------------------------------------------- the command line


@pytest.fixture
def run(pipe, photo, monkeypatch, tmp_path):
    source = tmp_path / "photo.png"
    photo.save(source)
    monkeypatch.setattr(terminal, "open_model", lambda *_, **__: pipe)

    def run(*more: str) -> int:
        given = [str(source), "on the beach", "-o", str(tmp_path / "out.png"), "--steps", "1", "--seed", "5"]
        return command.run(flags.parse([*given, *more]))

    return run


def test_the_best_is_written_as_the_first_and_its_scores_are_printed(run, tmp_path, capsys):
    assert run("--count", "3", "--rank") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "out-" in line]
    settings = [provenance.read_settings(tmp_path / f"out-{i}.png") for i in (1, 2, 3)]
    assert sorted(each["seed"] for each in settings) == [5, 6, 7]
    orders = [ranking.read_score(each).order[0] for each in settings]
    assert orders == sorted(orders, reverse=True)
    for line, each in zip(lines, settings, strict=True):
        assert line.endswith(f"(seed {each['seed']}, {ranking.in_words(ranking.read_score(each))})")


def test_images_that_cannot_be_ranked_are_written_as_drawn(run, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("the judge is unreachable")

    monkeypatch.setattr(command, "_open_ranker", lambda args: fail)
    assert run("--count", "2", "--rank") == 2
    assert "the judge is unreachable" in capsys.readouterr().err
    assert [provenance.read_settings(tmp_path / f"out-{i}.png")["seed"] for i in (1, 2)] == [5, 6]


def test_an_interruption_keeps_the_images_that_are_drawn_without_their_ranks(
    run, pipe, tmp_path, monkeypatch
):
    def interrupt(results, ranker):
        raise KeyboardInterrupt

    monkeypatch.setattr(ranking, "rank", interrupt)
    assert run("--count", "2", "--rank") == 130
    assert [provenance.read_settings(tmp_path / f"out-{i}.png")["seed"] for i in (1, 2)] == [5, 6]


def test_an_image_drawn_again_is_not_ranked(run, tmp_path, capsys):
    assert command.run(flags.parse(["--from", "made.png", "--rank"])) == 2
    assert "leave out --rank" in capsys.readouterr().err


# ---------------------------------------------------------------- the sheet


@pytest.mark.parametrize(
    ("value", "values"),
    [(1.0, [1, 2, 3]), (1.5, [1, 1.5, 2.5]), (4, [3, 4, 5]), (9.5, [8.5, 9.5, 10]), (10, [8, 9, 10]),
     (0, [0, 1, 2])],
)  # fmt: skip
def test_values_stand_around_the_present_one_within_the_range(value, values):
    assert sheet.around(value) == pytest.approx(values)


def test_a_sheet_draws_every_pair_of_scales_from_one_seed(pipe):
    options = Options(prompt="a hat", seed=3, count=4, steps=2, width=32, height=32)
    cells = sheet.cells(options)
    frame = drawing.fit_reference(pipe, tiny.image(), options)
    seen = list(drawing.stream_each(pipe, frame, cells, model="tiny"))
    assert [progress.step for progress in seen] == sorted(progress.step for progress in seen)
    assert seen[-1].step == seen[-1].total == 18 and len(seen[-1].results) == 9
    made = [result.settings for result in seen[-1].results]
    scales = list(itertools.product((1, 1.5, 2.5), (1, 2, 3)))
    assert [(each["image_guidance"], each["text_guidance"]) for each in made] == scales
    assert {each["seed"] for each in made} == {3}
    (alone,) = drawing.generate(pipe, tiny.image(), cells[5])
    assert alone.image.tobytes() == seen[-1].results[5].image.tobytes()
