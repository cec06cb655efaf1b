"""Strips the recipes of deleted jobs from picture files that variations still need.

This is done one picture at a time. The file is read and encoded outside of a transaction, so that
other writes do not wait.
"""

from __future__ import annotations

from typing import Final

import sqlite_utils

from ..errors import PictureMissing
from ..pictures.files import NewFile, PictureFiles
from ..pictures.plain_png import encode_png
from ..pictures.rows import keep_file
from ..queries.conversion import FORGOTTEN
from .jobs import mark_unneeded

# The rows of one transaction, which then takes milliseconds.
_ROWS: Final = 500

# A picture that is kept for other jobs, as their source or reference, and belongs to no image.
_IS_BARE_SOURCE: Final = """
    EXISTS (SELECT 1 FROM pictures WHERE pictures.sha256 = picture AND state = 'kept')
    AND NOT EXISTS (SELECT 1 FROM images WHERE images.sha256 = picture AND NOT images.deleted)
"""


def has_recipes_left(db: sqlite_utils.Database) -> bool:
    """Return whether a file may still hold the recipe of a deleted image."""
    return next_picture(db) is not None


def next_picture(db: sqlite_utils.Database) -> str | None:
    """Return the SHA-256 of a file that may still hold the recipe of a deleted image, or None."""
    # SQLite uses the index `images_unstripped` only for exactly this condition.
    row = db.execute("SELECT sha256 FROM images WHERE recipe = '[]' LIMIT 1").fetchone()
    return None if row is None else str(row[0])


def skip_finished(db: sqlite_utils.Database) -> bool:
    """Mark some images as done whose files are removed, or are kept for another image too.

    Return whether there may be more of them.
    """
    rows = db.execute(
        f"""
        UPDATE images SET recipe = ? WHERE id IN (
            SELECT id FROM (SELECT id, sha256 AS picture FROM images WHERE recipe = '[]')
            WHERE NOT ({_IS_BARE_SOURCE}) LIMIT ?
        )
        """,  # noqa: S608 -- a constant of this program
        (FORGOTTEN, _ROWS),
    )
    return bool(rows.rowcount == _ROWS)


def strip_recipe(pictures: PictureFiles, sha256: str) -> NewFile | None:
    """Return a file with only the pixels of a picture, or None if the picture cannot be read.

    Raises:
        FolderUnusable: the file cannot be read.
    """
    try:
        pixels = pictures.read_pixels(sha256)
    except PictureMissing:
        return None
    return NewFile(encode_png(pixels), pixels.sha256)


def replace_file(
    db: sqlite_utils.Database, pictures: PictureFiles, sha256: str, stripped: NewFile | None
) -> None:
    """Let the jobs that use a picture as source or reference use its stripped file instead.

    The old file is marked for removal, unless an image uses the same file by now. Without a
    stripped file the old one stays too. The stripped file must be announced before: see
    `pictures.rows.announce_files`.

    Raises:
        DiskFull: the disk has no space for the stripped file; the old file stays.
    """
    if stripped is not None and _is_bare_source(db, sha256):
        new = keep_file(db, pictures, stripped)
        if new != sha256:
            db.execute("UPDATE jobs SET source_sha256 = ? WHERE source_sha256 = ?", (new, sha256))
            db.execute("UPDATE job_references SET sha256 = ? WHERE sha256 = ?", (new, sha256))
            mark_unneeded(db, sha256)
    db.execute(
        "UPDATE images SET recipe = ? WHERE sha256 = ? AND recipe = '[]'", (FORGOTTEN, sha256)
    )


def _is_bare_source(db: sqlite_utils.Database, sha256: str) -> bool:
    sql = f"SELECT {_IS_BARE_SOURCE} FROM (SELECT ? AS picture)"  # noqa: S608 -- as above
    return bool(db.execute(sql, (sha256,)).fetchone()[0])
