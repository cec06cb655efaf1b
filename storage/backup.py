"""A copy of a data folder that is whole, also while the bot works, and the way back."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import sqlite_utils

from .errors import BackupRefused, DatabaseUnusable, from_os_error
from .folder.layout import DATABASE_NAME, LOCK_NAME, PICTURES_NAME, RESTORING_NAME
from .folder.lock import locked
from .folder.space import free_bytes
from .pictures.files import PictureFiles
from .pictures.inventory import is_sound, take_inventory
from .sqlite.integrity import check_integrity
from .sqlite.readonly import looking
from .sqlite.threads import translated

MARK_NAME: Final = "imagine-bot-backup"
_MARK: Final = "A backup of Imagine Bot: `imagine-bot restore` reads this folder.\n"
_NEW_NAME: Final = f"{DATABASE_NAME}.new"
_SNAPSHOTS_MAX: Final = 5
_OURS: Final = (DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm", PICTURES_NAME)
# How many ids may have been given after the backup was made. They are not given again, since
# messages that show those jobs are still there.
_IDS_SKIPPED: Final = 100_000


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup or a restore holds now.

    `added` of the `pictures` came with this run; `lost` are those of which the source holds no
    sound file; `aside` is where a restore put what was there before.
    """

    pictures: int
    added: int
    lost: tuple[str, ...]
    aside: Path | None = None


def back_up(data: Path, target: Path) -> Copied:
    """Make `target` a whole copy of the data folder, or bring an earlier one up to date.

    The database gets its name in the copy last: a copy that was cut short is not taken for one,
    and an earlier one stays whole until then.

    Raises:
        BackupRefused: `target` is something else or one of the folders is in the other, there
            is too little room, or pictures are removed faster than they are copied.
        StorageError: the database is damaged, or a folder cannot be read or written.
    """
    data, target = data.absolute(), target.absolute()
    _refuse_overlap(data, target)
    source = data / DATABASE_NAME
    if not source.exists():
        raise DatabaseUnusable(source, "does not exist; name the bot's folder with --data")
    with _os_errors(target), _held(target, _mode(data)):
        for _ in range(_SNAPSHOTS_MAX):
            new = _snapshot(source, target)
            pictures, added, lost = _copy_pictures(new, data, target)
            if not _removed_meanwhile(source, lost):
                break
        else:
            raise BackupRefused("Pictures are being removed; run `imagine-bot backup` again.")
        _put_in_place(new, target / DATABASE_NAME)
        _remove_unknown(target)
    return Copied(pictures, added, lost)


def restore(backup: Path, data: Path, *, replace: bool = False) -> Copied:
    """Put a backup into the data folder, where no bot may run.

    What was there goes aside into a folder of its own. A restore that was cut short is seen at
    the next start of the bot, and the next restore takes it up.

    Raises:
        BackupRefused: `backup` is none, there is too little room, or the data folder holds
            something and `replace` is not set.
        FolderInUse: a bot runs on the data folder.
        StorageError: the backup is damaged, or a folder cannot be read or written.
    """
    backup, data = backup.absolute(), data.absolute()
    _refuse_overlap(data, backup)
    if not (backup / MARK_NAME).is_file() or not (backup / DATABASE_NAME).is_file():
        raise BackupRefused(f"{backup} is no whole backup; name a folder of `imagine-bot backup`.")
    with looking(backup / DATABASE_NAME) as db:
        check_integrity(backup / DATABASE_NAME, db)
    owner = _owner_of(data)
    with _os_errors(data), locked(data):
        staging = data / RESTORING_NAME
        _refuse_what_is_there(data, staging, replace=replace)
        return _replace(backup, data, staging, owner)


def _replace(backup: Path, data: Path, staging: Path, owner: tuple[int, int]) -> Copied:
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=_mode(backup))
    database = staging / DATABASE_NAME
    _copy_file(backup / DATABASE_NAME, database)
    pictures, added, lost = _copy_pictures(database, backup, staging)
    _skip_ids(database)
    (staging / PICTURES_NAME).mkdir(mode=_mode(backup), exist_ok=True)
    _give(staging, owner)
    _sync(staging)
    aside = _put_aside(data, owner)
    (staging / PICTURES_NAME).rename(data / PICTURES_NAME)
    _put_in_place(database, data / DATABASE_NAME)
    staging.rmdir()
    _give(data / LOCK_NAME, owner)
    _sync(data)
    return Copied(pictures, added, lost, aside)


def _refuse_overlap(data: Path, other: Path) -> None:
    inner, outer = data.resolve(), other.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise BackupRefused(
            f"A backup is a folder outside of {data}, on another disk at best; {other} is not."
        )


def _refuse_what_is_there(data: Path, staging: Path, *, replace: bool) -> None:
    there = [name for name in _OURS if (data / name).exists()]
    if there and not replace and not staging.exists():
        raise BackupRefused(
            f"{data} holds {' and '.join(there)}; with --replace they are put aside, in a folder "
            "in there, and nothing is deleted."
        )


@contextlib.contextmanager
def _os_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise from_os_error(Path(error.filename or place), error) from error


@contextlib.contextmanager
def _held(target: Path, mode: int) -> Iterator[None]:
    """Make the folder of a backup, if it is not one yet, and hold it against other runs."""
    mark = target / MARK_NAME
    if not target.exists():
        target.mkdir(parents=True, mode=mode)
    if not mark.exists():
        if any(target.iterdir()):
            raise BackupRefused(
                f"{target} holds something else than a backup; name a new or an empty folder."
            )
        mark.write_text(_MARK)
        mark.chmod(0o600)
    target.chmod(mode)
    with mark.open("rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackupRefused(f"Another backup into {target} is at work; wait for it.") from error
        yield


def _snapshot(source: Path, target: Path) -> Path:
    """Return a copy of the database as it is at one instant, checked, under its new name."""
    new = target / _NEW_NAME
    new.unlink(missing_ok=True)
    _refuse_if_full(target, source.stat().st_size)
    new.touch(mode=_mode(source) & 0o666)
    try:
        with looking(source) as db:
            # It counts as writing, though the source is open for reading only.
            db.execute("PRAGMA query_only = OFF")
            db.execute("VACUUM INTO ?", (str(new),))
        # The copy takes no such files along. Beside other pictures it must not have any removed.
        _change(new, "UPDATE pictures SET state = 'removed' WHERE state = 'removing'")
        with looking(new) as copy:
            check_integrity(source, copy)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return new


def _copy_pictures(database: Path, source: Path, target: Path) -> tuple[int, int, tuple[str, ...]]:
    """Copy the pictures that a database needs; return how many are sound, are new, and lack."""
    theirs, ours = PictureFiles(source / PICTURES_NAME), PictureFiles(target / PICTURES_NAME)
    with looking(database) as db:
        wanted = [sha for (sha,) in db.execute("SELECT sha256 FROM pictures WHERE state = 'kept'")]
    absent = [sha for sha in wanted if not ours.path(sha).exists()]
    _refuse_if_full(target, _bytes_to_copy(theirs, target, absent))
    sound, added, lost = 0, 0, []
    for sha in wanted:
        if is_sound(ours.path(sha), sha):
            sound += 1
        elif is_sound(theirs.path(sha), sha):
            _link_or_copy(theirs.path(sha), ours.path(sha), _mode(source))
            sound, added = sound + 1, added + 1
        else:
            lost.append(sha)
    for shard in {ours.path(sha).parent for sha in wanted}:
        _sync(shard)
    _sync(ours.folder)
    return sound, added, tuple(lost)


def _bytes_to_copy(theirs: PictureFiles, target: Path, absent: list[str]) -> int:
    """Return how many bytes of files have to be written, none where they can be linked."""
    is_one_disk = theirs.folder.exists() and theirs.folder.stat().st_dev == target.stat().st_dev
    if is_one_disk and os.geteuid() != 0:
        return 0
    sizes = 0
    for sha in absent:
        with contextlib.suppress(FileNotFoundError):
            sizes += theirs.path(sha).stat().st_size
    return sizes


def _refuse_if_full(target: Path, needed: int) -> None:
    free = free_bytes(target)
    if free < needed:
        raise BackupRefused(
            f"{target} lacks room: {needed / 2**20:,.0f} MB are needed and {free / 2**20:,.0f} MB "
            "are free; make room, or name a folder on another disk."
        )


def _link_or_copy(source: Path, target: Path, mode: int) -> None:
    # A file is never written twice, so both folders can share it.
    target.parent.parent.mkdir(mode=mode, exist_ok=True)
    target.parent.mkdir(mode=mode, exist_ok=True)
    target.unlink(missing_ok=True)
    # A superuser's restore gives files away: those of the backup must stay as they are.
    if os.geteuid() != 0:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    _copy_file(source, target)


def _copy_file(source: Path, target: Path) -> None:
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.copy2(source, temporary)
    _sync(temporary)
    temporary.replace(target)


def _removed_meanwhile(source: Path, lost: tuple[str, ...]) -> bool:
    """Tell whether the bot removed one of the pictures after the snapshot was taken."""
    if not lost:
        return False
    with looking(source) as db:
        kept = "SELECT 1 FROM pictures WHERE sha256 = ? AND state = 'kept'"
        return any(db.execute(kept, (sha,)).fetchone() is None for sha in lost)


def _remove_unknown(target: Path) -> None:
    pictures = PictureFiles(target / PICTURES_NAME)
    with looking(target / DATABASE_NAME) as db:
        for sha in take_inventory(db, pictures).orphans:
            pictures.remove(sha)
    for part in target.glob(f"{PICTURES_NAME}/??/*.tmp"):
        part.unlink()


def _skip_ids(database: Path) -> None:
    _change(database, "UPDATE sqlite_sequence SET seq = seq + ?", _IDS_SKIPPED)


def _change(database: Path, statement: str, *values: int) -> None:
    with translated(database):
        db = sqlite_utils.Database(database, execute_plugins=False)
        try:
            db.execute(statement, values)
            db.conn.commit()
        finally:
            db.close()
    _sync(database)


def _put_aside(data: Path, owner: tuple[int, int]) -> Path | None:
    there = [name for name in _OURS if (data / name).exists()]
    if not there:
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    aside = data / f"before-restore-{stamp}"
    aside.mkdir(mode=0o700)
    os.chown(aside, *owner)
    for name in there:
        (data / name).rename(aside / name)
    _sync(aside)
    _sync(data)
    return aside


def _put_in_place(new: Path, final: Path) -> None:
    _sync(new)
    _sync(final.parent)
    new.replace(final)
    _sync(final.parent)


def _mode(path: Path) -> int:
    """Return the permissions of a file or a folder."""
    return path.stat().st_mode & 0o777


def _owner_of(folder: Path) -> tuple[int, int]:
    """Return who owns a folder, or will own it: the owner of the nearest one that is there."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    status = there.stat()
    return status.st_uid, status.st_gid


def _give(place: Path, owner: tuple[int, int]) -> None:
    """Let the owner of the data folder own what a superuser has restored."""
    if os.geteuid() != 0:
        return
    for path in (place, *(place.rglob("*") if place.is_dir() else ())):
        os.chown(path, *owner, follow_symlinks=False)


def _sync(path: Path) -> None:
    """Put a file, or the names in a folder, on disk; one that is not there needs none."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems sync no folders.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
