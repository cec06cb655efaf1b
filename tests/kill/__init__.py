"""Kills the bot at chosen and at random instants, and counts lost, doubled and changed jobs.

Every second kill comes at a random moment of a mixed load. The other kills come at the chosen
instants, one after the other.

    python -m tests.kill --kills 20 --seed 1

prints a line such as

    20 kills: 57 jobs accepted, 0 lost, 0 doubled, 0 changed

and exits with 1 unless the last three figures are 0. The bot is the installed one, and its
Discord is the simulated one of `tests.rig`. Every kill is a SIGKILL. At one instant the process of
the engine is killed first, and the bot has to survive that; this does not count as a kill.
"""

from __future__ import annotations

from .instants import INSTANTS, Instant
from .run import Killing
from .verdict import Figures

__all__ = ["INSTANTS", "Figures", "Instant", "Killing"]
