"""The README tells the truth: its commands, its tree, its links."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from dsd import command

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "train/README.md")
COMMANDS = {
    "app": "pip install -r requirements.txt && python app.py",
    "test": "pip install -r requirements.txt -r tests/requirements.txt && python -m pytest",
}
DESCRIBED = {  # folder -> what of it has a line of its own in the tree
    "dsd": ("*.py", "*.css"),
    "train": ("*.py", "*.md", "*.txt"),
}


def read(page: str = "README.md") -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def marked(text: str, name: str) -> list[str]:
    """The command in the block under `<!-- command: name -->`, which is where `.ci/run` takes it from."""
    return re.findall(rf"<!-- command: {name} -->\n```bash\n(.+)\n```\n", text)


def tree(text: str) -> list[str]:
    """Paths of the tree: two spaces of indent are one folder down."""
    block = re.search(r"## What is where\n\n```\n(.+?)```", text, re.DOTALL).group(1)
    paths, folders = [], []
    for line in block.splitlines():
        name, about = line.split(maxsplit=1)
        depth = (len(line) - len(line.lstrip())) // 2
        assert about and depth <= len(folders), line
        folders = [*folders[:depth], name]
        paths.append("".join(folders[:depth]) + name)
    return paths


@pytest.mark.parametrize("name", COMMANDS)
def test_the_two_commands_are_there_once_and_marked(name):
    assert marked(read(), name) == [COMMANDS[name]]


def test_every_path_in_the_tree_exists():
    assert [path for path in tree(read()) if not (ROOT / path).exists()] == []


def test_every_file_of_the_library_and_of_the_trainings_is_in_the_tree():
    described = set(tree(read()))
    files = {f for folder, kinds in DESCRIBED.items() for kind in kinds for f in (ROOT / folder).rglob(kind)}
    names = {file.relative_to(ROOT).as_posix() for file in files if file.name != "__init__.py"}
    assert sorted(names - described) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)\)", read(page))
    links += re.findall(r"^\[[\w ]+\]: (\S+)$", read(page), re.MULTILINE)
    near = [link for link in links if not link.startswith("http")]
    assert [link for link in near if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_example_picture_exists():
    named = set(re.findall(r"assets/examples/[\w.-]+", read()))
    assert named and [path for path in named if not (ROOT / path).exists()] == []


def test_the_page_is_shown_tab_by_tab_in_pictures_that_load_at_once():
    shown = sorted({ROOT / path for path in re.findall(r"assets/screens/[\w.-]+", read())})
    assert [path.stem for path in shown] == ["curate", "generate", "grids", "phone"]
    assert sum(path.stat().st_size for path in shown) < 600_000
    for path in shown:
        with Image.open(path) as picture:
            assert picture.width == (390 if path.stem == "phone" else 1280)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists(page):
    modules = re.findall(r"python -m ([\w.]+)", read(page))
    ours = [name for name in modules if name.startswith(("dsd", "train", "tests"))]
    missing = [name for name in ours if not (ROOT / name.replace(".", "/")).with_suffix(".py").exists()]
    assert ours and missing == []


@pytest.mark.parametrize("line", re.findall(r"^python -m dsd\.generate (.+)$", read(), re.MULTILINE))
def test_the_command_line_takes_what_the_readme_shows(line):
    args = command._parser().parse_args(shlex.split(line))
    assert args.source or (args.image and args.prompt and args.output)


@pytest.mark.parametrize("block", re.findall(r"```python\n(.+?)```", read(), re.DOTALL))
def test_the_python_examples_are_python(block):
    assert compile(block, "README.md", "exec").co_code


def test_the_space_header_names_what_is_here():
    header = dict(re.findall(r"^(\w+): (.+)$", read().split("---")[1], re.MULTILINE))
    assert header["sdk"] == "gradio" and (ROOT / header["app_file"]).exists()
    assert header["license"] == "apache-2.0" and len(header["short_description"]) <= 60


def test_this_python_is_one_the_readme_promises():
    assert "Python 3.11 or newer" in read() and sys.version_info >= (3, 11)
