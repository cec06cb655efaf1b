"""The protocol by which jobs reach the people who asked, and the errors of a delivery."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from generation.values.events import Event
from storage.records import Job, StoredImage


class MessageGone(Exception):
    """The message for the pictures, or its channel, was certainly deleted."""


class Undeliverable(Exception):
    """The pictures cannot be shown where they were asked for; the text says why."""


class Unanswered(Undeliverable):
    """For a long time no answer made sense: the request was carried out, or was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A stored image with its PNG file, ready to be shown."""

    image: StoredImage
    png: bytes


class Courier(Protocol):
    """Shows jobs to the people who asked for them; `bot.delivery.courier` does so on Discord."""

    def progress(self, job: Job, message_id: int, event: Event) -> None:
        """Show an event when the channel has time for it; a later event replaces it."""

    async def find(self, job: Job) -> int | None:
        """Return the message that already answers this job, if there is one."""

    async def post(self, job: Job) -> int:
        """Return the message that answers this job; post a message only if there is none."""

    async def deliver(
        self,
        job: Job,
        message_id: int,
        read: Callable[[], Awaitable[Sequence[Picture]]],
        parent: StoredImage | None,
    ) -> None:
        """Put the pictures into the message; a second delivery changes nothing.

        `read` returns the pictures, or none if they were removed. They are read again for each
        attempt, and are not kept in memory between two attempts. `parent` is the image that the
        pictures were varied from.
        """

    async def report_wait(self, job: Job, message_id: int) -> None:
        """Say in the message that the pictures wait for room on the disk."""

    async def report_failure(self, job: Job, message_id: int, sentence: str) -> None:
        """Say in the message why there will be no pictures."""

    async def report_cancellation(self, job: Job, message_id: int) -> None:
        """Say in the message that the job was cancelled."""

    async def remove(self, job: Job, message_id: int) -> None:
        """Delete the message, unless that is impossible.

        Raises:
            Unanswered: nobody knows whether the message is deleted.
        """
