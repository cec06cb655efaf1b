"""Writing the pictures of deleted jobs that others have varied again, without their recipes.

It is done one picture at a time. The file is read and encoded outside of any transaction, so that
no write of the bot waits for that.
"""

from __future__ import annotations

from typing import Final

import sqlite_utils

from .. import queries
from ..errors import PictureMissing
from ..pictures import keeping
from ..pictures.files import NewFile, PictureFiles, to_png
from ..records import FORGOTTEN
from . import erasing

# So many rows are looked at in one transaction: milliseconds.
_ROWS: Final = 500

# A picture that is kept for what was made from it, and for no image.
_IS_BARE_SOURCE: Final = """
    EXISTS (SELECT 1 FROM pictures WHERE pictures.sha256 = picture AND state = 'kept')
    AND NOT EXISTS (SELECT 1 FROM images WHERE images.sha256 = picture AND NOT images.deleted)
"""


def is_any_left(db: sqlite_utils.Database) -> bool:
    """Return whether the file of a deleted image may still hold its recipe."""
    return next_picture(db) is not None


def next_picture(db: sqlite_utils.Database) -> str | None:
    """Return the SHA-256 of a file that may still hold the recipe of a deleted image, if any."""
    # In the very words of the index `images_unstripped`.
    row = db.execute("SELECT sha256 FROM images WHERE recipe = '[]' LIMIT 1").fetchone()
    return None if row is None else str(row[0])


def pass_over(db: sqlite_utils.Database) -> bool:
    """Mark some images whose files are removed, or kept for another image too, as done.

    Returns whether there may be more.
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


def without_recipe(pictures: PictureFiles, sha256: str) -> NewFile | None:
    """Return a file with the pixels of that one only, or None if that one cannot be read.

    Raises:
        FolderUnusable: the disk refuses to read it.
    """
    try:
        pixels = queries.read_pixels(pictures, sha256)
    except PictureMissing:
        return None
    return NewFile(to_png(pixels), pixels.sha256)


def replace(
    db: sqlite_utils.Database, pictures: PictureFiles, sha256: str, bare: NewFile | None
) -> None:
    """Let the jobs that came from a picture refer to its bare file, and mark the old one.

    The picture stays if meanwhile an image has the same file, and so does one without a bare
    file. The bare file has to be announced: see `keeping.announce_files`.

    Raises:
        DiskFull: there is no room for the new file; the old one stays.
    """
    if bare is not None and _is_bare_source(db, sha256):
        new = keeping.keep_file(db, pictures, bare)
        if new != sha256:
            db.execute("UPDATE jobs SET source_sha256 = ? WHERE source_sha256 = ?", (new, sha256))
            erasing.mark_unneeded(db, sha256)
    db.execute(
        "UPDATE images SET recipe = ? WHERE sha256 = ? AND recipe = '[]'", (FORGOTTEN, sha256)
    )


def _is_bare_source(db: sqlite_utils.Database, sha256: str) -> bool:
    sql = f"SELECT {_IS_BARE_SOURCE} FROM (SELECT ? AS picture)"  # noqa: S608 -- as above
    return bool(db.execute(sql, (sha256,)).fetchone()[0])
