"""The state of an unfinished job as people read it: progress, place in the queue, time left.

Messages of one channel are edited one after the other, so a reader compares states of different
moments. A fair queue may also put other jobs ahead. So places are given coarsely, and never farther
back than before (`Waiting.nearest`). An estimated time replaces the place where there is one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Final

from generation.values.events import Event, Interruption, Loading, Progress, Waiting

from .markup import inert

_BAR_CELLS: Final = 10
_SECOND, _MINUTE, _HOUR = 1, 60, 3_600
_UNITS: Final = {_SECOND: "s", _MINUTE: "min", _HOUR: "h"}
# Each row: the longest estimate in seconds, its unit, and the seconds to which it is rounded. A row
# ends where rounding would reach the first value of the next row.
_GRAINS: Final = (
    (19.5, _SECOND, 1),
    (57.5, _SECOND, 5),
    (115, _SECOND, 10),
    (59.5 * _MINUTE, _MINUTE, _MINUTE),
    (9.75 * _HOUR, _HOUR, _HOUR // 2),
)
_COARSEST: Final = (_HOUR, _HOUR)
# An estimate for a waiting job is rounded to 10 seconds, since other jobs start and end meanwhile.
_WAITING_GRAIN: Final = 10
_A_FEW_SECONDS: Final = 5
# The last place to which each text applies.
_PLACES: Final = (
    (5, "in the queue, near the front"),
    (20, "in the queue, about 10 ahead"),
    (75, "in the queue, about 50 ahead"),
    (150, "in the queue, about 100 ahead"),
)
_FARTHEST: Final = "in the queue, far back"
_LOADING: Final[Mapping[Interruption | None, str]] = {
    None: "the model is being loaded",
    "engine": "the engine stopped and starts again; your place was kept",
    "bot": "the bot was restarted and the model is being loaded; your place was kept",
}
_AGAIN: Final[Mapping[Interruption, str]] = {
    "engine": "the engine failed and this starts again; your place was kept",
    "bot": "the bot was restarted; your place was kept",
}


def state(event: Event | None) -> list[str]:
    """Return the parts of a job's state after an event, the most important first."""
    match event:
        case None:
            return ["queued"]
        case Loading():
            return [_loading(event)]
        case Progress():
            return _progress(event)
        case Waiting():
            return _waiting(event)


def _loading(event: Loading) -> str:
    return _LOADING[event.after] if event.model is None else f"loading {inert(event.model)}"


def _progress(event: Progress) -> list[str]:
    full = round(_BAR_CELLS * event.step / event.steps)
    bar = f"{'▰' * full}{'▱' * (_BAR_CELLS - full)} {event.percent} %"
    if event.late:
        return [bar, "taking longer than expected"]
    left = None if event.seconds is None else duration(event.seconds)
    return [bar] if left is None else [bar, f"{left} left"]


def _waiting(event: Waiting) -> list[str]:
    time = None if event.seconds is None else _waiting_time(event.seconds)
    why = [] if event.after is None else [_AGAIN[event.after]]
    if time is None:
        return [*why, place(event.nearest or event.position)]
    return [*(why or ["in the queue"]), time]


def place(position: int) -> str:
    """Return the text for a place in the queue; 1 is the next to run."""
    return next((words for last, words in _PLACES if position <= last), _FARTHEST)


def _waiting_time(seconds: float) -> str | None:
    if not math.isfinite(seconds):
        return None
    if seconds < _A_FEW_SECONDS:
        return "a few seconds"
    if seconds < _MINUTE - _WAITING_GRAIN / 2:
        return duration(max(1, round(seconds / _WAITING_GRAIN)) * _WAITING_GRAIN)
    return duration(seconds)


def duration(seconds: float) -> str | None:
    """Return an estimated time in words, coarsely; None if `seconds` is not finite.

    The time is rounded to a second below 20, then to 5 seconds, 10 seconds, minutes, half hours and
    hours. Estimates are not more precise than that.
    """
    if not math.isfinite(seconds):
        return None
    if seconds < 1:
        return "a moment"
    unit, step = next(((unit, step) for end, unit, step in _GRAINS if seconds < end), _COARSEST)
    return f"about {round(seconds / step) * step / unit:g} {_UNITS[unit]}"


def aged(event: Event, seconds: float) -> Event:
    """Return `event` as it reads `seconds` later, without an estimate that has run out."""
    if isinstance(event, Loading) or event.seconds is None:
        return event
    left = event.seconds - seconds
    return dataclasses.replace(event, seconds=left if left > 0 else None)
