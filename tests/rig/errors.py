"""What can go wrong between a test and the simulated Discord.

RigError
├── NeverHappened   what a test waited for did not come
├── BotExited       the bot's process ended though nobody had stopped it
├── NotThere        a person, message, button or field that a test named does not exist
└── NotSimulated    the bot asked for something of Discord that the rig does not serve
"""

from __future__ import annotations

from collections.abc import Iterable


class RigError(Exception):
    """The root of the rig's errors."""


class NeverHappened(RigError):
    """A condition stayed false for `within` seconds."""

    def __init__(self, what: str, within: float) -> None:
        super().__init__(f"{what} did not happen within {within:g} s")
        self.within = within


class BotExited(RigError):
    """The bot's process ended by itself with `code`; a negative one is a signal's number."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the bot's process ended by itself with exit code {code}")
        self.code = code


class NotThere(RigError):
    """Nothing goes by this name; the sentence lists what is there instead."""

    def __init__(self, kind: str, name: object, known: Iterable[object]) -> None:
        listed = ", ".join(repr(item) for item in known) or "none at all"
        super().__init__(f"there is no {kind} {name!r}; there is {listed}")
        self.kind = kind


class NotSimulated(RigError):
    """Requests of the bot that neither SimCord nor the rig answers as Discord would."""

    def __init__(self, gaps: Iterable[str]) -> None:
        self.gaps = tuple(gaps)
        super().__init__("the bot met what the rig does not simulate: " + "; ".join(self.gaps))
