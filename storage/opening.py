"""Opens the store of a data folder, for this process alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .database import Database
from .folder.layout import DATABASE_NAME, PICTURES_NAME, refuse_half_restored, refuse_vanished
from .folder.lock import locked
from .jobs import JobStore
from .pictures.files import PictureFiles
from .upkeep.secure_deletion import SecureDeletion
from .upkeep.startup import finish_interrupted


@asynccontextmanager
async def open_storage(data_dir: Path) -> AsyncIterator[JobStore]:
    """Open the store in a data folder; create the folder if it does not exist.

    Raises:
        FolderInUse: another process works on the folder.
        StorageError: the folder or the database cannot be used.
    """
    pictures = PictureFiles(data_dir / PICTURES_NAME)
    with locked(data_dir):
        refuse_half_restored(data_dir)
        refuse_vanished(data_dir)
        async with Database(data_dir / DATABASE_NAME) as db:
            secure_deletion = SecureDeletion(db, pictures)
            await finish_interrupted(db, pictures, secure_deletion)
            try:
                yield JobStore(db, pictures, secure_deletion)
            finally:
                await secure_deletion.close()
