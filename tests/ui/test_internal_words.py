"""No label and no message of the page has words that mean nothing to a visitor."""

import ast
import re

from tests.project import ROOT

# Told where files are missing, so that the user who starts the app can make them.
FOR_HOSTS = re.compile(r"python -m train[\w.]*")
INTERNAL = re.compile(r"\b(pocket|flux|kappa|lora|checkpoint|tokens?|embedded|no key)\b", re.IGNORECASE)
TELLING = (
    "dsd/ui/**/*.py", "dsd/generate/[drs]*.py", "dsd/files/[ir]*.py", "dsd/pocket/scorer.py",
    "dsd/model/kn*.py", "dsd/curation/enhancement.py",
)  # fmt: skip


def sentences(code: str) -> list[str]:
    """Texts with spaces in a module, such as labels and messages; no docstrings."""
    nodes = list(ast.walk(ast.parse(code)))
    documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
    has_docstring = [node for node in nodes if isinstance(node, documented) and ast.get_docstring(node)]
    docstrings = [node.body[0].value for node in has_docstring]
    found = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in found if " " in node.value.strip() and node not in docstrings]


def test_no_message_of_any_state_has_internal_words():
    files = [path for pattern in TELLING for path in ROOT.glob(pattern)]
    told = [(path.name, text) for path in files for text in sentences(path.read_text(encoding="utf-8"))]
    modules = {name for name, _ in told}
    assert {"messages.py", "handlers.py", "story.py", "intake.py", "rgb.py", "known_words.py"} <= modules
    assert [(name, text) for name, text in told if INTERNAL.search(FOR_HOSTS.sub("", text))] == []
