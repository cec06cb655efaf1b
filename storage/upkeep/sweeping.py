"""Picture files that no row of the database knows: moved aside, and removed 30 days later.

The bot leaves no such files, not even after a crash, so they belong to another database: perhaps an
older one was put in its place by hand. When the newer one is put back, its files come back too.
Only regular files with the names of our pictures are touched, and no link is followed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import sqlite_utils

from ..database import Database
from ..errors import DiskFull, FolderUnusable, StorageError, from_os_error
from ..folder.rights import PRIVATE
from ..pictures.checking import SHARDS, files, is_sound, states, unknown_of
from ..pictures.files import PictureFiles, sync_folder

log = logging.getLogger(__name__)

UNKNOWN_NAME: Final = "unknown-pictures"
KEPT_DAYS: Final = 30
_DAY_SECONDS: Final = 24 * 60 * 60


async def sweep(db: Database, pictures: PictureFiles) -> None:
    """Return files that a row knows again, remove old ones, and move those that no row knows.

    Only for the start, when this process alone holds the folder and nothing is written. Each
    portion is one of 256 parts of the folder, and no portion needs a write transaction. A file
    that cannot be moved stays where it is; the log says so.

    Raises:
        StorageError: the database or the pictures folder cannot be read.
    """
    sweeper = _Sweeper(pictures, time.time())
    # All files come back before one is moved: a full disk must not keep them.
    for step in (sweeper.return_known, sweeper.move_unknown):
        for shard in SHARDS:
            await db.read(partial(step, shard=shard))
    sweeper.report()


def set_aside(data: Path) -> Iterator[str]:
    """Yield the SHA-256 of the files in the folder of unknown pictures of a data folder.

    Raises:
        FolderUnusable: the folder cannot be read.
    """
    for shard in SHARDS:
        yield from _files_aside(data / UNKNOWN_NAME, shard)


class _Sweeper:
    """Counts what it has done to the files, `now` in seconds since 1970."""

    def __init__(self, pictures: PictureFiles, now: float) -> None:
        self._pictures = pictures
        self._aside = PictureFiles(pictures.folder.with_name(UNKNOWN_NAME))
        self._now = now
        self._moved = self._returned = self._removed = self._refused = 0
        self._fault: StorageError | None = None

    def return_known(self, db: sqlite_utils.Database, shard: str) -> None:
        """Bring files back that a row says are kept, and remove those whose time is over."""
        names = list[str]()
        with self._noting_faults():
            names += _files_aside(self._aside.folder, shard)
        if not names:
            return
        known = states(db, shard)
        for sha256 in names:
            with self._noting_faults():
                self._return_or_remove(sha256, known.get(sha256))
        with self._noting_faults():
            self._pictures.sync_names(names)
            self._aside.sync_names(names)
        # Whatever else lies in there stays, and so does the folder.
        with contextlib.suppress(OSError):
            (self._aside.folder / shard).rmdir()
            self._aside.folder.rmdir()

    def _return_or_remove(self, sha256: str, state: str | None) -> None:
        file = self._aside.path(sha256)
        if state == "kept" and is_sound(file, sha256):
            self._return(file, sha256)
        elif state == "removing":
            # Somebody deleted it before another database was put in place.
            file.unlink()
        elif self._now - file.stat().st_mtime > KEPT_DAYS * _DAY_SECONDS:
            file.unlink()
            self._removed += 1

    def _return(self, file: Path, sha256: str) -> None:
        target = self._pictures.path(sha256)
        _make_private_folder(target.parent)
        if _is_file(target) and is_sound(target, sha256):
            # A later deletion would leave the second copy behind.
            file.unlink()
        else:
            # A damaged file in its place is of no use to anybody.
            file.replace(target)
            self._returned += 1

    def move_unknown(self, db: sqlite_utils.Database, shard: str) -> None:
        """Move the files aside that no row knows."""
        unknown = unknown_of(set(files(self._pictures.folder, shard)), states(db, shard))
        for sha256 in unknown:
            with self._noting_faults():
                self._move(self._pictures.path(sha256), sha256)
        with self._noting_faults():
            # The new names first: a power cut may leave a file with two names, but not with none.
            self._aside.sync_names(unknown)
            self._pictures.sync_names(unknown)

    def _move(self, file: Path, sha256: str) -> None:
        target = self._aside.path(sha256)
        _refuse_links(file.parent)
        _make_private_folder(target.parent)
        if _is_file(target) and is_sound(target, sha256):
            os.utime(target, (self._now, self._now))
            file.unlink()
        else:
            # Before the move: a crash in between must not leave a file whose time seems over.
            os.utime(file, (self._now, self._now))
            file.replace(target)
        self._moved += 1

    @contextlib.contextmanager
    def _noting_faults(self) -> Iterator[None]:
        try:
            yield
        except (FolderUnusable, DiskFull) as error:
            self._note(error)
        except OSError as error:
            self._note(from_os_error(Path(error.filename or self._aside.folder), error))

    def _note(self, fault: StorageError) -> None:
        self._refused += 1
        self._fault = self._fault or fault

    def report(self) -> None:
        """Log what was done, in a line for each kind."""
        folder = self._aside.folder
        if self._returned:
            log.info("%s pictures came back from %s.", f"{self._returned:,}", folder)
        if self._removed:
            log.info(
                "%s picture files were removed from %s after %d days there.",
                f"{self._removed:,}",
                folder,
                KEPT_DAYS,
            )
        if self._moved:
            log.warning(
                "The database does not know %s of the picture files. They were moved to %s and are "
                "removed after %d days there. If one is needed, stop the bot, put the newer "
                "database back and start the bot again: its pictures come back then.",
                f"{self._moved:,}",
                folder,
                KEPT_DAYS,
            )
        if self._refused:
            log.error(
                "%s picture files could not be moved to or from %s, or not be removed there. The "
                "next start tries again. %s",
                f"{self._refused:,}",
                folder,
                self._fault,
            )


def _files_aside(folder: Path, shard: str) -> Iterator[str]:
    if not folder.is_symlink() and not (folder / shard).is_symlink():
        yield from files(folder, shard)


def _is_file(path: Path) -> bool:
    """Return whether a regular file is there.

    Raises:
        FolderUnusable: something else is there.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise FolderUnusable(path, "it is in the place of a picture file and is none")
    return True


def _refuse_links(folder: Path) -> None:
    for place in (folder.parent, folder):
        if place.is_symlink():
            raise FolderUnusable(place, "it is a link, through which no picture file is moved")


def _make_private_folder(folder: Path) -> None:
    """Make a part of a folder of pictures, durably, unless it is there."""
    _refuse_links(folder)
    for place in (folder.parent, folder):
        if not place.is_dir():
            place.mkdir(mode=PRIVATE)
            sync_folder(place.parent)
