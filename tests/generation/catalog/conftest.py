from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .folders import Edit, configs_of_the_starter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The starter's configs with a few bytes for weights, which nothing here opens."""
    return configs_of_the_starter(tmp_path)


@pytest.fixture
def edit(folder: Path) -> Edit:
    def change(name: str, values: dict[str, Any]) -> None:
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(config | values))

    return change
