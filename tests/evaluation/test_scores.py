"""What is measured is what was meant: scores, chance, ceiling, intervals, the alarm."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dsd.evaluation import scores, validation
from dsd.evaluation.intervals import Interval
from dsd.evaluation.scores import Case, Measure

# ---------------------------------------------------------------- a world of greys: identity is brightness


class Greys:
    """Identity is the share of brightness that agrees, copy the raw likeness to the reference."""

    measures = (
        Measure("identity", "identity", "brightness"),
        Measure("copy", "copy", "likeness", from_chance=True),
        Measure("guess", "guess", "one", truth_is_best=False),
    )

    def score(self, cases, images):
        levels = [image.getpixel((0, 0)) / 200 for image in images]
        return [
            {"identity": level, "copy": 1 - abs(level - case.reference.getpixel((0, 0)) / 200), "guess": 0.5}
            for case, level in zip(cases, levels, strict=True)
        ]


def grey(level: int) -> Image.Image:
    return Image.new("L", (2, 2), level)


def greys(count: int = 4, each: int = 2) -> list[Case]:
    return [
        Case(subject=f"s{i}", reference=grey(50 * i), prompt="p", caption="c", seed=0, truth=grey(200))
        for i in range(count)
        for _ in range(each)
    ]


def test_a_way_of_drawing_gets_what_each_case_asks_for():
    heard = []

    def draw(prompts, references, seeds):
        heard.append((prompts, references, seeds))
        return references

    cases = [replace(case, seed=i) for i, case in enumerate(greys())]
    scores.evaluate(draw, cases, Greys())
    scores.evaluate(draw, cases, Greys(), described=True)
    assert heard[0] == (["p"] * 8, [case.reference for case in cases], list(range(8)))
    assert heard[1][0] == ["c"] * 8


def test_copying_is_one_and_what_others_score_is_nought():
    copied = scores.evaluate(validation.by_copying, greys(), Greys())
    assert copied.means["copy"] == (1, 1, 1)
    assert copied.levels.chance["copy"].mean == pytest.approx(0)
    assert copied.levels.raw_chance["copy"] > 0.3


def test_chance_is_measured_on_other_subjects_only():
    class Strict(Greys):
        def score(self, cases, images):
            own = {id(c.reference): c.subject for c in cases}
            assert all(own.get(id(p), "") != c.subject for c, p in zip(cases, images, strict=True))
            return super().score(cases, images)

    cases = [replace(case, truth=None) for case in greys()]
    levels = scores.measure_levels(cases, Strict())
    assert levels.chance["identity"].mean == pytest.approx(np.mean([0, 50, 100, 150]) / 200, abs=0.13)


def test_the_ceiling_is_the_truths_score_and_unknown_where_there_is_no_truth():
    levels = scores.measure_levels(greys(), Greys())
    assert levels.ceiling["identity"].mean == 1
    assert "guess" not in levels.ceiling and "guess" in levels.chance
    untold = [replace(case, truth=None) for case in greys()]
    assert scores.measure_levels(untold, Greys()).ceiling == {}


def test_one_subject_is_too_few():
    with pytest.raises(ValueError, match="at least 2 subjects are needed, got 1"):
        scores.evaluate(validation.by_copying, greys(1), Greys())


def test_a_missing_image_is_noticed():
    with pytest.raises(ValueError, match="8 images were requested, but 7 were drawn"):
        scores.evaluate(lambda prompts, references, seeds: references[1:], greys(), Greys())


def test_the_flat_scores_say_interval_chance_and_ceiling():
    flat = scores.evaluate(validation.by_copying, greys(), Greys()).flat()
    assert flat["identity"] == pytest.approx(0.375)
    assert flat["identity_low"] < flat["identity"] < flat["identity_high"]
    assert flat["identity_ceiling"] == 1 and "guess_ceiling" not in flat
    assert all(isinstance(value, float) for value in flat.values())


def test_the_table_and_the_legend_name_every_measure():
    result = scores.evaluate(validation.by_copying, greys(), Greys())
    table = scores.table({"copier": result.means, "truth": result.levels.ceiling}, Greys.measures)
    assert "| copier | 0.375 (0.125 to 0.625) | 1.000 (1.000 to 1.000) | 0.500 (0.500 to 0.500) |" in table
    assert table.splitlines()[-1].endswith("| not known |")
    legend = scores.legend(Greys.measures, result.levels)
    assert "- identity: brightness; from 0 to 1, chance 1.000, the truth 1.000" in legend
    assert "- copy: likeness; from -0.6 to 1, chance 0.000" in legend
    assert "- guess: one; from 0 to 1, chance 0.500, its ceiling is not known" in legend


# ---------------------------------------------------------------- intervals


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        subject = rng.normal(size=30)  # most of the spread is between subjects, as it is with real ones
        rows = [{"x": s + rng.normal(scale=0.3)} for s in subject for _ in range(3)]
        found = scores.intervals(rows, [str(i // 3) for i in range(90)])["x"]
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_more_prompts_of_the_same_subjects_do_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(size=20)
    subjects = [str(i) for i in range(20)]
    once = scores.intervals([{"x": v} for v in values], subjects)["x"]
    often = scores.intervals([{"x": v} for v in values for _ in range(5)], sorted(5 * subjects, key=int))["x"]
    assert often == pytest.approx(once)


def test_comparing_case_by_case_is_finer_than_two_intervals():
    one = scores.evaluate(
        lambda p, r, s: [grey(round(v.getpixel((0, 0)) * 0.9)) for v in r], greys(), Greys()
    )
    two = scores.evaluate(validation.by_copying, greys(), Greys())
    assert two.means["identity"].low < one.means["identity"].high  # they overlap
    assert scores.difference(two, one)["identity"].low >= 0
    other = scores.evaluate(validation.by_copying, greys(3), Greys())
    with pytest.raises(ValueError, match="the same cases"):
        scores.difference(two, other)


# ---------------------------------------------------------------- the alarm


def history(copy, following, noise: float = 0.0, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = [{"copy": c, "following": f} for c, f in zip(copy, following, strict=True)]
    return [{name: value + rng.normal(scale=noise) for name, value in row.items()} for row in rows]


UP, DOWN, FLAT = np.linspace(0, 0.4, 12), np.linspace(0.85, 0.55, 12), np.full(12, 0.5)


def test_the_alarm_is_raised_where_copying_climbs_and_following_falls():
    for seed in range(20):
        line = scores.alarm(history(UP, DOWN, 0.03, seed))
        assert line and line.startswith("alarm: over the last 10 evaluations copying rose by 0.")


@pytest.mark.parametrize("copy, following", [(UP, FLAT), (FLAT, DOWN), (DOWN, UP), (UP, UP), (DOWN, DOWN)])
def test_one_trend_alone_raises_no_alarm(copy, following):
    assert not any(scores.alarm(history(copy, following, 0.03, seed)) for seed in range(20))


def test_noise_raises_hardly_ever_an_alarm():
    rng = np.random.default_rng(0)
    runs = [0.1 * rng.normal(size=12) for _ in range(300)]
    alarms = [
        scores.alarm(history(noise, 0.8 - noise)) is not None for noise in runs
    ]  # one mirrors the other
    assert np.mean(alarms) <= 0.02


def test_a_single_bad_evaluation_raises_no_alarm():
    copy, following = FLAT.copy(), FLAT.copy()
    copy[-1], following[-1] = 1.0, 0.0
    assert scores.alarm(history(copy, following)) is None


def test_small_trends_and_short_histories_raise_no_alarm():
    assert scores.alarm(history(UP / 20, DOWN / 20)) is None
    assert scores.alarm(history(UP, DOWN)[:7]) is None
    assert scores.alarm([{"loss": 0.3}] * 20) is None
    mixed = [row for pair in zip(history(UP, DOWN), [{"loss": 0.3}] * 12, strict=True) for row in pair]
    assert scores.alarm(mixed)


def test_a_fall_counts_by_what_following_has_above_chance():
    clip = [row | {"following_chance": 0.2} for row in history(UP, np.linspace(0.31, 0.27, 12))]
    assert "following fell by 0.03" in scores.alarm(clip)
    assert (
        scores.alarm([row | {"following_chance": 0.0} for row in history(UP, np.linspace(0.9, 0.86, 12))])
        is None
    )


def test_an_interval_reads_as_words():
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 (0.250 to 0.750)"
