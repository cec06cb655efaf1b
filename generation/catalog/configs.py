"""The configs of a model's parts, with sentences for wrong values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ModelError
from . import bounds
from .files import INDEX, SCHEDULER_CONFIG, read_config
from .layout import names_part


class Config:
    """One JSON file of a model.

    Raises:
        ModelError: the file cannot be read, or asks for foreign code or weights.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self.values = read_config(folder, name)
        bounds.check_harmless(self.path, self.values)

    def size(self, key: str, fallback: int | None = None) -> int:
        """Return a whole number from 1 up."""
        value: Any = self.values.get(key, fallback)
        if not is_size(value):
            raise self.wrong(key, "a whole number from 1 up")
        return int(value)

    def sizes(self, key: str) -> list[int]:
        """Return whole numbers from 1 up; a single one counts as a list of one."""
        value: Any = self.values.get(key)
        found: list[int] = value if isinstance(value, list) else [value]
        if not found or not all(map(is_size, found)):
            raise self.wrong(key, "whole numbers from 1 up")
        return found

    def number(self, key: str, fallback: float, least: float, most: float) -> float:
        """Return a number from `least` to `most`."""
        value: Any = self.values.get(key, fallback)
        if not is_within(value, least, most):
            raise self.wrong(key, f"a number from {least:g} to {most:g}")
        return float(value)

    def wrong(self, key: str, expected: str) -> ModelError:
        """Return the error for a value that is not as expected."""
        return bounds.wrong(self.path, key, self.values.get(key), expected)


class Configs:
    """The configs of all parts of the model in `folder`, each read once and checked for bounds.

    `prediction_type` overrules the scheduler's own.
    """

    def __init__(self, folder: Path, prediction_type: str | None = None) -> None:
        self.folder = folder
        self.scheduler = Config(folder, SCHEDULER_CONFIG)
        bounds.check_scheduler(self.scheduler.path, self.scheduler.values)
        if prediction_type is not None:
            self.scheduler.values["prediction_type"] = prediction_type
        self._networks: dict[str, Config] = {}

    def network(self, part: str) -> Config:
        """Return the config of a part with weights.

        Raises:
            ModelError: the file cannot be read, or a number is far above those of known networks.
        """
        if part not in self._networks:
            config = Config(self.folder, f"{part}/config.json")
            bounds.check_network(config.path, config.values)
            self._networks[part] = config
        return self._networks[part]

    def has(self, name: str) -> bool:
        """Return whether the model has the file `name`."""
        return (self.folder / name).is_file()

    def has_part(self, part: str) -> bool:
        """Return whether `model_index.json` says that the model has an optional part."""
        return names_part(self.other(INDEX).values, part)

    def other(self, name: str) -> Config:
        """Return any other JSON file of the model."""
        return Config(self.folder, name)


def is_size(value: object) -> bool:
    """Return whether a value is a whole number from 1 up."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_within(value: Any, least: float, most: float) -> bool:
    """Return whether a value is a number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return least <= value <= most
