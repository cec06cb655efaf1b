"""What a job's listener is told while it waits and while it is made: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .pixels import Pixels

# Why a job waits again that was accepted, and perhaps begun, before: the engine failed, or the
# bot was restarted.
Interruption = Literal["engine", "bot"]


@dataclass(frozen=True, slots=True)
class Progress:
    """`step` of `steps` denoising steps of a job are done.

    `seconds` is how long its pictures will still take as far as can be told, and `preview` a
    small picture of what they will be, where there is one. Neither makes it another event. It is
    `late` where the engine has been silent for much longer than a step takes.
    """

    step: int
    steps: int
    seconds: float | None = field(default=None, compare=False)
    preview: Pixels | None = field(default=None, compare=False)
    late: bool = False

    @property
    def percent(self) -> int:
        """Return the share that is done, 0 to 100."""
        return 100 * self.step // self.steps


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job waits; `position` 1 is the next to run, as things are.

    `seconds` is how long it will take until its pictures are there, as far as can be told.
    `nearest` is the nearest position that it has had, since a fair order may put others ahead;
    None is this one. `after` says why a job waits that did not have to wait before.
    """

    position: int
    seconds: float | None = field(default=None, compare=False)
    nearest: int | None = field(default=None, compare=False)
    after: Interruption | None = None


@dataclass(frozen=True, slots=True)
class Loading:
    """A job waits until the engine has loaded its model; nobody knows how long that takes.

    `after` says what made it necessary: None if the bot was just started.
    """

    after: Interruption | None = None

    @property
    def seconds(self) -> None:
        """Return that there is no estimate, as the other events return theirs."""
        return


Event = Waiting | Progress | Loading
