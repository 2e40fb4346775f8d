"""`train.curate` and `train.prompts` through a server: every style of answer gives the same result."""

import threading
import time
from pathlib import Path

import pytest

from dsd.files import jsonl
from dsd.vlm.client import RetryingClient
from dsd.vlm.open import open_vlm
from tests.chat import faults
from tests.chat.server import Chat, serving
from tests.chat.styles import READABLE
from tests.judging import BLUE, DARK_RED, ORANGE, RED, make_run
from train import curate, prompts

GREEN, NAVY = "#00c000", "#000080"
GRIDS = ((RED, DARK_RED, ORANGE, BLUE), (RED, BLUE), (BLUE, NAVY), (GREEN, ORANGE))
KEPT = {"000000-0-1", "000000-0-2", "000000-1-2", "000002-0-1"}


def judged(folder: Path, chat: Chat, *flags: str) -> list[jsonl.Row]:
    """Return the pairs of a small run, judged by the server without a cheap first look."""
    run = make_run(folder / "run", *GRIDS, recipe="identity")
    with serving(chat) as address:
        curate.main([str(run), "--judge", address, "--embedder", "none", "--no-captions", *flags])
    return jsonl.read(run / "pairs.jsonl")


def kept(pairs: list[jsonl.Row]) -> set[str]:
    return {pair["id"] for pair in pairs if pair["verdict"] == "keep"}


def test_every_style_gives_the_same_kept_rate(tmp_path):
    pairs = {style: judged(tmp_path / style, Chat(style=style)) for style in READABLE}
    rates = {style: f"{len(kept(found)) / len(found):.1%}" for style, found in pairs.items()}
    print(f"kept rate of one run, answered in {len(rates)} styles: {rates}")
    assert len(rates) >= 12 and set(rates.values()) == {"44.4%"}, rates
    assert all(kept(found) == KEPT for found in pairs.values())


def test_thoughts_in_a_field_of_their_own_do_no_harm(tmp_path):
    assert kept(judged(tmp_path, Chat(style="reasoning_beside"))) == KEPT


def test_a_server_with_schemas_gives_json_whatever_the_style(tmp_path):
    assert kept(judged(tmp_path, Chat(style="markdown", schemas=True))) == KEPT


def test_a_hosted_reasoning_model_is_asked_in_its_own_way(tmp_path):
    assert kept(judged(tmp_path, Chat(reasoning_model=True))) == KEPT


def test_both_orders_agree_because_the_verdict_is_symmetric(tmp_path):
    pairs = judged(tmp_path, Chat(), "--votes", "2", "2")
    assert kept(pairs) == KEPT


# ---------------------------------------------------------------- no answer


@pytest.mark.parametrize("style", ["refusal", "truncated", "truncated_thinking"])
def test_a_run_of_unreadable_answers_stops_with_an_example(tmp_path, style):
    with pytest.raises(ValueError, match="(?i)unreadable|cannot be read"):
        judged(tmp_path, Chat(style=style))


def test_an_answer_in_reasoning_content_is_read_or_explained(tmp_path):
    try:
        assert kept(judged(tmp_path, Chat(style="reasoning_only"))) == KEPT
    except ValueError as error:
        assert "reasoning" in str(error)


def test_an_unreadable_answer_is_asked_for_once_more(tmp_path):
    chat = Chat(before=[faults.Fault(b'{"choices": [{"message": {"content": "hm"}}]}')])
    assert kept(judged(tmp_path, chat)) == KEPT


# ---------------------------------------------------------------- outages


@pytest.fixture
def impatient(monkeypatch):
    """A client whose clock moves on when it waits, so that nobody has to."""
    waited, lock = [0.0], threading.Lock()

    def sleep(seconds: float) -> None:
        with lock:
            waited[0] += seconds

    monkeypatch.setattr(RetryingClient, "sleep", staticmethod(sleep))
    monkeypatch.setattr(RetryingClient, "clock", staticmethod(lambda: time.monotonic() + waited[0]))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "fault",
    [
        faults.rate_limited(1),
        faults.error(500),
        faults.error(503),
        faults.Fault(reset=True),
        faults.error(529, "Overloaded"),
        faults.error_in_200(),
        faults.no_choices(),
    ],
    ids=["429", "500", "503", "reset", "529", "error in 200", "no choices"],
)
def test_a_fault_that_passes_changes_nothing(tmp_path, fault):
    assert kept(judged(tmp_path, Chat(before=[fault]))) == KEPT


def test_an_address_without_v1_gets_a_hint():
    with serving(Chat()) as address, pytest.raises(ValueError, match=f"try {address}"):
        open_vlm(address.removesuffix("/v1"))


def test_a_rate_limit_with_a_date_is_waited_for(tmp_path):
    assert kept(judged(tmp_path, Chat(before=[faults.rate_limited_until(2)]))) == KEPT


def test_a_refused_image_costs_only_its_own_pairs(tmp_path):
    def refuses(words, images):
        dark = any(image.getpixel((4, 4)) == (0, 0, 128) for image in images)
        return faults.filtered_prompt() if dark else None

    pairs = judged(tmp_path, Chat(refuses=refuses))
    assert kept(pairs) == KEPT - {"000002-0-1"}
    (refused,) = [pair for pair in pairs if pair["reason"] == "refused"]
    assert refused["id"] == "000002-0-1" and "content management policy" in refused["answers"][0]


@pytest.mark.parametrize("style", ["refusal_field", "filtered"])
def test_a_run_whose_pairs_are_all_refused_stops_with_an_example_and_the_cause(tmp_path, style):
    with pytest.raises(ValueError, match=r"all 9 pairs .*content filter.*choose another model") as error:
        judged(tmp_path, Chat(style=style))
    assert "can't assist" in str(error.value) or "content_filter" in str(error.value)
    rows = jsonl.read_all(tmp_path / "run" / "pairs.jsonl")
    assert {(row["verdict"], row["reason"]) for row in rows} == {("drop", "refused")} and len(rows) == 9


def test_a_long_run_that_is_refused_stops_early_and_takes_another_judge_afterwards(tmp_path):
    run = make_run(tmp_path / "run", *[(RED, DARK_RED, ORANGE, BLUE)] * 20, recipe="identity")
    flags = ["--embedder", "none", "--no-captions"]
    with serving(chat := Chat(refuses=lambda words, images: faults.filtered_prompt())) as address:
        with pytest.raises(ValueError, match="pairs were refused or cannot be read"):
            curate.main([str(run), "--judge", address, *flags])
    assert len(chat.seen) < 120
    with serving(Chat(models=("another-7b",))) as address:
        curate.main([str(run), "--judge", address, *flags])
    rows = jsonl.read(run / "pairs.jsonl")
    assert len(kept(rows)) == 60 and {row["judge"] for row in rows} == {"another-7b"}


# ---------------------------------------------------------------- nothing is lost


def different(index: int) -> tuple[str, ...]:
    """Return the colors of four panels that no other grid has."""
    return f"#ff00{index:02x}", f"#8000{index:02x}", f"#ff70{index:02x}", f"#00{index:02x}ff"


def test_a_budget_in_parts_buys_as_much_as_in_one(tmp_path):
    run = make_run(tmp_path / "run", *map(different, range(8)), recipe="identity")
    flags, seen = ["--embedder", "none", "--no-captions", "--in-flight", "2", "--votes", "2", "2"], 0
    for _ in range(4):
        with serving(chat := Chat()) as address, pytest.raises(ValueError, match="budget of 15 requests"):
            curate.main([str(run), "--judge", address, "--budget", "15", *flags])
        seen += len(chat.seen)
        rows = jsonl.read_all(run / "pairs.jsonl")
        assert len(jsonl.read_all(run / "answers.jsonl")) == seen and len(rows) % 6 == 0
    with serving(chat := Chat()) as address:
        curate.main([str(run), "--judge", address, *flags])
    assert seen + len(chat.seen) == 48 + 24  # the second vote of those that the first calls the same
    assert len(jsonl.read(run / "pairs.jsonl")) == 48 and not jsonl.shards(run / "answers.jsonl")


def test_rows_of_finished_grids_are_written_before_the_block_ends(tmp_path):
    run = make_run(tmp_path / "run", *[(RED, DARK_RED, ORANGE, BLUE)] * 4, recipe="identity")
    with serving(Chat()) as address, pytest.raises(ValueError, match="budget"):
        flags = ["--embedder", "none", "--budget", "15", "--in-flight", "1"]
        curate.main([str(run), "--judge", address, *flags])
    assert len(jsonl.read_all(run / "pairs.jsonl")) == 12


def test_a_stopped_run_asks_again_once_the_cause_is_gone(tmp_path):
    run = make_run(tmp_path / "run", *[(RED, DARK_RED, ORANGE, BLUE)] * 20, recipe="identity")
    flags = ["--embedder", "none", "--no-captions"]
    with serving(Chat(style="truncated_thinking")) as address:
        with pytest.raises(ValueError, match=r"raise --max-tokens .*run the same command again"):
            curate.main([str(run), "--judge", address, *flags])
    rows = jsonl.read_all(run / "pairs.jsonl")
    assert 50 <= len(rows) < 100 and {row["reason"] for row in rows} == {"unreadable"}
    assert all("<think>" in row["answers"][0] and "<think>" in row["repeated"]["0"] for row in rows)
    with serving(Chat()) as address:
        curate.main([str(run), "--judge", address, *flags])
    rows = jsonl.read(run / "pairs.jsonl")
    assert len(rows) == 120 and len(kept(rows)) == 60


# ---------------------------------------------------------------- captions and prompts


@pytest.mark.parametrize("style", READABLE)
def test_captions_hold_the_words_alone(tmp_path, style):
    run = make_run(tmp_path / "run", (RED, ORANGE), recipe="identity")
    with serving(Chat()) as address:
        curate.main([str(run), "--judge", address, "--embedder", "none", "--no-captions"])
    with serving(Chat(style=style)) as address:
        curate.main([str(run), "--judge", address, "--embedder", "none"])
    rows = jsonl.read(run / "captions.jsonl")
    assert len(rows) == 2
    assert all(row["caption"].lower().startswith("a red robot ") for row in rows)
    assert all(row["instruction"].lower().startswith("move it ") for row in rows)


@pytest.mark.parametrize("style", READABLE)
def test_prompts_are_written_in_every_style(tmp_path, style):
    (tmp_path / "captions.txt").write_text("a red fox in the snow\na grey cat on a sofa\n")
    with serving(Chat(style=style)) as address:
        flags = ["--count", "2", "--recipe", "identity", "--captions", str(tmp_path / "captions.txt")]
        prompts.main([str(tmp_path / "run"), *flags, "--writer", address])
    rows = jsonl.read(tmp_path / "run" / "prompts.jsonl")
    assert [row["subject"].lower() for row in rows] == [
        "small a red fox in the snow",
        "small a grey cat on a sofa",
    ]
    assert [place.lower() for place in rows[0]["places"]] == [
        "in deep snow",
        "on a sandy beach",
        "in a library",
        "under neon signs",
    ]
