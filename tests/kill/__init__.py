"""Kills the bot at chosen and at random instants, and counts what became of its jobs.

Every second kill comes at a random moment of a load of mixed work; the others lead the bot up
to one of the instants that hurt most, each in its turn.

    python -m tests.kill --kills 20 --seed 1

prints a line such as

    20 kills: 57 jobs accepted, 0 lost, 0 doubled, 0 changed

and exits with 1 unless the last three figures are 0. The bot is the installed one, its
Discord the rig's; every kill is a SIGKILL. At one of the instants the engine's process is
killed alone beforehand, which the bot has to survive; that is not counted as a kill.
"""

from __future__ import annotations

from .instants import INSTANTS, Instant
from .run import Killing
from .verdict import Figures

__all__ = ["INSTANTS", "Figures", "Instant", "Killing"]
