"""What a job's listener is told while the job waits and runs: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .pixels import Pixels

# Why a job waits again: the engine failed, or the bot was restarted.
Interruption = Literal["engine", "bot"]


@dataclass(frozen=True, slots=True)
class Progress:
    """`step` of `steps` denoising steps of a job are done.

    `seconds` is an estimate of how long its pictures will still take, and `preview` a small picture
    of the result. Events that differ only in these two are equal. An event is `late` if the engine
    has been silent for much longer than a step takes.
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
    """A job waits; the job at `position` 1 is the next to run.

    `seconds` is an estimate of how long it takes until the job's pictures are there. `nearest` is
    the nearest position that the job has had, since a fair order may put other jobs ahead; None
    means `position`. `after` says why the job waits again.
    """

    position: int
    seconds: float | None = field(default=None, compare=False)
    nearest: int | None = field(default=None, compare=False)
    after: Interruption | None = None


@dataclass(frozen=True, slots=True)
class Loading:
    """A job waits until the engine has loaded the model; how long that takes is unknown.

    `after` says why the model is loaded again: None if the bot was just started. `model` is the
    name of the model, if the engine has several and loads this one for the job.
    """

    after: Interruption | None = None
    model: str | None = None

    @property
    def seconds(self) -> None:
        """Return that there is no estimate, as the other events return theirs."""
        return


Event = Waiting | Progress | Loading
