"""The README tells the truth: its commands, its links, and what docs/architecture.md says is where."""

import re
import shlex
import sys

import pytest
from PIL import Image

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


@pytest.mark.parametrize("block", re.findall(r"```python\n(.+?)```", read(), re.DOTALL))
def test_the_python_examples_are_python(block):
    assert compile(block, "README.md", "exec").co_code


def test_the_space_header_names_what_is_here():
    header = dict(re.findall(r"^(\w+): (.+)$", read().split("---")[1], re.MULTILINE))
    assert header["sdk"] == "gradio" and (ROOT / header["app_file"]).exists()
    assert header["license"] == "apache-2.0" and len(header["short_description"]) <= 60


def test_this_python_is_one_the_readme_promises():
    assert "Python 3.11 or newer" in read() and sys.version_info >= (3, 11)
