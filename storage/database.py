"""The database of a data folder: one thread writes, another thread reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import sqlite_utils

from .deletion import remnants
from .errors import DatabaseDamaged, DatabaseUnusable, DiskFull, from_os_error
from .sqlite import indexing, migrator
from .sqlite.integrity import check_integrity
from .sqlite.readonly import BUSY_SECONDS
from .sqlite.threads import READING, ConnectionThread, transaction, translated

S = TypeVar("S")
T = TypeVar("T")

# The time for the integrity check at the start; after a crash the check has no limit.
_CHECK_SECONDS: Final = 2.0


class Database:
    """A SQLite file with a writing and a reading connection, each in its own thread.

    On entry the file is opened or created, and its schema is migrated. On exit all tasks from
    before are finished.

    Raises:
        DatabaseUnusable: on entry; the file is not a database, is damaged, is locked, cannot be
            written, or was made by a newer version or by another program.
        DiskFull: on entry; the disk has no space for the file.
    """

    def __init__(self, path: Path, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.path = path
        # The latest damage that was found, or None. A damaged database accepts no new jobs.
        self.damage: DatabaseDamaged | None = None
        self._writer = ConnectionThread(path, lambda: _open(path, busy_seconds), name="database")
        self._reader = ConnectionThread(
            path, lambda: _open_reader(path, busy_seconds), name="database reader", begin=READING
        )

    async def __aenter__(self) -> Self:
        await self._writer.start()
        try:
            await self._reader.start()
        except BaseException:
            await self._writer.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The last connection to close writes the write-ahead log into the database.
        try:
            await self._reader.close()
        finally:
            await self._writer.close()

    async def run(self, fn: Callable[[sqlite_utils.Database], T]) -> T:
        """Return the result of `fn` when its transaction is on disk.

        `fn` is called in the writing thread, in a transaction of its own. The transaction is
        rolled back if `fn` raises. `fn` runs even if the caller is cancelled.

        Raises:
            StorageError: SQLite failed, the disk is full, or the database is closed.
            Exception: any other error of `fn`.
        """
        try:
            return await self._writer.run(fn)
        except DatabaseDamaged as error:
            self.damage = error
            raise

    async def run_bare(self, fn: Callable[[sqlite_utils.Database], T]) -> T:
        """Return the result of `fn`, called as in `run`, but without a transaction."""
        try:
            return await self._writer.run(fn, bare=True)
        except DatabaseDamaged as error:
            self.damage = error
            raise

    async def run_both(
        self,
        first: Callable[[sqlite_utils.Database], S],
        then: Callable[[sqlite_utils.Database, S], T],
    ) -> T:
        """Return the result of `then`, which is called with the result of `first`.

        Each is called as in `run`, in a transaction of its own. The transaction of `first` is on
        disk before `then` is called. No other transaction runs in between.
        """

        def both(db: sqlite_utils.Database) -> T:
            with transaction(self.path, db):
                found = first(db)
            with transaction(self.path, db):
                return then(db, found)

        return await self.run_bare(both)

    async def read(self, fn: Callable[[sqlite_utils.Database], T]) -> T:
        """Return the result of `fn`, which reads the committed data and cannot write.

        `fn` is called in the reading thread, so a slow query does not delay writes.

        Raises:
            StorageError: SQLite failed, or the database is closed.
            Exception: any other error of `fn`.
        """
        try:
            return await self._reader.run(fn)
        except DatabaseDamaged as error:
            self.damage = error
            raise


def _open(path: Path, busy_seconds: float) -> sqlite_utils.Database:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if isinstance(full := from_os_error(path, error), DiskFull):
            raise full from error
        reason = f"cannot be made ({(error.strerror or str(error)).lower()})"
        raise DatabaseUnusable(path, f"{reason}; choose another folder with --data") from error
    was_cut_short = path.with_name(f"{path.name}-wal").exists()
    with translated(path):
        connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
        try:
            db = _prepare(path, connection)
            check_integrity(path, db, None if was_cut_short else _CHECK_SECONDS)
            migrator.apply(path, db)
            indexing.catch_up(path, db)
            remnants.clean_once(path, db)
        except BaseException:
            connection.close()
            raise
    return db


def _prepare(path: Path, connection: sqlite3.Connection) -> sqlite_utils.Database:
    db = sqlite_utils.Database(connection, execute_plugins=False)
    migrator.refuse_foreign(path, db)
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise DatabaseUnusable(
            path, "lies on a file system without shared memory; choose a folder on a local disk"
        )
    # An accepted job must be on disk. The default of WAL mode may lose the last commits in a power
    # cut.
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    # Deleted rows are overwritten with zeros.
    db.execute("PRAGMA secure_delete = ON")
    return db


def _open_reader(path: Path, busy_seconds: float) -> sqlite_utils.Database:
    with translated(path):
        connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
        connection.execute("PRAGMA query_only = ON")
    return sqlite_utils.Database(connection, execute_plugins=False)
