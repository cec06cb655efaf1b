"""The file permissions of the data folder: only the bot's user may read the bot's own folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final

from ..errors import from_os_error
from .layout import PICTURES_NAME, UNKNOWN_NAME

PRIVATE: Final = 0o700
_OTHERS: Final = 0o077
# Files of the bot start with the prefix; a mounted disk may hold a lost+found.
_PREFIX: Final = "imagine-bot"
_NAMES: Final = frozenset({PICTURES_NAME, UNKNOWN_NAME, "lost+found"})


class Privacy(Enum):
    """The result of `make_private`."""

    PRIVATE = "private"
    TIGHTENED = "tightened"
    SHARED = "shared"


def make_private(folder: Path) -> Privacy:
    """Create the data folder, or take the permissions of other users away.

    A folder that belongs to another user, or that holds other files too, stays as it is: SHARED.

    Raises:
        StorageError: the folder cannot be created or changed.
    """
    try:
        folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        if not others_may_enter(folder):
            return Privacy.PRIVATE
        if not _is_ours(folder):
            return Privacy.SHARED
        folder.chmod(PRIVATE)
    except OSError as error:
        raise from_os_error(folder, error) from error
    return Privacy.TIGHTENED


@contextmanager
def private_files() -> Iterator[None]:
    """Create files and folders inside with permissions for their owner only."""
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def others_may_enter(folder: Path) -> bool:
    """Return whether other users of this machine have any permission on `folder`.

    Raises:
        OSError: the permissions cannot be read.
    """
    return bool(folder.stat().st_mode & _OTHERS)


def _is_ours(folder: Path) -> bool:
    state = folder.stat()
    if state.st_uid != os.geteuid() or state.st_mode & stat.S_ISVTX:
        return False
    return all(entry.name.startswith(_PREFIX) or entry.name in _NAMES for entry in folder.iterdir())
