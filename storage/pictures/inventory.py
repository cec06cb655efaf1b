"""Compares the picture files with the rows of the database.

The pictures folder has 256 shards: a file lies in the folder of the first two digits of its name.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlite_utils

from ..errors import from_os_error
from .files import PictureFiles

_NAME: Final = re.compile(r"([0-9a-f]{64})\.png")
SHARDS: Final = tuple(f"{number:02x}" for number in range(256))


@dataclass(frozen=True, slots=True)
class Inventory:
    """The files of the pictures folder compared with the rows of the database, by SHA-256.

    `known` counts the files with a row that says 'kept'. `missing` files have such a row, but do
    not exist. `orphans` are files without a row.
    """

    known: int
    missing: tuple[str, ...]
    orphans: tuple[str, ...]


def take_inventory(db: sqlite_utils.Database, pictures: PictureFiles) -> Inventory:
    """Return which picture files are missing and which are orphans; ignore all other files.

    Raises:
        FolderUnusable: the folder cannot be read.
    """
    known, missing, orphans = 0, list[str](), list[str]()
    for shard in SHARDS:
        found = set(files(pictures.folder, shard))
        rows = states(db, shard)
        kept = {sha256 for sha256, state in rows.items() if state == "kept"}
        known += len(kept & found)
        missing += sorted(kept - found)
        orphans += orphans_of(found, rows)
    return Inventory(known, tuple(missing), tuple(orphans))


def states(db: sqlite_utils.Database, shard: str) -> dict[str, str]:
    """Return the states of the pictures of a shard, by SHA-256."""
    rows = db.execute(
        "SELECT sha256, state FROM pictures WHERE sha256 >= ? AND sha256 < ?",
        (shard, f"{shard}g"),
    )
    return dict(rows.fetchall())


def orphans_of(found: set[str], states: Mapping[str, str]) -> list[str]:
    """Return the files that have no row, or only a row that says 'removed'.

    An older database may say 'removed' of a picture that was made again later.
    """
    return sorted(found - {sha for sha, state in states.items() if state != "removed"})


def files(folder: Path, shard: str) -> Iterator[str]:
    """Yield the SHA-256 in the names of the picture files of a shard.

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
    """Return whether a file exists and its bytes have this SHA-256.

    Raises:
        FolderUnusable: the file cannot be read.
    """
    try:
        with file.open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise from_os_error(file, error) from error
