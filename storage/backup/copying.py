"""Copies databases and pictures so that every copy is complete or absent."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlite_utils

from ..errors import BackupRefused, from_os_error
from ..folder.layout import PICTURES_NAME
from ..folder.space import free_bytes
from ..pictures.files import PictureFiles
from ..pictures.inventory import is_sound
from ..sqlite.readonly import opened_readonly
from ..sqlite.threads import translated

# A file with this name marks a folder as a backup.
MARK_NAME: Final = "imagine-bot-backup"


@dataclass(frozen=True, slots=True)
class Copied:
    """The result of a backup or a restore.

    `pictures` counts all pictures of the copy, `added` the pictures that this run has copied.
    `lost` are pictures without a sound file in the source. `aside` is the folder of the replaced
    files of a restore.
    """

    pictures: int
    added: int
    lost: tuple[str, ...]
    aside: Path | None = None


def copy_pictures(database: Path, source: Path, target: Path) -> tuple[int, int, tuple[str, ...]]:
    """Copy the pictures of a database from data folder to data folder.

    Returns:
        The number of sound pictures in the target, the number of new ones, and the lost ones.

    Raises:
        BackupRefused: the target has too little space.
    """
    theirs, ours = PictureFiles(source / PICTURES_NAME), PictureFiles(target / PICTURES_NAME)
    with opened_readonly(database) as db:
        wanted = [sha for (sha,) in db.execute("SELECT sha256 FROM pictures WHERE state = 'kept'")]
    absent = [sha for sha in wanted if not ours.path(sha).exists()]
    refuse_if_full(target, _bytes_to_copy(theirs, target, absent))
    sound, added, lost = 0, 0, []
    for sha in wanted:
        if is_sound(ours.path(sha), sha):
            sound += 1
        elif is_sound(theirs.path(sha), sha):
            _link_or_copy(theirs.path(sha), ours.path(sha), mode_of(source))
            sound, added = sound + 1, added + 1
        else:
            lost.append(sha)
    for shard in {ours.path(sha).parent for sha in wanted}:
        sync(shard)
    sync(ours.folder)
    return sound, added, tuple(lost)


def _bytes_to_copy(theirs: PictureFiles, target: Path, absent: list[str]) -> int:
    """Return the size of the files to copy; 0 if they can be linked."""
    is_one_disk = theirs.folder.exists() and theirs.folder.stat().st_dev == target.stat().st_dev
    if is_one_disk and os.geteuid() != 0:
        return 0
    sizes = 0
    for sha in absent:
        with contextlib.suppress(FileNotFoundError):
            sizes += theirs.path(sha).stat().st_size
    return sizes


def _link_or_copy(source: Path, target: Path, mode: int) -> None:
    # Picture files never change, so both folders can share a file.
    target.parent.parent.mkdir(mode=mode, exist_ok=True)
    target.parent.mkdir(mode=mode, exist_ok=True)
    target.unlink(missing_ok=True)
    # A restore by the superuser changes the owner of its files, so they must not be links.
    if os.geteuid() != 0:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    copy_file(source, target)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; the target appears only when it is complete."""
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.copy2(source, temporary)
    sync(temporary)
    temporary.replace(target)


def put_in_place(new: Path, final: Path) -> None:
    """Rename a file, so that after a power cut either the old or the new file is there."""
    sync(new)
    sync(final.parent)
    new.replace(final)
    sync(final.parent)


def change(database: Path, statement: str, *values: int) -> None:
    """Execute a statement on a database that nobody else uses."""
    with translated(database):
        db = sqlite_utils.Database(database, execute_plugins=False)
        try:
            db.execute(statement, values)
            db.conn.commit()
        finally:
            db.close()
    sync(database)


def refuse_overlap(data: Path, backup: Path) -> None:
    """Refuse a backup inside of the data folder, or a data folder inside of the backup.

    Raises:
        BackupRefused: one folder contains the other.
    """
    inner, outer = data.resolve(), backup.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise BackupRefused(
            f"{backup} and {data} must not contain each other; choose a folder for the backup "
            "outside of the data folder, best on another disk."
        )


def refuse_if_full(target: Path, needed: int) -> None:
    """Refuse a copy that does not fit on the disk of `target`.

    Raises:
        BackupRefused: fewer than `needed` bytes are free.
    """
    free = free_bytes(target)
    if free < needed:
        raise BackupRefused(
            f"{target} needs {needed / 2**20:,.0f} MB of free space, but has only "
            f"{free / 2**20:,.0f} MB; free some space, or choose a folder on another disk."
        )


@contextlib.contextmanager
def os_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError about its file, or about `folder`."""
    try:
        yield
    except OSError as error:
        raise from_os_error(Path(error.filename or folder), error) from error


def mode_of(path: Path) -> int:
    """Return the permissions of a file or a folder."""
    return path.stat().st_mode & 0o777


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on disk; do nothing if it does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync folders.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
