"""The names of schedulers in other programs, read as ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..values.request import SchedulerName, Spacing
from .registry import REGISTRY, SPACINGS

Named = tuple[SchedulerName, Spacing | None]


def read(text: str) -> Named | None:
    """Return the scheduler and the spacing that `text` names, or None.

    Our names, labels and the names of AUTOMATIC1111, Forge and ComfyUI are known, with or without
    a spacing behind them: "dpmpp_2m", "DPM++ 2M", "DPM++ 2M Karras", "euler_ancestral".
    """
    return _KNOWN.get(_plain(text))


def label(scheduler: SchedulerName, spacing: Spacing | None) -> str:
    """Return the name of a scheduler and a spacing for people, such as "DPM++ 2M Karras"."""
    names = [REGISTRY[scheduler].label]
    return " ".join(names if spacing is None else [*names, SPACINGS[spacing].label])


def matches(name: SchedulerName, typed: str) -> bool:
    """Return whether what a person has typed so far is a part of a scheduler's name."""
    return any(_plain(typed) in _plain(known) for known in _names(name))


def _names(name: SchedulerName) -> tuple[str, ...]:
    row = REGISTRY[name]
    return (name, row.label, row.a1111, *row.others)


def _known() -> Iterator[tuple[str, Named]]:
    for name in REGISTRY:
        for known in _names(name):
            yield _plain(known), (name, None)
            for spacing, names in SPACINGS.items():
                for suffix in (spacing, names.a1111):
                    yield _plain(known + suffix), (name, spacing)


def _plain(text: str) -> str:
    """Return `text` without capitals, spaces, dashes and underscores."""
    return "".join(letter for letter in text.casefold() if letter not in " -_")


_KNOWN: Final = dict(_known())
