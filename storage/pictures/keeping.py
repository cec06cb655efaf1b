"""The files of pictures beside their rows: no file is written or removed that no row tells of.

A file and a row cannot change in one step. A row says 'removing' before its file is written and
until its file is removed, so a crash leaves only files that the next start knows to remove.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import sqlite_utils

from generation.values.pixels import Pixels
from generation.values.recipe import GeneratedImage

from ..errors import StorageError
from .files import NewFile, PictureFiles, name_of, to_png

log = logging.getLogger(__name__)


def files_of(images: Sequence[tuple[GeneratedImage, bytes]]) -> list[NewFile]:
    """Return the files of finished images."""
    return [NewFile(data, image.pixels.sha256) for image, data in images]


def announce_files(db: sqlite_utils.Database, files: Iterable[NewFile]) -> None:
    """Mark files for removal that are about to be written, unless they are kept already.

    `keep_file` takes the mark back, in a later transaction. A crash between the two leaves files
    that their rows tell the next start to remove, and never a file that no row knows.
    """
    db.conn.executemany(
        """
        INSERT INTO pictures (sha256, pixels_sha256, state) VALUES (?, ?, 'removing')
        ON CONFLICT (sha256) DO UPDATE SET state = 'removing' WHERE state = 'removed'
        """,
        [(name_of(file.data), file.pixels_sha256) for file in files],
    )


def announce_source(
    db: sqlite_utils.Database, pictures: PictureFiles, source: Pixels | None
) -> NewFile | None:
    """Return the announced file of a source, or None if there is none to be written."""
    if source is None or kept_file(db, pictures, source) is not None:
        return None
    file = NewFile(to_png(source), source.sha256)
    announce_files(db, [file])
    return file


def keep_file(db: sqlite_utils.Database, pictures: PictureFiles, file: NewFile) -> str:
    """Write an announced file, unless it is there, call it kept, and return its hash."""
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
    """Return the SHA-256 of a kept picture with these pixels whose file is there."""
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
    """Remove the files of pictures that were marked for removal.

    One that cannot be removed stays marked, and is tried again with the next.

    Raises:
        FolderUnusable: that the files are gone cannot be put on disk; all stay marked.
    """
    removed = list[str]()
    rows = db.execute("SELECT sha256 FROM pictures WHERE state = 'removing'")
    for (sha256,) in rows.fetchall():
        try:
            pictures.remove(sha256)
            removed.append(sha256)
        except StorageError as error:
            log.error("A deleted picture is still there. %s", error)
    # Or a power cut could bring back a file of which no row says that it has to go.
    pictures.sync_names(removed)
    db.conn.executemany(
        "UPDATE pictures SET state = 'removed' WHERE sha256 = ?", [(name,) for name in removed]
    )
