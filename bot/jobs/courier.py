"""What takes news and pictures to the people who asked, and how that can fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from generation.values.events import Event
from storage.records import Job, StoredImage


class MessageGone(Exception):
    """The message that was to hold the pictures was certainly deleted, or its channel was."""


class Undeliverable(Exception):
    """The pictures cannot be shown where they were asked for; the text says why."""


class Unanswered(Undeliverable):
    """For a long time no answer made sense: what was asked for may be done, or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A stored image with its PNG file, ready to be shown."""

    image: StoredImage
    png: bytes


class Courier(Protocol):
    """Takes what happens to jobs to the people who asked; see `bot.delivery.courier`."""

    def progress(self, job: Job, message_id: int, event: Event) -> None:
        """Show an event when there is time for it; a later one replaces it."""

    async def find(self, job: Job) -> int | None:
        """Return the message that already answers this job, if there is one."""

    async def post(self, job: Job) -> int:
        """Post a new message for this job unless there is one after all, and return its id."""

    async def deliver(
        self,
        job: Job,
        message_id: int,
        read: Callable[[], Awaitable[Sequence[Picture]]],
        parent: StoredImage | None,
    ) -> None:
        """Put the pictures into the message; doing it again changes nothing.

        `read` returns them, none if they were removed; they are not kept while it has to wait.
        `parent` is the image that they were varied from.
        """

    async def postpone(self, job: Job, message_id: int) -> None:
        """Say in the message that the pictures wait for room on the disk."""

    async def apologise(self, job: Job, message_id: int, sentence: str) -> None:
        """Say in the message why there will be no pictures."""

    async def withdraw(self, job: Job, message_id: int) -> None:
        """Say in the message that the job was cancelled."""

    async def remove(self, job: Job, message_id: int) -> None:
        """Delete the message, unless that is impossible.

        Raises:
            Unanswered: nobody knows whether it is deleted.
        """
