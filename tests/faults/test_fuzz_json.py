"""Forged JSON beside the rows of a run: an error in a sentence, or the same kind of result."""

import json
import random
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dsd.evaluation import report, results, validation
from dsd.evaluation.judged import JudgedScorer
from dsd.evaluation.results import COPY, Comparison
from dsd.files import jsonl
from dsd.training import data as training_data
from dsd.training.cache import Store
from dsd.training.options import TrainOptions
from tests import tiny
from tests.evaluation.stand_ins import CASES, NETWORKS, said
from tests.faults.forging import TIMES, forge, forge_inside, outcome
from tests.judging import FakeJudge
from tests.student import Rows, pairs
from train import evaluate
from train.baselines import picture
from train.baselines.comparing import _read as read_choices
from train.baselines.entries import _made as read_made
from train.baselines.per_subject import Clock


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """Return a folder of `train.evaluate`, with a person's labels of it."""
    out = tmp_path_factory.mktemp("compared")
    scorer = JudgedScorer(NETWORKS, lambda: FakeJudge(said))
    benchmark = validation.Benchmark(CASES, scorer, rotations=1)
    copies = benchmark.evaluate(validation.by_copying)
    names = (COPY, picture.OURS, picture.TEACHER, picture.DREAMBOOTH, picture.ZERO_SHOT[0])
    models = dict.fromkeys(names, "none")
    found = Comparison(benchmark=benchmark, settings={}, results=dict.fromkeys(names, copies), models=models)
    results.write(out, found, "page")
    marks = [
        {"image": row["id"], "same": i % 2 == 0} for i, row in enumerate(jsonl.read(out / "images.jsonl"))
    ]
    (out / "mine.json").write_text(json.dumps({"report": "x", "labels": marks}))
    return out


def forge_file(file: Path, dice: random.Random) -> None:
    """Forge a part of a file of rows, of JSON, or of a report's page."""
    if file.suffix == ".jsonl":
        file.write_bytes(forge(file.read_bytes(), dice))
    elif file.suffix == ".html":
        report.write(file.parent, forge_inside(report.read(file.parent), dice))
    elif dice.random() < 0.1:
        file.write_text(dice.choice(("", "{", "[" * 5000)))
    else:
        file.write_text(json.dumps(forge_inside(json.loads(file.read_bytes()), dice)))


@pytest.mark.seeds(1, 40)
@pytest.mark.parametrize("name", ["results.json", "images.jsonl", "report.html", "mine.json"])
def test_forged_reports_take_labels_or_refuse_in_a_sentence(compared, name, seed, capsys):
    files = {file: file.read_bytes() for file in compared.iterdir() if file.is_file()}
    dice = random.Random(f"{name} {seed}")
    for _ in range(TIMES // 8):
        forge_file(compared / name, dice)
        outcome(lambda: evaluate.main([str(compared), "--labels", str(compared / "mine.json")]))
        for file, content in files.items():
            file.write_bytes(content)


@pytest.mark.seeds(1, 40)
@pytest.mark.parametrize("name", ["results.json", "images.jsonl"])
def test_forged_comparisons_are_a_picture_or_a_sentence(compared, name, seed, tmp_path, capsys):
    whole, dice = (compared / name).read_bytes(), random.Random(f"picture {name} {seed}")
    arguments = [str(compared), "--picture", str(tmp_path / "a.png")]
    assert picture.main(arguments) == 0
    for _ in range(TIMES // 4):
        forge_file(compared / name, dice)
        outcome(lambda: picture.main(arguments))
        (compared / name).write_bytes(whole)


@pytest.mark.seeds(1, 40)
def test_forged_tables_of_a_cache_give_the_same_data_or_a_sentence(tmp_path, seed):
    pipe, dice = tiny.pipeline(), random.Random(f"table {seed}")
    (tmp_path / "rows.parquet").touch()
    rows, options = Rows(pairs(4), tmp_path / "rows.parquet"), TrainOptions(sizes=("32",), text_tokens=8)

    def encode(name: str = "cache") -> training_data.Data:
        return training_data.encode(rows, pipe, options, tmp_path / name, "cpu")

    encode("other")  # the first use of a tokenizer changes its settings
    data = encode()
    (table,) = (tmp_path / "cache" / "tables").glob("*.jsonl")
    whole = table.read_bytes()
    for _ in range(TIMES // 2):
        forge_file(table, dice)
        read = outcome(encode)
        assert read is None or all(0 <= entry.frame < len(data.frames) for entry in read.entries)
        for file in table.parent.iterdir():
            file.unlink()
        table.write_bytes(whole)


@pytest.mark.seeds(1, 40)
def test_forged_files_of_a_cache_are_taken_or_made_again(tmp_path, seed):
    store, dice = Store(tmp_path), random.Random(f"store {seed}")
    store.write({name: (tiny.torch.zeros(2),) for name in "abc"})
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    for _ in range(TIMES):
        save_file(tensors, file, {"records": json.dumps(forge_inside({"keys": ["a", "b", "c"]}, dice))})
        again = Store(tmp_path)
        assert all(again.read(key)[0].shape == (2,) for key in "abc" if again.has({key}))


@pytest.mark.seeds(1, 40)
def test_forged_notes_of_the_baselines_are_read_or_refused_in_a_sentence(tmp_path, seed):
    dice, clock = random.Random(f"notes {seed}"), Clock(tmp_path / "tuning.jsonl", "x")
    readers = {
        "choices.json": lambda: [
            one["chosen"] + 1 for one in read_choices(tmp_path / "choices.json").values()
        ],
        "made.json": lambda: round(read_made(None, "x", tmp_path).seconds, 1),
        "tuning.jsonl": lambda: clock.mean,
    }
    contents = {
        "choices.json": {"ours": {"chosen": 0.5, "products": {"0.5": 0.25}}},
        "made.json": {"parameters": 64, "seconds": 1.5},
    }
    for _ in range(TIMES):
        (tmp_path / "tuning.jsonl").unlink(missing_ok=True)
        for subject in "ab":
            clock.add(subject, 2.5)
        for name, content in contents.items():
            (tmp_path / name).write_text(json.dumps(content))
        for name, read in readers.items():
            assert read() is not None
            forge_file(tmp_path / name, dice)
            outcome(read)
