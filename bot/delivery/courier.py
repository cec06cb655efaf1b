"""The courier on Discord: progress at a rate that Discord allows, pictures that arrive.

Everything is an edit of an ordinary message through the bot's own token: interaction tokens
die after 15 minutes, and sooner when Discord feels like it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

import discord

from generation.values.events import Event, Progress
from storage.records import Job, StoredImage

from ..jobs.courier import MessageGone, Picture, Unanswered, Undeliverable
from ..memory import PictureMemory
from ..ui import attachments, messages
from ..ui.actions import remove_ids
from ..ui.views import cancelled_view, finished_view, waiting_view
from .codes import FAULTS, Course, refusal_of, understood
from .pacing import ProgressPacer
from .presence import exists
from .retry import ATTEMPTS, FEW_ATTEMPTS, InvalidRequests, Retry, Target

log = logging.getLogger(__name__)

T = TypeVar("T")
# Where no server has a larger one.
UPLOAD_LIMIT: Final = 10 * 2**20
# The parts of a request that are not files, and the boundaries between them.
_UPLOAD_MARGIN: Final = 64 * 2**10
_SEARCHED: Final = 200
_CLOCKS_DIFFER: Final = timedelta(minutes=1)
# Where boosts lend no larger limit, Discord has lowered it more than once.
_SMALLER: Final = 8 * 2**20
# What a progress edit need not be refused twice.
_LASTING: Final = frozenset({Course.FORBIDDEN, Course.FILTERED, Course.REFUSED})
# What may be about the files of an edit, and not about its text.
_ABOUT_FILES: Final = _LASTING | {Course.SMALLER}


class DiscordCourier:
    """Shows jobs in Discord; the `Courier` of the application service.

    `retry` repeats its requests, and others that take as long as they need. `on_message_gone` is
    called with a job whose message turns out to be deleted.
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
        self._on_message_gone = on_message_gone
        self._invalid = invalid or InvalidRequests()
        self.retry = Retry(self._invalid)
        self._pacer = ProgressPacer(self._edit_progress, progress_seconds)
        self._previews = previews
        # The jobs whose previews Discord did not take, and those whose progress it did not.
        self._refused: set[int] = set()
        self._silent: set[int] = set()

    async def close(self) -> None:
        """Stop showing progress."""
        await self._pacer.close()

    def progress(self, job: Job, message_id: int, event: Event) -> None:
        """Show `event` when the channel's turn comes; a later event replaces it."""
        self._pacer.show(job, message_id, event)

    async def find(self, job: Job) -> int | None:
        """Return the message in the job's channel that already answers it.

        A crash may fall between sending a message and recording its id. The message is known
        by its remove button, which holds the job's id, or by the interaction it answers.
        """
        return await self._retry(job, None, lambda: self._search(job))

    async def _search(self, job: Job) -> int | None:
        channel = self._channel(job)
        # Usually it comes right after what asked for it; one that was posted again is among the
        # latest. A reaction has no id, only our own time, which need not be Discord's.
        asked_at = job.created_at - _CLOCKS_DIFFER
        after = discord.Object(_interaction_of(job) or discord.utils.time_snowflake(asked_at))
        places = (
            channel.history(limit=_SEARCHED, after=after, oldest_first=True),
            channel.history(limit=_SEARCHED),
        )
        try:
            for place in places:
                if (found := await understood(self._answer_in(place, job))) is not None:
                    return found
        except discord.HTTPException as error:
            if refusal_of(error).course is not Course.FORBIDDEN:
                raise
            # Without the permission to read the history there is nothing to find.
        return None

    async def _answer_in(self, place: AsyncIterator[discord.Message], job: Job) -> int | None:
        async for message in place:
            if message.author == self._client.user and _answers(message, job):
                return message.id
        return None

    async def post(self, job: Job) -> int:
        """Post a message for a job whose first answer never arrived; return its id.

        That answer, or one that was posted here before, may have arrived although it seemed
        not to: then nothing is posted, and the id is the one of that message.
        """
        return await self._retry(job, None, lambda: self._find_or_post(job))

    async def _find_or_post(self, job: Job) -> int:
        if (found := await self._search(job)) is not None:
            return found
        sending = self._channel(job).send(
            messages.waiting(job),
            view=waiting_view(job),
            nonce=messages.nonce(job),
            suppress_embeds=True,
        )
        return (await understood(sending)).id

    async def deliver(
        self,
        job: Job,
        message_id: int,
        read: Callable[[], Awaitable[Sequence[Picture]]],
        parent: StoredImage | None,
    ) -> None:
        """Put the pictures into the message, unless `read` finds none any more.

        They are read again for each attempt: between two, which may be hours while Discord is out
        of reach, nothing of them is in memory.

        Raises:
            MessageGone: the message was deleted.
            Undeliverable: Discord will not take it, now or later.
        """
        await self._end_progress(job)
        limit = self._limit(job)

        async def attempt() -> None:
            nonlocal limit
            async with self._memory.hold(attachments.bytes_to_show(job), job.user_id):
                if not (pictures := await read()):
                    return
                files = await self._files(job, pictures, limit)
                show = partial(self._show, job, message_id, pictures, parent)
                try:
                    await show(files)
                except discord.HTTPException as error:
                    if refusal_of(error).course is not Course.SMALLER or limit <= _SMALLER:
                        raise
                    half = sum(len(file.data) for file in files) // 2
                    limit = min(half + _UPLOAD_MARGIN, _SMALLER)
                    await show(await self._files(job, pictures, limit))

        await self._retry(job, message_id, attempt)

    async def _show(
        self,
        job: Job,
        message_id: int,
        pictures: Sequence[Picture],
        parent: StoredImage | None,
        files: Sequence[attachments.Attachment],
    ) -> None:
        with lent(files) as sent:
            editing = self._message(job, message_id).edit(
                content=messages.finished(job, pictures[0].image.recipe, parent),
                attachments=sent,
                view=finished_view(job, [picture.image.index + 1 for picture in pictures]),
            )
            await understood(editing)

    async def files(self, job: Job, pictures: Sequence[Picture]) -> list[attachments.Attachment]:
        """Return the files by which these pictures are shown in the job's channel."""
        return await self._files(job, pictures, self._limit(job))

    async def _files(
        self, job: Job, pictures: Sequence[Picture], limit: int
    ) -> list[attachments.Attachment]:
        # Enlarging and compressing takes a good part of a second: not on the event loop.
        return await asyncio.to_thread(attachments_of, job, pictures, limit=limit)

    def _limit(self, job: Job) -> int:
        guild = self._client.get_guild(job.guild_id) if job.guild_id is not None else None
        return guild.filesize_limit if guild is not None else UPLOAD_LIMIT

    async def report_wait(self, job: Job, message_id: int) -> None:
        """Say in the message that the pictures wait for room on the disk."""
        await self._end_progress(job)
        message, content = self._message(job, message_id), messages.postponed(job)
        await self._retry(
            job,
            message_id,
            lambda: understood(message.edit(content=content)),
            max_unproven=FEW_ATTEMPTS,
        )

    async def report_failure(self, job: Job, message_id: int, sentence: str) -> None:
        """Say in the message why there will be no pictures."""
        await self._end(job, message_id, messages.failed(job, sentence))

    async def report_cancellation(self, job: Job, message_id: int) -> None:
        """Say in the message that the job was cancelled."""
        await self._end(job, message_id, messages.cancelled(job))

    async def _end(self, job: Job, message_id: int, content: str) -> None:
        """Say in the message why there are no pictures, and take away a preview."""
        await self._end_progress(job)
        edit = partial(self._message(job, message_id).edit, view=cancelled_view(job))

        async def say() -> None:
            try:
                await understood(edit(content=content, attachments=[]))
            except discord.HTTPException as error:
                course = refusal_of(error).course
                if course is Course.FORBIDDEN:
                    # Perhaps it is about files: better a preview left standing than nothing said.
                    await understood(edit(content=content))
                elif course is Course.FILTERED:
                    # Perhaps it is about the prompt.
                    await understood(edit(content=messages.unquoted(job, content), attachments=[]))
                else:
                    raise

        await self._retry(job, message_id, say, max_unproven=FEW_ATTEMPTS)

    async def remove(self, job: Job, message_id: int) -> None:
        """Delete the message; one that is gone already is as good.

        Raises:
            Unanswered: nobody knows whether it is deleted.
        """
        await self._end_progress(job)
        message = self._message(job, message_id)
        try:
            await self._retry(job, message_id, lambda: understood(message.delete()))
        except Unanswered:
            raise
        except (MessageGone, Undeliverable) as error:
            log.info("The message of job %s could not be deleted: %s", job.id, error)

    async def _end_progress(self, job: Job) -> None:
        await self._pacer.drop(job)
        self._refused.discard(job.id)
        self._silent.discard(job.id)

    async def _edit_progress(self, job: Job, message_id: int, event: Event) -> bool:
        if job.id in self._silent or self._invalid.is_spent:
            return False
        try:
            if not await self._edit_preview(job, message_id, event):
                await understood(self._edit_state(job, message_id, event))
        except FAULTS as error:
            await self._progress_refused(job, message_id, error)
            return False
        return True

    async def _edit_state(self, job: Job, message_id: int, event: Event) -> None:
        message, content = self._message(job, message_id), messages.waiting(job, event)
        if isinstance(event, Progress) or event.after is None:
            await message.edit(content=content)
        else:
            # It starts again, and a preview would look as if it did not.
            await message.edit(content=content, attachments=[])

    async def _progress_refused(self, job: Job, message_id: int, error: Exception) -> None:
        """Give up what is certain; else the next event says it all again."""
        course = refusal_of(error).course
        is_there = partial(exists, self._client.http, job.channel_id, message_id)
        if course is Course.GONE and await is_there() is False:
            log.info("Job %s: its message was deleted", job.id)
            self._on_message_gone(job)
        elif course in _LASTING:
            # Not tried again: Discord shuts out who is refused too often.
            log.info("Discord refuses the progress of job %s (%s)", job.id, error)
            self._silent.add(job.id)
        else:
            log.debug("No progress shown for job %s: %s", job.id, error)

    async def _edit_preview(self, job: Job, message_id: int, event: Event) -> bool:
        """Show progress with its preview; return False if there is none or Discord refuses it.

        One that is there stays until another comes, or the job has to start again.
        """
        if not self._previews or not isinstance(event, Progress) or event.preview is None:
            return False
        if job.id in self._refused:
            return False
        file = await asyncio.to_thread(attachments.preview, job, event.percent, event.preview)
        try:
            editing = self._message(job, message_id).edit(
                content=messages.waiting(job, event), attachments=[file.file()]
            )
            await understood(editing)
        except discord.HTTPException as error:
            if refusal_of(error).course not in _ABOUT_FILES:
                raise
            # Not tried again: Discord shuts out who is refused too often.
            log.info("Discord refuses the previews of job %s (%s)", job.id, error)
            self._refused.add(job.id)
            return False
        return True

    def _channel(self, job: Job) -> discord.PartialMessageable:
        return self._client.get_partial_messageable(job.channel_id, guild_id=job.guild_id)

    def _message(self, job: Job, message_id: int) -> discord.PartialMessage:
        return self._channel(job).get_partial_message(message_id)

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
        is_there = partial(exists, self._client.http, job.channel_id, message_id)
        target = Target(is_there, partial(self._open_thread, job))
        return await self.retry.run(attempt, target, max_unproven=max_unproven)

    async def _open_thread(self, job: Job) -> None:
        thread = await understood(self._client.fetch_channel(job.channel_id))
        if isinstance(thread, discord.Thread):
            await understood(thread.edit(archived=False))


def attachments_of(
    job: Job, pictures: Sequence[Picture], *, limit: int = UPLOAD_LIMIT
) -> list[attachments.Attachment]:
    """Return the files by which stored pictures are shown where at most `limit` bytes are taken."""
    shown = [(picture.image.recipe, picture.png) for picture in pictures]
    return attachments.attachments(job, shown, limit=limit - _UPLOAD_MARGIN)


@contextlib.contextmanager
def lent(files: Iterable[attachments.Attachment]) -> Iterator[list[discord.File]]:
    """Lend files to one request, and free their bytes after it.

    discord.py leaves each in a reference cycle, which can stay for long.
    """
    sent = [file.file() for file in files]
    try:
        yield sent
    finally:
        for file in sent:
            file.fp.close()


def _interaction_of(job: Job) -> int | None:
    kind, _, number = (job.origin or "").partition(":")
    return int(number) if kind == "interaction" else None


def _asked_at(job: Job) -> int:
    """Return an id that is older than any answer: of the interaction, or what was reacted to."""
    _, _, rest = (job.origin or "").partition(":")
    number = rest.partition(":")[0]
    return int(number) if number.isdecimal() else 0


def _answers(message: discord.Message, job: Job) -> bool:
    # An older one belongs to another job: the ids of the first version's buttons start again with a
    # new database. One that still says
    # that the bot is thinking can be edited by the token of its interaction only, which is gone.
    if message.id <= _asked_at(job) or message.flags.loading:
        return False
    wanted = remove_ids(job)
    if any(getattr(item, "custom_id", None) in wanted for item in _components(message)):
        return True
    metadata = message.interaction_metadata
    return metadata is not None and metadata.id == _interaction_of(job)


def _components(message: discord.Message) -> Iterable[object]:
    for row in message.components:
        yield from getattr(row, "children", ())
