"""The documents name files that exist, and the layers that import-linter holds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md")
# A path in the text, in a link or in a picture; what follows `::` is a test.
PATH = re.compile(r"(?<![\w-])(?:bot|generation|storage|tests|docs)(?:/\w+)+(?:\.\w+|/)?")
# A module of one of the packages, by the end of its path.
MODULE = re.compile(r"`(\w+(?:/\w+)+)`")
LINK = re.compile(r"\]\((?!http|#)([^)#]+)\)")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_a_document_names_exists(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    linked = [(ROOT / name).parent / link for link in LINK.findall(text)]
    named = [ROOT / path for path in PATH.findall(LINK.sub("", text))]
    assert linked or named
    missing = [path for path in (*linked, *named) if not exists(path)]
    assert missing == []


def exists(path: Path) -> bool:
    """Return whether there is such a file, folder or, without its suffix, module."""
    return path.exists() or path.with_suffix(".py").exists()


def contracts() -> dict[str, list[str]]:
    """Return the layers of each package, top first, as pyproject.toml has them."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        found = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return {one["containers"][0]: one["layers"] for one in found if one["type"] == "layers"}


def test_every_module_of_the_architecture_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    packages = [ROOT, *(ROOT / name for name in ("bot", "generation", "storage"))]
    named = MODULE.findall(text)
    assert "jobs/recovery" in named
    assert [name for name in named if not any(exists(package / name) for package in packages)] == []


@pytest.mark.parametrize("package", ["bot", "generation", "storage"])
def test_the_layers_are_those_of_the_contracts(package: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| `{package}` |"))
    told = [re.findall(r"`(\w+)`", layer) for layer in row.split("|")[2].split("·")]
    held = [re.split(r" [|:] ", layer) for layer in contracts()[package] if layer != "__main__"]
    assert [sorted(layer) for layer in told] == [sorted(layer) for layer in held]
