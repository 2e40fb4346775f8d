"""Every command that writes a folder is refused while another one writes there."""

import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest
from accelerate import PartialState

from dsd.curation.dataset import write_dataset
from dsd.curation.selection import read_run
from dsd.files import whole
from dsd.grids.prompts import PromptOptions, write_prompts
from tests import wheel

ROOT = Path(__file__).parents[2]
# Commands, and what they lock. RUN is a run with kept pairs, and OUT an empty folder.
COMMANDS = {
    "train.prompts RUN --count 4": "RUN/prompts.jsonl",
    "train.grids RUN --model pocket": "RUN/grids/grids.jsonl",
    "train.curate RUN --judge pocket": "RUN/pairs",
    "train.curate --grade --judge pocket --out OUT": "OUT/grades",
    "train.dataset RUN": "RUN/dataset/dataset",
    "train.dataset RUN --format imagefolder --out OUT": "OUT/dataset",
    "train.dataset RUN --preferences OUT": "OUT/dataset",
    "train.teacher RUN --model pocket --share 0.3": "RUN/teacher/run",
    "train.train RUN --out OUT --model pocket": "OUT/run",
    "train.evaluate pocket --out OUT": "OUT/scores",
    "train.baselines RUN --out OUT --model pocket --only ours": "OUT/scores",
    "train.pocket.all RUN": "RUN/all",
    "train.pocket.vae RUN": "RUN/vae",
    "train.pocket.vae.decoder RUN": "RUN/vae",
    "train.pocket.scorer RUN": "RUN/scorer",
    "train.pocket.scorer RUN --ranker": "RUN/ranker",
    "train.pocket.teacher RUN": "RUN/teacher",
    "train.pocket.judge RUN": "RUN/judge",
    "train.pocket.ship RUN --assets OUT": "OUT",
    "train.pocket.measure --out OUT": "OUT/figures",
    "train.pocket.examples": "OUT",
    "train.pocket.rendered --out OUT": "OUT/dataset",
}
ONE_FILE = {
    "train.baselines.picture",
    "train.pocket.teaser",
    "train.bench",
}  # they write one file, at the end


@pytest.fixture
def places(tmp_path, monkeypatch) -> dict[str, Path]:
    run = wheel.make_run(tmp_path / "run", grids=1)
    write_prompts(run, PromptOptions(count=1))
    write_dataset(read_run(run), run / "dataset")
    monkeypatch.setattr("train.pocket.examples.FOLDER", tmp_path / "out")
    yield {"RUN": run, "OUT": tmp_path / "out"}
    PartialState._reset_state()


def fill(text: str, places: dict[str, Path]) -> str:
    return re.sub("RUN|OUT", lambda found: shlex.quote(f"{places[found[0]]}"), text)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_command_in_one_folder_is_refused(command, places, monkeypatch):
    name, *arguments = shlex.split(fill(command, places))
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    path = Path(fill(COMMANDS[command], places))
    module = import_module(name)
    main = module.main if hasattr(module, "main") else import_module(f"{name}.__main__").main
    with whole.locked(path):
        before = set(places["RUN"].parent.rglob("*"))
        says = f"another command is writing {re.escape(str(path))}; let it finish or stop it"
        with pytest.raises(ValueError, match=says):
            main()
        assert set(places["RUN"].parent.rglob("*")) == before


def test_every_command_is_asked():
    guarded = [path for path in ROOT.glob("train/**/*.py") if 'if __name__ == "__main__"' in path.read_text()]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in guarded}
    names = {name.removesuffix(".__main__") for name in names}
    assert names - ONE_FILE == {command.split()[0] for command in COMMANDS}
