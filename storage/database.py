"""One thread owns the SQLite connection; futures carry the answers back to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import sqlite_utils

from . import migrations
from .errors import (
    DatabaseUnusable,
    DiskFull,
    StorageError,
    from_os_error,
    from_sqlite_error,
)

T = TypeVar("T")

BUSY_SECONDS: Final = 5.0
_NO_WRITING: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})


class Database:
    """A SQLite file whose connection lives in one thread of its own.

    Entering it opens the file, makes its folder, and brings the schema up to date; leaving
    it waits for what was asked before.

    Raises:
        DatabaseUnusable: on entering; the file is no database, is damaged, is locked, cannot be
            written, or was made by a newer version or by another program.
        DiskFull: on entering; there is no room to make it.
    """

    def __init__(self, path: Path, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.path = path
        self._busy_seconds = busy_seconds
        self._tasks: queue.SimpleQueue[_Task[Any] | None] = queue.SimpleQueue()
        # Nothing may be put behind the None that ends the thread: it would wait for ever.
        self._gate = threading.Lock()
        self._open = False

    async def __aenter__(self) -> Self:
        opened = _Answer[None]()
        self._ended = _Answer[None]()
        # A daemon, because an event loop that dies on the way must not keep the process alive.
        self._thread = threading.Thread(
            target=self._work, args=(opened, self._ended), name="database", daemon=True
        )
        self._thread.start()
        self._open = True
        try:
            await opened.future
        except BaseException:
            # Even if the caller is cancelled: its folder is free only when the thread is through.
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        with self._gate:
            self._open = False
            self._tasks.put(None)
        await self._ended.future
        # It has nothing left to do but to end.
        self._thread.join()

    async def run(self, fn: Callable[[sqlite_utils.Database], T]) -> T:
        """Return what `fn` returns, once its transaction is on disk.

        `fn` is called in the database thread, in a transaction of its own that is rolled back
        when it raises. It is carried out even when the caller is cancelled meanwhile.

        Raises:
            StorageError: SQLite refused, the disk is full, or the database is closed.
            Exception: whatever else `fn` raises.
        """
        with self._gate:
            if not self._open:
                raise StorageError(
                    f"The database {self.path} is closed; start the bot again to use it."
                )
            task = _Task(fn, _Answer[T]())
            self._tasks.put(task)
        return await task.answer.future

    def _work(self, opened: _Answer[None], ended: _Answer[None]) -> None:
        try:
            db = _open(self.path, self._busy_seconds)
        except BaseException as error:
            opened.fail(error)
            ended.give(None)
            return
        opened.give(None)
        try:
            while (task := self._tasks.get()) is not None:
                task.carry_out(self.path, db)
                # A finished task must not keep its result alive until the next one comes.
                del task
        finally:
            db.close()
            ended.give(None)


class _Answer(Generic[T]):
    """A future of the running event loop that another thread resolves."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self._loop.create_future()

    def give(self, result: T) -> None:
        self._post(lambda: self.future.set_result(result))

    def fail(self, error: BaseException) -> None:
        self._post(lambda: self.future.set_exception(error))

    def _post(self, settle: Callable[[], None]) -> None:
        def settle_if_awaited() -> None:
            if not self.future.done():
                settle()

        # A closed loop has nobody left who waits for the answer.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(settle_if_awaited)


@dataclass(frozen=True, slots=True)
class _Task(Generic[T]):
    fn: Callable[[sqlite_utils.Database], T]
    answer: _Answer[T]

    def carry_out(self, path: Path, db: sqlite_utils.Database) -> None:
        """Call the function in a transaction and send its result or its error back."""
        try:
            with transaction(path, db):
                result = self.fn(db)
        except StopIteration as error:
            # A future refuses to carry it.
            failure = RuntimeError("a function of the database raised StopIteration")
            failure.__cause__ = error
            self.answer.fail(failure)
        except BaseException as error:
            self.answer.fail(error)
        else:
            self.answer.give(result)


@contextlib.contextmanager
def transaction(path: Path, db: sqlite_utils.Database) -> Iterator[None]:
    """Commit what happens inside, or roll it back on any exception.

    Raises:
        StorageError: SQLite refused; the original error is its cause.
    """
    with _translated(path):
        # It takes the lock for writing at once, because SQLite does not wait for a lock that
        # a reader asks for in the middle of its transaction.
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            db.rollback()
            raise


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise from_sqlite_error(path, error) from error


def _open(path: Path, busy_seconds: float) -> sqlite_utils.Database:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if isinstance(full := from_os_error(path, error), DiskFull):
            raise full from error
        reason = f"cannot be made ({(error.strerror or str(error)).lower()})"
        raise DatabaseUnusable(path, f"{reason}; choose another folder with --data") from error
    with _translated(path):
        connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
        try:
            db = _prepare(path, connection)
            migrations.apply(path, db)
        except BaseException:
            connection.close()
            raise
    return db


def _prepare(path: Path, connection: sqlite3.Connection) -> sqlite_utils.Database:
    db = sqlite_utils.Database(connection, execute_plugins=False)
    migrations.refuse_foreign(path, db)
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise DatabaseUnusable(
            path, "lies on a file system without shared memory; choose a folder on a local disk"
        )
    # "Accepted" means on disk: the default of WAL mode may lose the last commits with the power.
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    return db


def open_readonly(path: Path) -> sqlite_utils.Database:
    """Return the database at `path` for reading, also while a bot works on it.

    The caller closes it, and uses it in the thread that called this.

    Raises:
        DatabaseUnusable: there is none, it cannot be read, or its version is another.
    """
    if not path.exists():
        raise DatabaseUnusable(
            path, "does not exist; start the bot once, or name its folder with --data"
        )
    with _translated(path):
        connection = _connect_readonly(path)
        try:
            db = sqlite_utils.Database(connection, execute_plugins=False)
            migrations.require_current(path, db)
        except BaseException:
            connection.close()
            raise
    return db


def _connect_readonly(path: Path) -> sqlite3.Connection:
    uri = path.absolute().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error as error:
        connection.close()
        # Where nothing may be written, SQLite cannot make its file of shared memory. Without
        # a write-ahead log nobody is writing either, so it can be read without that file.
        is_refused = error.sqlite_errorcode & 0xFF in _NO_WRITING
        if not is_refused or path.with_name(f"{path.name}-wal").exists():
            raise
        connection = sqlite3.connect(f"{uri}?immutable=1", uri=True)
    return connection
