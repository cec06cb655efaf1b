"""The maintenance at the start, before anything else works on the data folder."""

from __future__ import annotations

import asyncio

import sqlite_utils

from ..database import Database
from ..deletion import recipes, remnants
from ..pictures.files import PictureFiles
from ..pictures.rows import remove_marked_files
from .orphans import quarantine_orphans
from .secure_deletion import SecureDeletion


async def finish_interrupted(
    db: Database, pictures: PictureFiles, secure_deletion: SecureDeletion
) -> None:
    """Finish the writes and deletions that a crash interrupted, and quarantine orphans.

    Raises:
        StorageError: the database or the pictures folder cannot be used.
    """
    await asyncio.to_thread(pictures.remove_half_written)
    await quarantine_orphans(db, pictures)
    await db.run(lambda db: remove_marked_files(db, pictures))
    if await db.run(_has_remnants):
        secure_deletion.request()


def _has_remnants(db: sqlite_utils.Database) -> bool:
    return recipes.has_recipes_left(db) or not remnants.is_clean(db)
