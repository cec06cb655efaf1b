"""Creates a backup, also while the bot runs."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..errors import BackupRefused, DatabaseUnusable
from ..folder.layout import DATABASE_NAME, PICTURES_NAME
from ..pictures.files import PictureFiles
from ..pictures.inventory import take_inventory
from ..sqlite.integrity import check_integrity
from ..sqlite.readonly import opened_readonly
from .copying import (
    MARK_NAME,
    Copied,
    change,
    copy_pictures,
    mode_of,
    os_errors,
    put_in_place,
    refuse_if_full,
    refuse_overlap,
)

_MARK: Final = "A backup of Imagine Bot: `imagine-bot restore` reads this folder.\n"
_NEW_NAME: Final = f"{DATABASE_NAME}.new"
_SNAPSHOTS_MAX: Final = 5


def back_up(data: Path, target: Path) -> Copied:
    """Make `target` a complete copy of the data folder, or update an earlier copy.

    The database of the copy gets its name last. So an interrupted backup does not count as a
    backup, and an earlier backup stays complete until then.

    Raises:
        BackupRefused: `target` is another folder or overlaps with the data folder, the disk has
            too little space, or pictures are deleted faster than they are copied.
        StorageError: the database is damaged, or a folder cannot be read or written.
    """
    data, target = data.absolute(), target.absolute()
    refuse_overlap(data, target)
    source = data / DATABASE_NAME
    if not source.exists():
        raise DatabaseUnusable(source, "does not exist; name the bot's folder with --data")
    with os_errors(target), _locked_target(target, mode_of(data)):
        for _ in range(_SNAPSHOTS_MAX):
            new = _snapshot(source, target)
            pictures, added, lost = copy_pictures(new, data, target)
            if not _were_removed(source, lost):
                break
        else:
            raise BackupRefused("Pictures are being removed; run `imagine-bot backup` again.")
        put_in_place(new, target / DATABASE_NAME)
        _remove_orphans(target)
    return Copied(pictures, added, lost)


@contextlib.contextmanager
def _locked_target(target: Path, mode: int) -> Iterator[None]:
    """Create the folder of a backup if it does not exist, and hold its lock."""
    mark = target / MARK_NAME
    if not target.exists():
        target.mkdir(parents=True, mode=mode)
    if not mark.exists():
        if any(target.iterdir()):
            raise BackupRefused(
                f"{target} is not empty and is not a backup; name a new or an empty folder."
            )
        mark.write_text(_MARK)
        mark.chmod(0o600)
    target.chmod(mode)
    with mark.open("rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackupRefused(
                f"Another backup into {target} is running; wait until it ends."
            ) from error
        yield


def _snapshot(source: Path, target: Path) -> Path:
    """Write a consistent copy of the database under its temporary name, check it, and return it."""
    new = target / _NEW_NAME
    new.unlink(missing_ok=True)
    refuse_if_full(target, source.stat().st_size)
    new.touch(mode=mode_of(source) & 0o666)
    try:
        with opened_readonly(source) as db:
            # SQLite counts VACUUM INTO as a write, though it does not write to the source.
            db.execute("PRAGMA query_only = OFF")
            db.execute("VACUUM INTO ?", (str(new),))
        # The copy has no files that are being removed, and must not remove files after a restore.
        change(new, "UPDATE pictures SET state = 'removed' WHERE state = 'removing'")
        with opened_readonly(new) as copy:
            check_integrity(source, copy)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return new


def _were_removed(source: Path, lost: tuple[str, ...]) -> bool:
    """Return whether the bot removed one of the lost pictures after the snapshot."""
    if not lost:
        return False
    with opened_readonly(source) as db:
        kept = "SELECT 1 FROM pictures WHERE sha256 = ? AND state = 'kept'"
        return any(db.execute(kept, (sha,)).fetchone() is None for sha in lost)


def _remove_orphans(target: Path) -> None:
    pictures = PictureFiles(target / PICTURES_NAME)
    with opened_readonly(target / DATABASE_NAME) as db:
        for sha in take_inventory(db, pictures).orphans:
            pictures.remove(sha)
    for part in target.glob(f"{PICTURES_NAME}/??/*.tmp"):
        part.unlink()
