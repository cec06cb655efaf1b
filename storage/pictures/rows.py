"""The rows of picture files: every file has a row before the file is written.

A file and its row cannot change in one step. The row says 'removing' before the file is written,
'kept' afterwards, and 'removing' again until the file is removed. So after a crash the next start
finds every unneeded file by its row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import sqlite_utils

from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage

from ..errors import PictureDamaged, StorageError
from .files import NewFile, PictureFiles, name_of
from .plain_png import encode_png

log = logging.getLogger(__name__)


def files_of(images: Sequence[tuple[GeneratedImage, bytes]]) -> list[NewFile]:
    """Return the files of finished images."""
    return [NewFile(data, image.pixels.sha256) for image, data in images]


def announce_files(db: sqlite_utils.Database, files: Iterable[NewFile]) -> None:
    """Add rows that say 'removing' for files that will be written; leave kept files alone.

    `keep_file` sets the state to 'kept' in a later transaction. After a crash between the two,
    the next start removes the files.
    """
    db.conn.executemany(
        """
        INSERT INTO pictures (sha256, pixels_sha256, state) VALUES (?, ?, 'removing')
        ON CONFLICT (sha256) DO UPDATE SET state = 'removing' WHERE state = 'removed'
        """,
        [(name_of(file.data), file.pixels_sha256) for file in files],
    )


def announce_pictures(
    db: sqlite_utils.Database, pictures: PictureFiles, wanted: Iterable[Pixels]
) -> list[NewFile]:
    """Announce files for those of the `wanted` pictures that are not kept; return the files."""
    new = {
        picture.sha256: NewFile(encode_png(picture), picture.sha256)
        for picture in wanted
        if kept_file(db, pictures, picture) is None
    }
    announce_files(db, new.values())
    return list(new.values())


def keep_file(db: sqlite_utils.Database, pictures: PictureFiles, file: NewFile) -> str:
    """Write an announced file unless it exists, set its row to 'kept', and return its hash."""
    sha256 = pictures.write(file.data)
    db.execute(
        """
        INSERT INTO pictures (sha256, pixels_sha256) VALUES (?, ?)
        ON CONFLICT (sha256) DO UPDATE SET state = 'kept'
        """,
        (sha256, file.pixels_sha256),
    )
    return sha256


def kept_file(db: sqlite_utils.Database, pictures: PictureFiles, pixels: Pixels) -> str | None:
    """Return the SHA-256 of a kept picture with these pixels, if its file exists."""
    known = kept_picture(db, pixels.sha256)
    return known if known is not None and pictures.path(known).exists() else None


def kept_picture(db: sqlite_utils.Database, pixels_sha256: str) -> str | None:
    """Return the SHA-256 of a kept picture with these pixels."""
    row = db.execute(
        "SELECT sha256 FROM pictures WHERE pixels_sha256 = ? AND state = 'kept' LIMIT 1",
        (pixels_sha256,),
    ).fetchone()
    return None if row is None else str(row[0])


def remove_marked_files(db: sqlite_utils.Database, pictures: PictureFiles) -> None:
    """Remove the files of the pictures whose rows say 'removing'.

    A file that cannot be removed keeps its row, so the next call tries again.

    Raises:
        FolderUnusable: a folder cannot be synced; all rows stay 'removing'.
    """
    removed = list[str]()
    rows = db.execute("SELECT sha256 FROM pictures WHERE state = 'removing'")
    for (sha256,) in rows.fetchall():
        try:
            pictures.remove(sha256)
            removed.append(sha256)
        except StorageError as error:
            log.error("The file of a deleted picture could not be removed. %s", error)
    # Without this a power cut could restore a file whose row already says 'removed'.
    pictures.sync_names(removed)
    db.conn.executemany(
        "UPDATE pictures SET state = 'removed' WHERE sha256 = ?", [(name,) for name in removed]
    )


def source_pixels(
    db: sqlite_utils.Database, pictures: PictureFiles, pixels_sha256: str
) -> Pixels | None:
    """Return the pixels with this hash, if a kept picture has them.

    Raises:
        PictureMissing: the picture is kept, but its file is missing or damaged.
    """
    sha256 = kept_picture(db, pixels_sha256)
    if sha256 is None:
        return None
    pixels = pictures.read_pixels(sha256)
    if pixels.sha256 != pixels_sha256:
        raise PictureDamaged(sha256)
    return pixels
