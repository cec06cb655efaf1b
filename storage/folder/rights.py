"""Who else may look into the data folder: nobody, as far as it is the bot's alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final

from ..errors import from_os_error

PRIVATE: Final = 0o700
_OTHERS: Final = 0o077
# All that the bot puts into its folder is called so; a mounted disk has the last one.
_PREFIX: Final = "imagine-bot"
_NAMES: Final = frozenset({"pictures", "unknown-pictures", "lost+found"})


class Rights(Enum):
    """What `make_private` found."""

    PRIVATE = "private"
    TIGHTENED = "tightened"
    SHARED = "shared"


def make_private(folder: Path) -> Rights:
    """Make the data folder, or take the rights of other users to one that is the bot's alone.

    A folder that belongs to another user, or holds other things too, is left as it is: SHARED.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        if not others_may_enter(folder):
            return Rights.PRIVATE
        if not _is_ours(folder):
            return Rights.SHARED
        folder.chmod(PRIVATE)
    except OSError as error:
        raise from_os_error(folder, error) from error
    return Rights.TIGHTENED


@contextmanager
def private_files() -> Iterator[None]:
    """Make files and folders that only their owner may read while inside."""
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def others_may_enter(folder: Path) -> bool:
    """Return whether other users of this machine have any right to `folder`.

    Raises:
        OSError: that cannot be told.
    """
    return bool(folder.stat().st_mode & _OTHERS)


def _is_ours(folder: Path) -> bool:
    state = folder.stat()
    if state.st_uid != os.geteuid() or state.st_mode & stat.S_ISVTX:
        return False
    return all(entry.name.startswith(_PREFIX) or entry.name in _NAMES for entry in folder.iterdir())
