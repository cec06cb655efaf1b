"""Orphans: picture files without a row. They are put in quarantine and removed 30 days later.

The bot leaves no orphans, not even after a crash. So orphans belong to another database: perhaps
the operator put an older one in its place. When the newer database is put back, its files return
from quarantine. Only regular files with names of picture files are moved; links are not followed.
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
from ..folder.layout import UNKNOWN_NAME
from ..folder.permissions import PRIVATE
from ..pictures.files import PictureFiles, sync_folder
from ..pictures.inventory import SHARDS, files, is_sound, orphans_of, states

log = logging.getLogger(__name__)

KEPT_DAYS: Final = 30
_DAY_SECONDS: Final = 24 * 60 * 60


async def quarantine_orphans(db: Database, pictures: PictureFiles) -> None:
    """Return files that have a row again, remove expired files, and quarantine orphans.

    Only for the start: no other process may work in the folder, and no write may be under way.
    A file that cannot be moved stays in its place; the log says so.

    Raises:
        StorageError: the database or the pictures folder cannot be read.
    """
    quarantine = _Quarantine(pictures, time.time())
    # Files return first: a disk that fills up during the moves must not prevent that.
    for step in (quarantine.return_known, quarantine.move_orphans):
        for shard in SHARDS:
            await db.read(partial(step, shard=shard))
    quarantine.report()


def quarantined(data: Path) -> Iterator[str]:
    """Yield the SHA-256 of the files in the quarantine of a data folder.

    Raises:
        FolderUnusable: the folder cannot be read.
    """
    for shard in SHARDS:
        yield from _quarantined(data / UNKNOWN_NAME, shard)


class _Quarantine:
    """Moves files between the pictures folder and the quarantine, shard by shard.

    It counts the files for the report. `now` is the time in seconds since 1970; the modification
    time of a file in quarantine is the time of its move.
    """

    def __init__(self, pictures: PictureFiles, now: float) -> None:
        self._pictures = pictures
        self._folder = PictureFiles(pictures.folder.with_name(UNKNOWN_NAME))
        self._now = now
        self._moved = self._returned = self._removed = self._failed = 0
        self._first_error: StorageError | None = None

    def return_known(self, db: sqlite_utils.Database, shard: str) -> None:
        """Return files whose rows say 'kept', and remove files that have expired."""
        names = list[str]()
        with self._counting_errors():
            names += _quarantined(self._folder.folder, shard)
        if not names:
            return
        known = states(db, shard)
        for sha256 in names:
            with self._counting_errors():
                self._return_or_remove(sha256, known.get(sha256))
        with self._counting_errors():
            self._pictures.sync_names(names)
            self._folder.sync_names(names)
        # A folder with other files stays.
        with contextlib.suppress(OSError):
            (self._folder.folder / shard).rmdir()
            self._folder.folder.rmdir()

    def _return_or_remove(self, sha256: str, state: str | None) -> None:
        file = self._folder.path(sha256)
        if state == "kept" and is_sound(file, sha256):
            self._return(file, sha256)
        elif state == "removing":
            # The picture was deleted before its file came into quarantine.
            file.unlink()
        elif self._now - file.stat().st_mtime > KEPT_DAYS * _DAY_SECONDS:
            file.unlink()
            self._removed += 1

    def _return(self, file: Path, sha256: str) -> None:
        target = self._pictures.path(sha256)
        _make_private_folder(target.parent)
        if _is_file(target) and is_sound(target, sha256):
            # Without this, a later deletion would leave a second copy here.
            file.unlink()
        else:
            # This also replaces a damaged file.
            file.replace(target)
            self._returned += 1

    def move_orphans(self, db: sqlite_utils.Database, shard: str) -> None:
        """Move files without a row into quarantine."""
        orphans = orphans_of(set(files(self._pictures.folder, shard)), states(db, shard))
        for sha256 in orphans:
            with self._counting_errors():
                self._move(self._pictures.path(sha256), sha256)
        with self._counting_errors():
            # In this order a power cut may leave a file in both folders, but never in none.
            self._folder.sync_names(orphans)
            self._pictures.sync_names(orphans)

    def _move(self, file: Path, sha256: str) -> None:
        target = self._folder.path(sha256)
        _refuse_links(file.parent)
        _make_private_folder(target.parent)
        if _is_file(target) and is_sound(target, sha256):
            os.utime(target, (self._now, self._now))
            file.unlink()
        else:
            # The time first: after a crash in between, the file must not look expired.
            os.utime(file, (self._now, self._now))
            file.replace(target)
        self._moved += 1

    @contextlib.contextmanager
    def _counting_errors(self) -> Iterator[None]:
        try:
            yield
        except (FolderUnusable, DiskFull) as error:
            self._count(error)
        except OSError as error:
            self._count(from_os_error(Path(error.filename or self._folder.folder), error))

    def _count(self, error: StorageError) -> None:
        self._failed += 1
        self._first_error = self._first_error or error

    def report(self) -> None:
        """Log how many files returned, expired, moved and failed."""
        folder = self._folder.folder
        if self._returned:
            log.info("%s pictures returned from %s.", f"{self._returned:,}", folder)
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
                "removed after %d days there. If they are needed, stop the bot, put the newer "
                "database back and start the bot again: its pictures then return.",
                f"{self._moved:,}",
                folder,
                KEPT_DAYS,
            )
        if self._failed:
            log.error(
                "%s picture files could not be moved to %s, or back, or removed there. The next "
                "start retries this. The first error: %s",
                f"{self._failed:,}",
                folder,
                self._first_error,
            )


def _quarantined(folder: Path, shard: str) -> Iterator[str]:
    if not folder.is_symlink() and not (folder / shard).is_symlink():
        yield from files(folder, shard)


def _is_file(path: Path) -> bool:
    """Return whether a regular file is at `path`.

    Raises:
        FolderUnusable: a folder, a link or a device is there.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise FolderUnusable(path, "it is not a regular file, but has the name of a picture file")
    return True


def _refuse_links(folder: Path) -> None:
    for place in (folder.parent, folder):
        if place.is_symlink():
            raise FolderUnusable(place, "it is a link; picture files are not moved through links")


def _make_private_folder(folder: Path) -> None:
    """Create the folder of a shard and sync its parents, unless it exists."""
    _refuse_links(folder)
    for place in (folder.parent, folder):
        if not place.is_dir():
            place.mkdir(mode=PRIVATE)
            sync_folder(place.parent)
