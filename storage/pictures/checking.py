"""Whether a database is whole, and whether the files are there that its rows refer to."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlite_utils

from ..errors import DatabaseDamaged, from_os_error
from ..sqlite.threads import translated
from .files import PictureFiles

_NAME: Final = re.compile(r"([0-9a-f]{64})\.png")
SHARDS: Final = tuple(f"{number:02x}" for number in range(256))


@dataclass(frozen=True, slots=True)
class Comparison:
    """The files of the pictures folder beside the rows of the database, by SHA-256.

    `known` is how many files have a row that says they are kept.
    """

    known: int
    missing: tuple[str, ...]
    unknown: tuple[str, ...]


def check_whole(path: Path, db: sqlite_utils.Database, seconds: float | None = None) -> bool:
    """Return True if the database is sound, False if `seconds` were too few to tell.

    It reads all pages (a gigabyte in some seconds), but does not compare indexes with tables.

    Raises:
        DatabaseDamaged: it is not.
    """
    end = None if seconds is None else time.monotonic() + seconds
    if end is not None:
        db.conn.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    try:
        with translated(path):
            faults = [str(row[0]) for row in db.execute("PRAGMA quick_check(1)")]
            faults += [
                f"a row of {row[0]} refers to nothing"
                for row in db.execute("PRAGMA foreign_key_check").fetchmany(1)
            ]
    except Exception as error:
        if _is_interrupt(error.__cause__):
            return False
        raise
    finally:
        db.conn.set_progress_handler(None, 0)
    if faults != ["ok"]:
        raise DatabaseDamaged(path, " ".join(faults[0 if len(faults) == 1 else -1].split()))
    return True


def _is_interrupt(error: BaseException | None) -> bool:
    return (
        isinstance(error, sqlite3.Error)
        and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT
    )


def compare(db: sqlite_utils.Database, pictures: PictureFiles) -> Comparison:
    """Return which files lack and which no row knows; names that are not ours are passed over.

    Raises:
        FolderUnusable: the folder cannot be read.
    """
    known, missing, unknown = 0, list[str](), list[str]()
    for shard in SHARDS:
        there = set(files(pictures.folder, shard))
        rows = states(db, shard)
        kept = {sha256 for sha256, state in rows.items() if state == "kept"}
        known += len(kept & there)
        missing += sorted(kept - there)
        unknown += unknown_of(there, rows)
    return Comparison(known, tuple(missing), tuple(unknown))


def states(db: sqlite_utils.Database, shard: str) -> dict[str, str]:
    """Return the states of the pictures in one part of the folder, by SHA-256."""
    rows = db.execute(
        "SELECT sha256, state FROM pictures WHERE sha256 >= ? AND sha256 < ?",
        (shard, f"{shard}g"),
    )
    return dict(rows.fetchall())


def unknown_of(there: set[str], states: Mapping[str, str]) -> list[str]:
    """Return which of the files no row knows; one that says 'removed' knows none.

    An older database may say so of a picture that was made again since.
    """
    return sorted(there - {sha for sha, state in states.items() if state != "removed"})


def files(folder: Path, shard: str) -> Iterator[str]:
    """Yield the SHA-256 in the names of the picture files in one part of the folder.

    Raises:
        FolderUnusable: the folder cannot be read.
    """
    try:
        with os.scandir(folder / shard) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                if match and match[1].startswith(shard) and entry.is_file(follow_symlinks=False):
                    yield match[1]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise from_os_error(folder / shard, error) from error


def is_sound(file: Path, sha256: str) -> bool:
    """Tell whether a file holds the bytes that its name promises; one that is not there does not.

    Raises:
        FolderUnusable: it cannot be read.
    """
    try:
        with file.open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise from_os_error(file, error) from error
