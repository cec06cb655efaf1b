"""Read-only access to the stored pictures, for commands that run beside the bot."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import sqlite_utils

from generation.values.pixels import Pixels

from .errors import JobUnreadable
from .folder.layout import DATABASE_NAME, PICTURES_NAME
from .pictures.files import PictureFiles
from .pictures.rows import source_pixels
from .queries.conversion import job_from_row
from .queries.images import images_of
from .queries.jobs import job_row
from .records import StoredImage
from .sqlite.readonly import open_readonly


class Archive:
    """The pictures of a data folder, as a context manager for one thread.

    Raises:
        DatabaseUnusable: the database does not exist or cannot be read.
    """

    def __init__(self, data_dir: Path) -> None:
        self._pictures = PictureFiles(data_dir / PICTURES_NAME)
        self._db: sqlite_utils.Database = open_readonly(data_dir / DATABASE_NAME)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @staticmethod
    def exists(data_dir: Path) -> bool:
        """Return whether the folder holds a database."""
        return (data_dir / DATABASE_NAME).exists()

    def images(self, job_id: int) -> list[StoredImage]:
        """Return the images of a job that are not deleted, in order."""
        return [image for image in images_of(self._db, job_id) if not image.deleted]

    def model_of(self, job_id: int) -> str | None:
        """Return the name of the model that a job asked for; None if the job has none to tell."""
        row = job_row(self._db, job_id)
        if row is None:
            return None
        try:
            return job_from_row(row, None).request.model
        except JobUnreadable:
            return None

    def read(self, image: StoredImage) -> bytes:
        """Return the PNG file of an image.

        Raises:
            PictureMissing: the file is missing or damaged.
        """
        return self._pictures.read(image.sha256)

    def source_pixels(self, pixels_sha256: str) -> Pixels | None:
        """Return the pixels with this hash, if a kept picture has them.

        Raises:
            PictureMissing: the picture is kept, but its file is missing or damaged.
        """
        return source_pixels(self._db, self._pictures, pixels_sha256)
