"""The folder of the project and its pages."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def read(page: str = "README.md") -> str:
    return (ROOT / page).read_text(encoding="utf-8")
