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
from typing import TYPE_CHECKING, Final, TypeVar

import aiohttp
import discord

from generation.request import Event, Progress
from storage.records import Job, StoredImage

from . import replies
from .buttons import REMOVE_ID, cancelled_view, finished_view, waiting_view
from .pacing import ProgressPacer
from .service import MessageGone, Picture, Undeliverable

if TYPE_CHECKING:
    from .client import ImagineBot

log = logging.getLogger(__name__)

T = TypeVar("T")
# Where no server has a larger one.
UPLOAD_LIMIT: Final = 10 * 2**20
# The parts of a request that are not files, and the boundaries between them.
_UPLOAD_MARGIN: Final = 64 * 2**10
# So many messages may hold their pictures in memory at once: those of the largest size have tens of
# megabytes, and after a time without Discord there may be hundreds of messages.
_UPLOADS: Final = 16
_SEARCHED: Final = 200
_CLOCKS_DIFFER: Final = timedelta(minutes=1)
_RETRY_SECONDS: Final = (1, 2, 5, 10, 20, 40, 60)
# A rate limit that discord.py gave up on, a token that was reset (the job then waits for a start
# with the new one), and faults on Discord's side.
_PASSING: Final = frozenset({401, 429, *range(500, 600)})
# Discord's code for a message in a thread that was archived: it can be sent to, which opens it
# again, but nothing in it can be edited or deleted.
_ARCHIVED: Final = 50083
_NETWORK_ERRORS: Final = (aiohttp.ClientError, OSError, TimeoutError)


class DiscordCourier:
    """Shows jobs in Discord; the `Courier` of the application service."""

    def __init__(self, bot: ImagineBot, *, progress_seconds: float, previews: bool = True) -> None:
        self._bot = bot
        self._pacer = ProgressPacer(self._edit_progress, progress_seconds)
        self._previews = previews
        self._uploads = asyncio.Semaphore(_UPLOADS)
        # The jobs whose previews Discord did not take.
        self._refused: set[int] = set()

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
        return await self._insist(job, lambda: self._search(job))

    async def _search(self, job: Job) -> int | None:
        channel = self._channel(job)
        # Usually it comes right after what asked for it; one that was posted anew is among the
        # latest. A reaction has no id, only our own time, which need not be Discord's.
        asked_at = job.created_at - _CLOCKS_DIFFER
        after = discord.Object(_interaction_of(job) or discord.utils.time_snowflake(asked_at))
        places = (
            channel.history(limit=_SEARCHED, after=after, oldest_first=True),
            channel.history(limit=_SEARCHED),
        )
        try:
            for place in places:
                async for message in place:
                    if message.author == self._bot.user and _answers(message, job):
                        return message.id
        except discord.Forbidden:
            # Without the permission to read the history there is nothing to find.
            return None
        return None

    async def post(self, job: Job) -> int:
        """Post a message for a job whose first answer never arrived; return its id.

        That answer, or one that was posted here before, may have arrived although it seemed
        not to: then nothing is posted, and the id is the one of that message.
        """
        return await self._insist(job, lambda: self._find_or_post(job))

    async def _find_or_post(self, job: Job) -> int:
        if (found := await self._search(job)) is not None:
            return found
        message = await self._channel(job).send(
            replies.waiting(job),
            view=waiting_view(job),
            nonce=replies.nonce(job),
            suppress_embeds=True,
        )
        return message.id

    async def deliver(
        self,
        job: Job,
        message_id: int,
        read: Callable[[], Awaitable[Sequence[Picture]]],
        parent: StoredImage | None,
    ) -> None:
        """Put the pictures into the message, unless `read` finds none any more.

        They are read anew for each attempt: between two, which may be hours while Discord is out
        of reach, nothing of them is in memory.

        Raises:
            MessageGone: the message was deleted.
            Undeliverable: Discord will not take it, now or later.
        """
        await self._end_progress(job)

        async def attempt() -> None:
            async with self._uploads:
                if pictures := await read():
                    await self._show(job, message_id, pictures, parent)

        await self._insist(job, attempt)

    async def _show(
        self, job: Job, message_id: int, pictures: Sequence[Picture], parent: StoredImage | None
    ) -> None:
        with _lent(await self.files(job, pictures)) as files:
            await self._message(job, message_id).edit(
                content=replies.finished(job, pictures[0].image.recipe, parent),
                attachments=files,
                view=finished_view(job, [picture.image.index + 1 for picture in pictures]),
            )

    async def files(self, job: Job, pictures: Sequence[Picture]) -> list[replies.Attachment]:
        """Return the files by which these pictures are shown in the job's channel."""
        # Enlarging and compressing takes a good part of a second: not on the event loop.
        return await asyncio.to_thread(self._files, job, pictures)

    def _files(self, job: Job, pictures: Sequence[Picture]) -> list[replies.Attachment]:
        guild = self._bot.get_guild(job.guild_id) if job.guild_id is not None else None
        limit = guild.filesize_limit if guild is not None else UPLOAD_LIMIT
        return attachments_of(job, pictures, limit=limit)

    async def postpone(self, job: Job, message_id: int) -> None:
        """Say in the message that the pictures wait for room on the disk."""
        await self._end_progress(job)
        content = replies.postponed(job)
        await self._insist(job, lambda: self._message(job, message_id).edit(content=content))

    async def apologise(self, job: Job, message_id: int, sentence: str) -> None:
        """Say in the message why there will be no pictures."""
        await self._end(job, message_id, replies.failed(job, sentence))

    async def withdraw(self, job: Job, message_id: int) -> None:
        """Say in the message that the job was cancelled."""
        await self._end(job, message_id, replies.cancelled(job))

    async def _end(self, job: Job, message_id: int, content: str) -> None:
        """Say in the message why there are no pictures, and take away a preview."""
        await self._end_progress(job)
        message, view = self._message(job, message_id), cancelled_view(job)

        async def edit() -> None:
            try:
                await message.edit(content=content, attachments=[], view=view)
            except discord.Forbidden:
                # Perhaps it is about files: better a preview left standing than nothing said.
                await message.edit(content=content, view=view)

        await self._insist(job, edit)

    async def remove(self, job: Job, message_id: int) -> None:
        """Delete the message; one that is gone already is as good."""
        await self._end_progress(job)
        try:
            await self._insist(job, lambda: self._message(job, message_id).delete())
        except (MessageGone, Undeliverable) as error:
            log.info("The message of job %s could not be deleted: %s", job.id, error)

    async def _end_progress(self, job: Job) -> None:
        await self._pacer.drop(job)
        self._refused.discard(job.id)

    async def _edit_progress(self, job: Job, message_id: int, event: Event) -> bool:
        try:
            if not await self._edit_preview(job, message_id, event):
                await self._message(job, message_id).edit(content=replies.waiting(job, event))
        except discord.NotFound:
            log.info("Job %s: its message was deleted", job.id)
            self._bot.service.message_gone(job)
            return False
        except (discord.HTTPException, *_NETWORK_ERRORS) as error:
            # The next event says it all again; only the pictures themselves are insisted on.
            log.debug("No progress shown for job %s: %s", job.id, error)
            return False
        return True

    async def _edit_preview(self, job: Job, message_id: int, event: Event) -> bool:
        """Show progress with its preview; return False if there is none or Discord refuses it.

        One that is there stays until another comes: whatever happens to the job, it shows what
        the picture will be.
        """
        if not self._previews or not isinstance(event, Progress) or event.preview is None:
            return False
        if job.id in self._refused:
            return False
        file = await asyncio.to_thread(replies.preview, job, event.percent, event.preview)
        try:
            await self._message(job, message_id).edit(
                content=replies.waiting(job, event), attachments=[file.file()]
            )
        except discord.HTTPException as error:
            if isinstance(error, discord.NotFound) or error.status in _PASSING:
                raise
            # Not tried again: Discord shuts out who is refused too often.
            log.info("Discord refuses the previews of job %s (%s)", job.id, error)
            self._refused.add(job.id)
            return False
        return True

    def _channel(self, job: Job) -> discord.PartialMessageable:
        return self._bot.get_partial_messageable(job.channel_id, guild_id=job.guild_id)

    def _message(self, job: Job, message_id: int) -> discord.PartialMessage:
        return self._channel(job).get_partial_message(message_id)

    async def _insist(
        self, job: Job, attempt: Callable[[], Awaitable[T]], *, may_open: bool = True
    ) -> T:
        """Return what `attempt` returns, trying again for as long as the fault may pass.

        discord.py itself waits out rate limits and repeats a 5xx a few times; this goes on
        where it gives up. If the job's thread was archived meanwhile, it is opened once.
        """
        async for pause in _pauses():
            try:
                return await attempt()
            except discord.NotFound as error:
                raise MessageGone(str(error)) from error
            except discord.HTTPException as error:
                if error.code == _ARCHIVED and may_open:
                    may_open = False
                    await self._insist(job, lambda: self._open_thread(job), may_open=False)
                    continue
                if error.status not in _PASSING:
                    raise Undeliverable(_refusal(error)) from error
                log.warning("Discord answered %s; trying again in %s s", error.status, pause)
            except _NETWORK_ERRORS as error:
                log.warning("Discord cannot be reached (%s); trying again in %s s", error, pause)
            await asyncio.sleep(pause)
        raise AssertionError("the pauses never end")

    async def _open_thread(self, job: Job) -> None:
        thread = await self._bot.fetch_channel(job.channel_id)
        if isinstance(thread, discord.Thread):
            await thread.edit(archived=False)


def attachments_of(
    job: Job, pictures: Sequence[Picture], *, limit: int = UPLOAD_LIMIT
) -> list[replies.Attachment]:
    """Return the files by which stored pictures are shown where at most `limit` bytes are taken."""
    shown = [(picture.image.recipe, picture.png) for picture in pictures]
    return replies.attachments(job, shown, limit=limit - _UPLOAD_MARGIN)


@contextlib.contextmanager
def _lent(files: Iterable[replies.Attachment]) -> Iterator[list[discord.File]]:
    """Lend files to one request, and free their bytes after it.

    discord.py leaves each in a reference cycle, which can stay for long.
    """
    lent = [file.file() for file in files]
    try:
        yield lent
    finally:
        for file in lent:
            file.fp.close()


async def _pauses() -> AsyncIterator[int]:
    for pause in _RETRY_SECONDS:
        yield pause
    while True:
        yield _RETRY_SECONDS[-1]


def _refusal(error: discord.HTTPException) -> str:
    if isinstance(error, discord.Forbidden):
        return (
            f"Discord does not let me show the pictures here ({error}); ask an admin to give me "
            "View Channel and Attach Files in this channel."
        )
    if error.code == _ARCHIVED:
        return "This thread is closed; ask a moderator to open it, then try again."
    return f"Discord refused the pictures ({error}); ask the operator to look at the log."


def _interaction_of(job: Job) -> int | None:
    kind, _, number = (job.origin or "").partition(":")
    return int(number) if kind == "interaction" else None


def _asked_at(job: Job) -> int:
    """Return an id that is older than any answer: of the interaction, or what was reacted to."""
    _, _, rest = (job.origin or "").partition(":")
    number = rest.partition(":")[0]
    return int(number) if number.isdecimal() else 0


def _answers(message: discord.Message, job: Job) -> bool:
    # An older one belongs to a job of the same number in another database. One that still says
    # that the bot is thinking can be edited by the token of its interaction only, which is gone.
    if message.id <= _asked_at(job) or message.flags.loading:
        return False
    wanted = REMOVE_ID.format(job=job.id)
    if any(getattr(item, "custom_id", None) == wanted for item in _components(message)):
        return True
    metadata = message.interaction_metadata
    return metadata is not None and metadata.id == _interaction_of(job)


def _components(message: discord.Message) -> Iterable[object]:
    for row in message.components:
        yield from getattr(row, "children", ())
