"""Progress in a job's message: its state, its preview, and what Discord refuses of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import discord

from generation.values.events import Event, Progress
from storage.records import Job

from ..ui import attachments, messages
from .channels import message_of
from .codes import FAULTS, RefusalKind, parsed, refusal_of
from .presence import exists
from .retry import InvalidRequests
from .throttle import ProgressThrottle

log = logging.getLogger(__name__)

# Discord blocks a bot that is refused too often, so these refusals of progress are taken as final.
_LASTING: Final = frozenset({RefusalKind.FORBIDDEN, RefusalKind.FILTERED, RefusalKind.REFUSED})
# These refusals may be about the files of an edit, and not about its text.
_ABOUT_FILES: Final = _LASTING | {RefusalKind.SMALLER}


class ProgressEditor:
    """Shows the progress of jobs in their messages, as often as Discord allows.

    An edit that fails is not retried: the next event says more. `on_message_gone` is called with a
    job whose message turns out to be deleted.
    """

    def __init__(
        self,
        client: discord.Client,
        invalid: InvalidRequests,
        *,
        on_message_gone: Callable[[Job], None],
        seconds: float,
        previews: bool,
    ) -> None:
        self._client = client
        self._invalid = invalid
        self._on_message_gone = on_message_gone
        self._throttle = ProgressThrottle(self.edit, seconds)
        self._previews = previews
        # By the ids of the jobs whose previews, or whose progress, Discord has refused.
        self._without_preview: set[int] = set()
        self._without_progress: set[int] = set()

    async def close(self) -> None:
        """Stop showing progress."""
        await self._throttle.close()

    def show(self, job: Job, message_id: int, event: Event) -> None:
        """Show `event` when the channel's turn comes; a later event replaces it."""
        self._throttle.show(job, message_id, event)

    async def end(self, job: Job) -> None:
        """Show no more progress of a job; wait for an edit that is under way."""
        await self._throttle.drop(job)
        self._without_preview.discard(job.id)
        self._without_progress.discard(job.id)

    async def edit(self, job: Job, message_id: int, event: Event) -> bool:
        """Show an event in the message now; return whether Discord took it."""
        if job.id in self._without_progress or self._invalid.is_spent:
            return False
        try:
            if not await self._edit_preview(job, message_id, event):
                await parsed(self._edit_state(job, message_id, event))
        except FAULTS as error:
            await self._on_refusal(job, message_id, error)
            return False
        return True

    async def _edit_state(self, job: Job, message_id: int, event: Event) -> None:
        message, content = message_of(self._client, job, message_id), messages.waiting(job, event)
        if isinstance(event, Progress) or event.after is None:
            await message.edit(content=content)
        else:
            # The job starts again, so its old preview is wrong.
            await message.edit(content=content, attachments=[])

    async def _edit_preview(self, job: Job, message_id: int, event: Event) -> bool:
        """Show progress with its preview; return False if there is none or Discord refuses it.

        A preview stays in the message until the next preview, or until the job starts again.
        """
        if not self._previews or not isinstance(event, Progress) or event.preview is None:
            return False
        if job.id in self._without_preview:
            return False
        file = await asyncio.to_thread(attachments.preview, job, event.percent, event.preview)
        try:
            editing = message_of(self._client, job, message_id).edit(
                content=messages.waiting(job, event), attachments=[file.file()]
            )
            await parsed(editing)
        except discord.HTTPException as error:
            if refusal_of(error).kind not in _ABOUT_FILES:
                raise
            log.info("Discord refuses the previews of job %s (%s)", job.id, error)
            self._without_preview.add(job.id)
            return False
        return True

    async def _on_refusal(self, job: Job, message_id: int, error: Exception) -> None:
        """Show no more progress if the refusal is final; else the next event is a new attempt."""
        kind = refusal_of(error).kind
        if kind is RefusalKind.GONE and await self._is_gone(job, message_id):
            log.info("Job %s: its message was deleted", job.id)
            self._on_message_gone(job)
        elif kind in _LASTING:
            log.info("Discord refuses the progress of job %s (%s)", job.id, error)
            self._without_progress.add(job.id)
        else:
            log.debug("No progress shown for job %s: %s", job.id, error)

    async def _is_gone(self, job: Job, message_id: int) -> bool:
        return await exists(self._client.http, job.channel_id, message_id) is False
