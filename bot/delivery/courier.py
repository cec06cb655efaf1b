"""The courier on Discord: it brings pictures, progress and reports into a job's message.

Everything is an edit of an ordinary message with the bot's own token. Interaction tokens expire
after 15 minutes, and sometimes earlier.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import discord

from generation.values.events import Event
from storage.records import Job, StoredImage

from ..jobs.courier_protocol import MessageGone, Picture, Unanswered, Undeliverable
from ..memory import PictureMemory
from ..ui import attachments, messages
from ..ui.views import cancelled_view, finished_view, waiting_view
from .channels import channel_of, message_of, open_thread
from .codes import RefusalKind, parsed, refusal_of
from .files import UPLOAD_MARGIN, discord_files, fitting_files, upload_limit
from .finding import find_answer
from .presence import exists
from .progress import ProgressEditor
from .retry import ATTEMPTS, FEW_ATTEMPTS, InvalidRequests, Retry, Target

log = logging.getLogger(__name__)

T = TypeVar("T")
# Discord has lowered the limit without boosts more than once.
_SMALLER: Final = 8 * 2**20


class DiscordCourier:
    """Shows jobs in Discord; the `Courier` of the application service.

    `retry` retries requests of the courier, and of others. `on_message_gone` is called with a job
    whose message turns out to be deleted.
    """

    def __init__(
        self,
        client: discord.Client,
        memory: PictureMemory,
        *,
        on_message_gone: Callable[[Job], None],
        progress_seconds: float,
        previews: bool = True,
        invalid: InvalidRequests | None = None,
    ) -> None:
        self._client = client
        self._memory = memory
        invalid = invalid or InvalidRequests()
        self.retry = Retry(invalid)
        self._progress = ProgressEditor(
            client,
            invalid,
            on_message_gone=on_message_gone,
            seconds=progress_seconds,
            previews=previews,
        )

    async def close(self) -> None:
        """Stop showing progress."""
        await self._progress.close()

    def progress(self, job: Job, message_id: int, event: Event) -> None:
        """Show `event` when the channel's turn comes; a later event replaces it."""
        self._progress.show(job, message_id, event)

    async def find(self, job: Job) -> int | None:
        """Return the message in the job's channel that already answers the job."""
        return await self._retry(job, None, lambda: find_answer(self._client, job))

    async def post(self, job: Job) -> int:
        """Post a message for a job whose first answer never arrived; return its id.

        The first answer, or an earlier post, may have arrived although Discord seemed to refuse
        it. Then nothing is posted, and the id is that of the earlier message.
        """
        return await self._retry(job, None, lambda: self._find_or_post(job))

    async def _find_or_post(self, job: Job) -> int:
        if (found := await find_answer(self._client, job)) is not None:
            return found
        sending = channel_of(self._client, job).send(
            messages.waiting(job),
            view=waiting_view(job),
            nonce=messages.nonce(job),
            suppress_embeds=True,
        )
        return (await parsed(sending)).id

    async def deliver(
        self,
        job: Job,
        message_id: int,
        read: Callable[[], Awaitable[Sequence[Picture]]],
        parent: StoredImage | None,
    ) -> None:
        """Put the pictures into the message, unless `read` finds none any more.

        Each attempt reads the pictures again. Nothing of them stays in memory between two attempts,
        which may be hours while Discord is out of reach.

        Raises:
            MessageGone: the message was deleted.
            Undeliverable: Discord refuses the pictures for good.
        """
        await self._progress.end(job)
        limit = upload_limit(self._client, job)

        async def attempt() -> None:
            nonlocal limit
            async with self._memory.hold(attachments.bytes_to_show(job), job.user_id):
                if not (pictures := await read()):
                    return
                files = await fitting_files(job, pictures, limit)
                show = partial(self._show, job, message_id, pictures, parent)
                try:
                    await show(files)
                except discord.HTTPException as error:
                    if refusal_of(error).kind is not RefusalKind.SMALLER or limit <= _SMALLER:
                        raise
                    half = sum(len(file.data) for file in files) // 2
                    limit = min(half + UPLOAD_MARGIN, _SMALLER)
                    await show(await fitting_files(job, pictures, limit))

        await self._retry(job, message_id, attempt)

    async def _show(
        self,
        job: Job,
        message_id: int,
        pictures: Sequence[Picture],
        parent: StoredImage | None,
        files: Sequence[attachments.Attachment],
    ) -> None:
        with discord_files(files) as sent:
            editing = message_of(self._client, job, message_id).edit(
                content=messages.finished(job, pictures[0].image.recipe, parent),
                attachments=sent,
                view=finished_view(job, [picture.image.index + 1 for picture in pictures]),
            )
            await parsed(editing)

    async def report_wait(self, job: Job, message_id: int) -> None:
        """Say in the message that the pictures wait for room on the disk."""
        await self._progress.end(job)
        message = message_of(self._client, job, message_id)
        content = messages.postponed(job)

        async def attempt() -> None:
            await parsed(message.edit(content=content))

        await self._retry(job, message_id, attempt, max_unproven=FEW_ATTEMPTS)

    async def report_failure(self, job: Job, message_id: int, sentence: str) -> None:
        """Say in the message why there will be no pictures."""
        await self._report_end(job, message_id, messages.failed(job, sentence))

    async def report_cancellation(self, job: Job, message_id: int) -> None:
        """Say in the message that the job was cancelled."""
        await self._report_end(job, message_id, messages.cancelled(job))

    async def _report_end(self, job: Job, message_id: int, content: str) -> None:
        """Say in the message why there are no pictures, and remove the preview."""
        await self._progress.end(job)
        message = message_of(self._client, job, message_id)
        edit = partial(message.edit, view=cancelled_view(job))

        async def attempt() -> None:
            try:
                await parsed(edit(content=content, attachments=[]))
            except discord.HTTPException as error:
                kind = refusal_of(error).kind
                if kind is RefusalKind.FORBIDDEN:
                    # Perhaps files are forbidden: the text matters more than an old preview.
                    await parsed(edit(content=content))
                elif kind is RefusalKind.FILTERED:
                    # Perhaps the filter blocks the prompt.
                    await parsed(edit(content=messages.unquoted(job, content), attachments=[]))
                else:
                    raise

        await self._retry(job, message_id, attempt, max_unproven=FEW_ATTEMPTS)

    async def remove(self, job: Job, message_id: int) -> None:
        """Delete the message, unless it is gone already or that is impossible.

        Raises:
            Unanswered: nobody knows whether the message is deleted.
        """
        await self._progress.end(job)
        message = message_of(self._client, job, message_id)
        try:
            await self._retry(job, message_id, lambda: parsed(message.delete()))
        except Unanswered:
            raise
        except (MessageGone, Undeliverable) as error:
            log.info("The message of job %s could not be deleted: %s", job.id, error)

    async def _retry(
        self,
        job: Job,
        message_id: int | None,
        attempt: Callable[[], Awaitable[T]],
        *,
        max_unproven: int = ATTEMPTS,
    ) -> T:
        """Return what `attempt` returns, as `Retry.run` does.

        If the job's thread was archived meanwhile, it is opened once.
        """
        target = Target(
            partial(exists, self._client.http, job.channel_id, message_id),
            partial(open_thread, self._client, job),
        )
        return await self.retry.run(attempt, target, max_unproven=max_unproven)
