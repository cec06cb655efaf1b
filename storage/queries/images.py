"""The statements on the images of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlite_utils

from generation.values.recipe import GeneratedImage

from ..pictures.files import PictureFiles
from ..pictures.rows import files_of, keep_file
from ..records import StoredImage
from .conversion import image_from_row, recipe_to_json
from .jobs import ID_MAX

_IMAGES: Final = """
    SELECT images.*, jobs.parent_image_id FROM images JOIN jobs ON jobs.id = images.job_id
"""


def insert_images(
    db: sqlite_utils.Database,
    pictures: PictureFiles,
    job_id: int,
    images: Sequence[tuple[GeneratedImage, bytes]],
) -> None:
    """Store the images of a job: first the files, which must be announced, then the rows."""
    names = [keep_file(db, pictures, file) for file in files_of(images)]
    db.conn.executemany(
        'INSERT INTO images (job_id, "index", sha256, recipe) VALUES (?, ?, ?, ?)',
        [
            (job_id, image.index, sha256, recipe_to_json(image.recipe))
            for (image, _), sha256 in zip(images, names, strict=True)
        ],
    )


def images_of(db: sqlite_utils.Database, job_id: int) -> list[StoredImage]:
    """Return the images of a job in order, deleted images too."""
    rows = db.query(f'{_IMAGES} WHERE job_id = ? ORDER BY "index"', (min(job_id, ID_MAX),))
    return [image_from_row(row) for row in rows]


def image_by_id(db: sqlite_utils.Database, image_id: int) -> StoredImage | None:
    """Return an image, deleted or not."""
    rows = db.query(f"{_IMAGES} WHERE images.id = ?", (image_id,))
    return next((image_from_row(row) for row in rows), None)
