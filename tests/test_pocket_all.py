"""Building all of pocket by one command: the order, the flags, and going on after a part that failed."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from train.pocket import all as building

README = (Path(__file__).parents[1] / "train" / "README.md").read_text()


def test_every_part_is_a_command_that_train_readme_tells():
    told = set(re.findall(r"-m (train\.[\w.]+)", README))
    for _, arguments in building.parts(Path("runs/x"), "gpu"):
        module = arguments[len(arguments) - 1 - arguments[::-1].index("-m") + 1]
        assert module in told and callable(import_module(module).main)


def test_flags_are_known_to_the_commands_of_the_wheel():
    known = []
    for name, arguments in building.parts(Path("runs/x"), "gpu", sheets=8):
        if "train.grids" in arguments or name in ("prompts", "dataset", "student", "evaluate", "curate"):
            module = arguments[len(arguments) - 1 - arguments[::-1].index("-m") + 1]
            given = arguments[arguments.index(module) + 1 :]
            import_module(module)._parser().parse_args(given)  # SystemExit for a flag that is not there
            known.append(module.removeprefix("train."))
    assert known == ["prompts", "grids", "curate", "dataset", "train", "evaluate"]


def test_it_goes_on_with_the_part_that_failed(tmp_path):
    todo = [("a", ["1"]), ("b", ["2"]), ("c", ["3"])]
    called, codes = [], iter([0, 5, 0, 0])

    def call(arguments):
        called.append(arguments[0])
        return next(codes)

    with pytest.raises(SystemExit, match="5"):
        building.build(tmp_path, iter(todo), call)
    building.build(tmp_path, iter(todo), call)
    assert called == ["1", "2", "2", "3"]
    building.build(tmp_path, iter(todo), call)
    assert called == ["1", "2", "2", "3"]
