"""The README tells the truth: its commands, its links, and what docs/architecture.md says is where."""

import re
import shlex
import sys
from importlib import import_module

import pytest
from PIL import Image

import app
from dsd.generate import flags
from tests.project import ROOT, read

PAGES = (
    "README.md", "docs/training.md", "docs/comfyui.md", "docs/architecture.md", "docs/benchmarks.md",
    "docs/development.md",
)  # fmt: skip
COMMANDS = {
    "app": "pip install -r requirements.txt && python app.py",
    "test": "pip install -r requirements.txt -r tests/requirements.txt && python -m pytest",
}
LAUNCHED = r"(?:python|accelerate launch|torchrun) "
DESCRIBED = {  # folder -> what of it has a line of its own in docs/architecture.md
    "dsd": ("*.py", "*.css"),
    "train": ("*.py", "*.md", "*.txt"),
}


def marked(text: str, name: str) -> list[str]:
    """The command in the block under `<!-- command: name -->`, which is where `.ci/run` takes it from."""
    return re.findall(rf"<!-- command: {name} -->\n```bash\n(.+)\n```\n", text)


def modules() -> list[str]:
    """Paths that docs/architecture.md has a line for: a heading is a folder, a row a file in it."""
    paths, folder = [], ""
    for line in read("docs/architecture.md").splitlines():
        if heading := re.match(r"### `([\w/]+)`: \w", line):
            folder = heading.group(1)
        if row := re.match(r"\| `([\w.]+)` \| \w", line):
            paths.append(folder + row.group(1))
    return paths


@pytest.mark.parametrize("name", COMMANDS)
def test_the_two_commands_are_there_once_and_marked(name):
    assert marked(read(), name) == [COMMANDS[name]]


def test_every_module_that_the_architecture_tells_exists():
    assert [path for path in modules() if not (ROOT / path).exists()] == []


def test_the_architecture_tells_every_module():
    files = {f for folder, kinds in DESCRIBED.items() for kind in kinds for f in (ROOT / folder).rglob(kind)}
    names = {file.relative_to(ROOT).as_posix() for file in files if file.name != "__init__.py"}
    assert sorted(names - set(modules())) == []


@pytest.mark.parametrize("page", (*PAGES, "docs/serving.md", "SECURITY.md"))
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)\)", read(page))
    links += re.findall(r"^\[[\w ]+\]: (\S+)$", read(page), re.MULTILINE)
    near = [link for link in links if not link.startswith("http")]
    assert [link for link in near if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_example_image_exists():
    named = set(re.findall(r"assets/examples/[\w.-]+", read()))
    assert named and [path for path in named if not (ROOT / path).exists()] == []


def test_the_page_is_shown_tab_by_tab_in_images_that_load_at_once():
    shown = sorted({ROOT / path for path in re.findall(r"assets/screens/[\w.-]+", read())})
    assert [path.stem for path in shown] == ["curate", "generate", "grids", "phone", "story"]
    assert sum(path.stat().st_size for path in shown) < 600_000
    for path in shown:
        with Image.open(path) as image:
            assert image.width == (390 if path.stem == "phone" else 1280)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists(page):
    modules = re.findall(r"python -m ([\w.]+)", read(page))
    ours = [name for name in modules if name.startswith(("dsd", "train", "tests"))]
    assert ours or "python -m" not in read(page)
    assert [name for name in ours if not is_command(name)] == []


def is_command(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()


@pytest.mark.parametrize("line", re.findall(r"^python -m dsd\.generate (.+)$", read(), re.MULTILINE))
def test_the_command_line_takes_what_the_readme_shows(line):
    args = flags.parse(shlex.split(line))
    assert args.source or (args.images and (args.prompt or args.story) and args.output)


@pytest.mark.parametrize("page", [*PAGES, "docs/serving.md"])
def test_commands_take_the_flags_that_a_page_shows(page):
    text = read(page).replace("\\\n", " ")
    shown = re.findall(rf"^{LAUNCHED}.+$", text, re.MULTILINE) + re.findall(rf"`({LAUNCHED}[^`]+)`", text)
    assert shown or page in ("docs/architecture.md", "docs/comfyui.md")
    for line in shown:
        if given := re.search(r" app\.py(.*)", line, re.DOTALL):
            app.parse(shlex.split(given[1]))
        elif given := re.search(r" -m (train\.[\w.]+|dsd\.generate)(.*)", line, re.DOTALL):
            parse_flags(given[1], shlex.split(given[2]))


def parse_flags(name: str, words: list[str]) -> None:
    """Raise SystemExit for flags that a command does not know, or that would have no effect."""
    is_package = (ROOT / name.replace(".", "/")).is_dir()
    command = flags if name == "dsd.generate" else import_module(f"{name}.__main__" if is_package else name)
    if hasattr(command, "parse"):
        command.parse(words)
    elif hasattr(command, "_parser"):
        command._parser().parse_args(words)


@pytest.mark.parametrize("block", re.findall(r"```python\n(.+?)```", read(), re.DOTALL))
def test_the_python_examples_are_python(block):
    assert compile(block, "README.md", "exec").co_code


def test_the_space_header_names_what_is_here():
    header = dict(re.findall(r"^(\w+): (.+)$", read().split("---")[1], re.MULTILINE))
    assert header["sdk"] == "gradio" and (ROOT / header["app_file"]).exists()
    assert header["license"] == "apache-2.0" and len(header["short_description"]) <= 60


def test_this_python_is_one_the_readme_promises():
    assert "Python 3.11 or newer" in read() and sys.version_info >= (3, 11)
