"""Opens the stores of a data folder, for this process alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from .database import Database
from .folder.layout import DATABASE_NAME, PICTURES_NAME, refuse_half_restored, refuse_vanished
from .folder.lock import locked
from .history import History
from .jobs import JobStore
from .joined_guilds import JoinedGuilds
from .pictures.files import PictureFiles
from .upkeep.secure_deletion import SecureDeletion
from .upkeep.startup import finish_interrupted


@dataclass(frozen=True, slots=True)
class Storage:
    """The open stores of a data folder, for the program to pass on one by one."""

    jobs: JobStore
    history: History
    joined_guilds: JoinedGuilds
    pictures_folder: Path


@asynccontextmanager
async def open_storage(data_dir: Path) -> AsyncIterator[Storage]:
    """Open the stores in a data folder; create the folder if it does not exist.

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
                yield Storage(
                    jobs=JobStore(db, pictures, secure_deletion),
                    history=History(db),
                    joined_guilds=JoinedGuilds(db),
                    pictures_folder=pictures.folder,
                )
            finally:
                await secure_deletion.close()
