"""Finds the process of the engine by the process id of the bot."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_SPAWNED: Final = b"multiprocessing.spawn"


def can_be_found() -> bool:
    """Return whether this system lists processes in /proc."""
    return (_PROC / "self" / "stat").exists()


def engine_of(bot: int) -> int | None:
    """Return the process id of the newest engine of a bot, or None."""
    engines = [
        int(folder.name)
        for folder in _PROC.glob("[0-9]*")
        if _parent(folder) == bot and _SPAWNED in _read(folder / "cmdline")
    ]
    return max(engines, default=None)


def _parent(folder: Path) -> int | None:
    # "pid (name) state ppid ...", and the name may hold anything.
    fields = _read(folder / "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else None


def _read(file: Path) -> bytes:
    # The process may end at any moment.
    with suppress(OSError):
        return file.read_bytes()
    return b""
