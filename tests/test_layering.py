"""Arrows point down only: who may import whom, read from the source without importing anything."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOOR = {
    "dsd.diptych",
    "dsd.flow",
    "dsd.guidance",
    "dsd.latents",
}  # pure functions: they know only each other
MIDDLE = {"dsd.pipeline", "dsd.transformer", "dsd.checkpoint", "dsd.pairs", "dsd.similarity"}
MIDDLE |= {"dsd.asking", "dsd.vlm", "dsd.vlm_local", "dsd.vlm_http", "dsd.vlm_line"}
STAGES = {"dsd.generate", "dsd.grids", "dsd.curation", "dsd.command"}
SURFACE = {"gradio", "gradio_client", "spaces"}  # what a visitor sees and what serves it


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


def modules() -> dict[str, set[str]]:
    """Every module of the library -> what it imports."""
    files = sorted((ROOT / "dsd").rglob("*.py"))
    # A package that imports a module of its own names itself with it, which is no arrow.
    return {_name(file): imports(file.read_text(encoding="utf-8")) - {_name(file)} for file in files}


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


LIBRARY = modules()
INNER = {name: names for name, names in LIBRARY.items() if not within(name, "dsd.ui")}


def arrows(library: dict[str, set[str]], *forbidden: str) -> list[str]:
    """The imports of `forbidden` packages, as `who -> whom`."""
    pairs = [(who, name) for who, names in library.items() for name in sorted(names)]
    return [f"{who} -> {name}" for who, name in pairs if within(name, *forbidden)]


def some(*names: str) -> dict[str, set[str]]:
    """Those modules that exist; the later ones of the plan may not yet."""
    return {name: LIBRARY[name] for name in names if name in LIBRARY}


def test_the_reader_sees_every_kind_of_import():
    source = "import a.b, c\nfrom d import e\ndef f():\n    from g.h import i\n"
    source += "if __name__ == '__main__':\n    import j"
    assert imports(source) == {"a.b", "c", "d", "d.e", "g.h", "g.h.i"}
    assert imports("from . import x\nfrom ..y import z") >= {".", "..y"}


def test_the_reader_finds_the_library():
    assert {"dsd", "dsd.pipeline", "dsd.ui.page"} <= set(LIBRARY) and FLOOR <= set(LIBRARY)
    assert "dsd.flow" in LIBRARY["dsd.pipeline"]


def test_imports_are_absolute():
    assert [f"{who} -> {name}" for who, names in LIBRARY.items() for name in names if name[0] == "."] == []


def test_the_library_imports_neither_the_app_nor_the_commands_nor_the_tests():
    assert arrows(LIBRARY, "app", "train", "tests") == []


def test_only_the_ui_knows_how_things_are_shown():
    assert arrows(INNER, *SURFACE, "dsd.ui") == []


def test_the_floor_stands_on_nothing():
    above = [name for name in LIBRARY if name.startswith("dsd.") and name not in FLOOR]
    assert arrows(some(*FLOOR), *above) == []


def test_the_middle_knows_nothing_of_the_stages_above():
    assert arrows(some(*MIDDLE), *STAGES) == []


def test_training_meets_the_stages_before_it_on_disk_only():
    training = {name: names for name, names in LIBRARY.items() if name.startswith("dsd.train")}
    assert arrows(training, "dsd.grids", "dsd.curation", "dsd.generate", "dsd.command") == []


@pytest.mark.parametrize("start", sorted(LIBRARY))
def test_no_module_reaches_itself(start):
    reached, todo = set(), [start]
    while todo:
        for name in LIBRARY[todo.pop()] & set(LIBRARY) - reached:
            assert name != start, f"{start} imports itself by way of {sorted(reached)}"
            reached.add(name)
            todo.append(name)
