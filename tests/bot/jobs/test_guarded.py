"""What each method of the guarded store does with a storage error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from bot.jobs.disk import DiskGuard
from bot.jobs.guarded import GuardedStore
from storage.errors import DatabaseBusy, DatabaseUnusable, DiskFull, FolderUnusable, StorageError
from storage.folder.space import Space
from storage.jobs import JobStore
from storage.records import Removal, Remover

Call = Callable[[GuardedStore], Awaitable[Any]]

FULL, BUSY = DiskFull(Path("x")), DatabaseBusy(Path("x"))
FOLDER, BROKEN = FolderUnusable(Path("x"), "it is gone"), DatabaseUnusable(Path("x"), "is broken")
JOB: Any = mock.Mock(id=1)
BY = Removal(Remover.DISCORD)


async def on_wait() -> None:
    """Say nothing."""


# Each row: the method of the job store, and a call that uses it.
RETRIED: list[tuple[str, Call]] = [
    ("unfinished", lambda store: store.unfinished(())),
    ("unreported_cancellations", lambda store: store.unreported_cancellations()),
    ("deleted_with_message", lambda store: store.deleted_with_message()),
    ("parent", lambda store: store.parent(JOB)),
    ("delivered", lambda store: store.delivered(1, 2)),
    ("fail", lambda store: store.fail(1, "It broke.")),
    ("set_error", lambda store: store.set_error(1, "It broke.")),
    ("delete", lambda store: store.delete(1, BY)),
]
RETRIED_IN_FOLDER: list[tuple[str, Call]] = [
    ("complete", lambda store: store.complete(1, (), is_running=True, on_wait=on_wait)),
    ("images", lambda store: store.pictures(JOB, on_wait=on_wait)),
]
TRIED_ONCE: list[tuple[str, Call]] = [
    ("start", lambda store: store.start(1)),
    ("requeue", lambda store: store.requeue(1)),
    ("set_message", lambda store: store.set_message(1, 2)),
    ("message_removed", lambda store: store.message_removed(1)),
    ("cancellation_reported", lambda store: store.cancellation_reported(1)),
]


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.jobs.disk._DELAYS", (0.001,))


@pytest.fixture
def jobs() -> mock.Mock:
    return mock.create_autospec(JobStore, instance=True)


@pytest.fixture
def store(jobs: mock.Mock, tmp_path: Path) -> GuardedStore:
    return GuardedStore(jobs, DiskGuard(Space(tmp_path, 0)))


def fail_with(jobs: mock.Mock, name: str, *errors: StorageError) -> mock.AsyncMock:
    method: mock.AsyncMock = getattr(jobs, name)
    method.side_effect = [*errors, []]
    return method


@pytest.mark.parametrize(("name", "call"), RETRIED + RETRIED_IN_FOLDER)
async def test_a_full_disk_or_a_locked_database_is_waited_for(
    jobs: mock.Mock, store: GuardedStore, name: str, call: Call
) -> None:
    method = fail_with(jobs, name, FULL, BUSY)
    await call(store)
    assert method.await_count == 3


@pytest.mark.parametrize(("name", "call"), RETRIED_IN_FOLDER)
async def test_a_folder_that_cannot_be_used_is_waited_for_where_pictures_are(
    jobs: mock.Mock, store: GuardedStore, name: str, call: Call
) -> None:
    method = fail_with(jobs, name, FOLDER)
    await call(store)
    assert method.await_count == 2


@pytest.mark.parametrize(("name", "call"), TRIED_ONCE)
@pytest.mark.parametrize("error", [FULL, BUSY])
async def test_what_the_next_start_finds_out_is_tried_once_and_logged(
    jobs: mock.Mock,
    store: GuardedStore,
    caplog: pytest.LogCaptureFixture,
    name: str,
    call: Call,
    error: StorageError,
) -> None:
    method = fail_with(jobs, name, error)
    assert await call(store) is False
    assert method.await_count == 1
    assert str(error) in caplog.text
    assert await call(store) is True


@pytest.mark.parametrize(("name", "call"), RETRIED + RETRIED_IN_FOLDER + TRIED_ONCE)
async def test_a_broken_database_is_raised_at_once(
    jobs: mock.Mock, store: GuardedStore, name: str, call: Call
) -> None:
    method = fail_with(jobs, name, BROKEN)
    with pytest.raises(DatabaseUnusable):
        await call(store)
    assert method.await_count == 1


async def test_a_job_that_is_not_recorded_as_running_is_started_once(
    jobs: mock.Mock, store: GuardedStore
) -> None:
    jobs.complete.side_effect = [FULL, FULL, True]
    assert await store.complete(1, (), is_running=False, on_wait=on_wait)
    assert jobs.start.await_count == 1
    assert jobs.complete.await_count == 3


async def test_a_job_that_cannot_be_read_stays_as_it_is_known(
    jobs: mock.Mock, store: GuardedStore
) -> None:
    jobs.record.side_effect = [BROKEN, None, mock.sentinel.stored]
    assert await store.as_stored(JOB) is JOB
    assert await store.as_stored(JOB) is JOB
    assert await store.as_stored(JOB) is mock.sentinel.stored
