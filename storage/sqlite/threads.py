"""A SQLite connection in a thread of its own; futures carry the answers back to the event loop."""

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

# SQLite does not wait for a lock that a reader asks for in the middle of its transaction, so a
# transaction that will write takes the lock at once.
WRITING: Final = "BEGIN IMMEDIATE"
READING: Final = "BEGIN DEFERRED"


class ConnectionThread:
    """One connection to the database at `path`, and the thread that alone uses it.

    `begin` is the statement that begins each transaction: WRITING or READING.
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
        # Nothing may be put behind the None that ends the thread: it would wait for ever.
        self._gate = threading.Lock()
        self._open = False

    async def start(self) -> None:
        """Open the connection; what opening it raises is raised here, and the thread is gone."""
        opened = _Answer[None]()
        self._ended = _Answer[None]()
        # A daemon, because an event loop that dies on the way must not keep the process alive.
        self._thread = threading.Thread(
            target=self._work, args=(opened, self._ended), name=self._name, daemon=True
        )
        self._thread.start()
        self._open = True
        try:
            await opened.future
        except BaseException:
            # Even if the caller is cancelled: its folder is free only when the thread is through.
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection, once what was asked before is carried out."""
        with self._gate:
            self._open = False
            self._tasks.put(None)
        await self._ended.future
        # It has nothing left to do but to end.
        self._thread.join()

    async def run(self, fn: Callable[[sqlite_utils.Database], T], *, bare: bool = False) -> T:
        """Return what `fn` returns in a transaction of its own: see `Database.run`.

        With `bare` there is no transaction.
        """
        with self._gate:
            if not self._open:
                raise StorageError(
                    f"The database {self._path} is closed; start the bot again to use it."
                )
            task = _Task(fn, _Answer[T](), None if bare else self._begin)
            self._tasks.put(task)
        return await task.answer.future

    def _work(self, opened: _Answer[None], ended: _Answer[None]) -> None:
        try:
            db = self._open_connection()
        except BaseException as error:
            opened.fail(error)
            ended.give(None)
            return
        opened.give(None)
        try:
            while (task := self._tasks.get()) is not None:
                task.carry_out(self._path, db)
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
    begin: str | None

    def carry_out(self, path: Path, db: sqlite_utils.Database) -> None:
        """Call the function in a transaction and send its result or its error back."""
        bare = self.begin is None
        try:
            with translated(path) if bare else transaction(path, db, self.begin or WRITING):
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
def transaction(path: Path, db: sqlite_utils.Database, begin: str = WRITING) -> Iterator[None]:
    """Commit what happens inside, or roll it back on any exception.

    Raises:
        StorageError: SQLite refused; the original error is its cause.
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
    """Turn what SQLite raises inside into a StorageError about the database at `path`."""
    try:
        yield
    except sqlite3.Error as error:
        raise from_sqlite_error(path, error) from error
    except UnicodeDecodeError as error:
        # The module fails at a message of SQLite that quotes damaged text.
        raise DatabaseDamaged(path) from error
