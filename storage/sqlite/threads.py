"""SQLite connections in threads of their own; futures return the results to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import sqlite_utils

from ..errors import DatabaseDamaged, StorageError, from_sqlite_error

T = TypeVar("T")

# A transaction that will write takes the lock at its beginning. SQLite does not wait for the lock
# if a transaction reads first and then writes.
WRITING: Final = "BEGIN IMMEDIATE"
READING: Final = "BEGIN DEFERRED"


class ConnectionThread:
    """A connection to the database at `path`, and the only thread that uses the connection.

    `begin` is the statement at the beginning of each transaction: WRITING or READING.
    """

    def __init__(
        self,
        path: Path,
        open_connection: Callable[[], sqlite_utils.Database],
        *,
        name: str,
        begin: str = WRITING,
    ) -> None:
        self._path = path
        self._open_connection = open_connection
        self._name = name
        self._begin = begin
        self._tasks: queue.SimpleQueue[_Task[Any] | None] = queue.SimpleQueue()
        # The None that ends the thread must be the last item: a task behind it would never run.
        self._gate = threading.Lock()
        self._open = False

    async def start(self) -> None:
        """Open the connection; if that fails, end the thread and raise the error."""
        opened = _Result[None]()
        self._ended = _Result[None]()
        # A daemon thread: it must not keep the process alive if the event loop dies.
        self._thread = threading.Thread(
            target=self._work, args=(opened, self._ended), name=self._name, daemon=True
        )
        self._thread.start()
        self._open = True
        try:
            await opened.future
        except BaseException:
            # Also if the caller is cancelled: the folder is free only after the thread has ended.
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection after all tasks from before."""
        with self._gate:
            self._open = False
            self._tasks.put(None)
        await self._ended.future
        # The thread has already left its loop.
        self._thread.join()

    async def run(self, fn: Callable[[sqlite_utils.Database], T], *, bare: bool = False) -> T:
        """Return the result of `fn`, called in a transaction of its own: see `Database.run`.

        `bare` calls `fn` without a transaction.
        """
        with self._gate:
            if not self._open:
                raise StorageError(
                    f"The database {self._path} is closed; start the bot again to use it."
                )
            task = _Task(fn, _Result[T](), None if bare else self._begin)
            self._tasks.put(task)
        return await task.result.future

    def _work(self, opened: _Result[None], ended: _Result[None]) -> None:
        try:
            db = self._open_connection()
        except BaseException as error:
            opened.fail(error)
            ended.set(None)
            return
        opened.set(None)
        try:
            while (task := self._tasks.get()) is not None:
                task.run(self._path, db)
                # Free the result now, and not when the next task arrives.
                del task
        finally:
            db.close()
            ended.set(None)


class _Result(Generic[T]):
    """A future of the running event loop; another thread sets its result."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self._loop.create_future()

    def set(self, result: T) -> None:
        self._post(lambda: self.future.set_result(result))

    def fail(self, error: BaseException) -> None:
        self._post(lambda: self.future.set_exception(error))

    def _post(self, settle: Callable[[], None]) -> None:
        def settle_if_awaited() -> None:
            if not self.future.done():
                settle()

        # If the loop is closed, nobody waits for the result.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(settle_if_awaited)


@dataclass(frozen=True, slots=True)
class _Task(Generic[T]):
    fn: Callable[[sqlite_utils.Database], T]
    result: _Result[T]
    begin: str | None

    def run(self, path: Path, db: sqlite_utils.Database) -> None:
        """Call the function in a transaction, and return its result or its error to the loop."""
        bare = self.begin is None
        try:
            with translated(path) if bare else transaction(path, db, self.begin or WRITING):
                result = self.fn(db)
        except StopIteration as error:
            # A future cannot hold a StopIteration.
            failure = RuntimeError("a function of the database raised StopIteration")
            failure.__cause__ = error
            self.result.fail(failure)
        except BaseException as error:
            self.result.fail(error)
        else:
            self.result.set(result)


@contextlib.contextmanager
def transaction(path: Path, db: sqlite_utils.Database, begin: str = WRITING) -> Iterator[None]:
    """Commit the statements inside, or roll them back after any exception.

    Raises:
        StorageError: SQLite failed; the original error is the cause.
    """
    with translated(path):
        db.execute(begin)
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            db.rollback()
            raise


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite into a StorageError about the database at `path`."""
    try:
        yield
    except sqlite3.Error as error:
        raise from_sqlite_error(path, error) from error
    except UnicodeDecodeError as error:
        # Python cannot decode a message of SQLite that quotes damaged text.
        raise DatabaseDamaged(path) from error
