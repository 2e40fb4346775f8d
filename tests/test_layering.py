"""Imports point down only: read from the source, inside functions too, without importing anything."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From top to bottom; a package may import those after it, and itself.
ORDER = (
    "dsd.ui", "dsd.doctor", "dsd.training", "dsd.evaluation", "dsd.curation", "dsd.grids", "dsd.pocket",
    "dsd.generate", "dsd.vlm", "dsd.model", "dsd.files",
)  # fmt: skip
COMMANDS = ("dsd.generate.__main__", "dsd.generate.command", "dsd.doctor.__main__")  # above all packages
PURE = ("dsd.model.flow", "dsd.model.guidance", "dsd.model.latents")  # they know only each other
SURFACE = ("gradio", "gradio_client", "spaces")  # what a visitor sees and what serves it
MOST = 18  # modules in one folder


def imports(source: str) -> set[str]:
    """Dotted names that `source` imports, inside functions too; `if __name__ == "__main__"` is left out."""
    return set(_imports(ast.parse(source)))


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        yield "." * node.level + (node.module or "")
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


def modules(*folders: str) -> dict[str, set[str]]:
    """Every module of these folders -> what it imports."""
    files = sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    # A package that imports a module of its own names itself with it, which is no arrow.
    return {_name(file): imports(file.read_text(encoding="utf-8")) - {_name(file)} for file in files}


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


LIBRARY, TRAIN = modules("dsd"), modules("train")


def arrows(library: dict[str, set[str]], *forbidden: str) -> list[str]:
    """The imports of `forbidden` packages, as `who -> whom`."""
    pairs = [(who, name) for who, names in library.items() for name in sorted(names)]
    return [f"{who} -> {name}" for who, name in pairs if within(name, *forbidden)]


def of(package: str) -> dict[str, set[str]]:
    return {name: names for name, names in LIBRARY.items() if within(name, package) and name not in COMMANDS}


def test_the_reader_sees_every_kind_of_import():
    source = "import a.b, c\nfrom d import e\ndef f():\n    from g.h import i\n"
    source += "if __name__ == '__main__':\n    import j"
    assert imports(source) == {"a.b", "c", "d", "d.e", "g.h", "g.h.i"}
    assert imports("from . import x\nfrom ..y import z") >= {".", "..y"}


def test_every_name_in_the_order_exists_and_every_module_has_its_place():
    assert {*ORDER, *COMMANDS, *PURE} <= set(LIBRARY)
    assert [name for name in LIBRARY if name != "dsd" and not within(name, *ORDER)] == []


@pytest.mark.parametrize("place", range(len(ORDER)), ids=ORDER)
def test_no_package_imports_one_above_it(place):
    assert arrows(of(ORDER[place]), *ORDER[:place], *COMMANDS) == []


def test_every_relative_import_is_written_out():
    assert [name for name, names in (LIBRARY | TRAIN).items() if any(n.startswith(".") for n in names)] == []


def test_pure_functions_know_only_each_other():
    others = [name for name in LIBRARY if name.startswith("dsd.") and name not in (*PURE, "dsd.model")]
    assert arrows({name: LIBRARY[name] for name in PURE}, *others) == []


def test_only_the_page_imports_what_it_is_served_with():
    inner = {name: names for name, names in LIBRARY.items() if not within(name, "dsd.ui")}
    assert arrows(inner, *SURFACE) == []


def test_the_library_imports_neither_the_app_nor_the_commands():
    assert arrows(LIBRARY, "app", "train", "tests") == []


def test_training_meets_the_stages_before_it_on_disk_only():
    assert arrows(of("dsd.training"), "dsd.grids", "dsd.curation") == []


@pytest.mark.parametrize("start", sorted(LIBRARY | TRAIN))
def test_no_module_reaches_itself(start):
    everything = LIBRARY | TRAIN
    reached, todo = set(), [start]
    while todo:
        for name in everything[todo.pop()] & set(everything) - reached:
            assert name != start, f"{start} imports itself by way of {sorted(reached)}"
            reached.add(name)
            todo.append(name)


def test_no_folder_has_more_modules_than_one_can_survey():
    folders: dict[str, int] = {}
    for file in [*(ROOT / "dsd").rglob("*.py"), *(ROOT / "train").rglob("*.py")]:
        if file.name != "__init__.py":
            folder = file.parent.relative_to(ROOT).as_posix()
            folders[folder] = folders.get(folder, 0) + 1
    assert {name: n for name, n in folders.items() if n > MOST} == {}


def test_no_test_imports_another():
    """What tests share stands in helpers beside them, or in `conftest.py`."""
    shared = modules("tests")
    found = [f"{who} -> {name}" for who, names in shared.items() for name in names if ".test_" in f".{name}"]
    assert [arrow for arrow in found if "tests" in arrow.split(" -> ")[1]] == []
