"""From an interaction or a reaction to an accepted job, acknowledged in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, TypeVar

import discord

from generation.values.events import Event
from storage.records import Job, NewJob

from ..config import Settings
from ..delivery.codes import FAULTS, understood
from ..jobs.service import ImagineService, Placed
from ..permissions.channels import check_can_answer, check_can_reply
from ..permissions.members import weight
from ..ui import messages
from ..ui.views import waiting_view
from .requester import Requester, requester_of

log = logging.getLogger(__name__)

T = TypeVar("T")
# Discord gives three seconds, of which the network may take one.
_PATIENCE_SECONDS: Final = 1.5


async def within_deadline(
    interaction: discord.Interaction[Any],
    work: Coroutine[Any, Any, T],
    *,
    ephemeral: bool = False,
) -> T:
    """Return what `work` returns; if that takes long, tell Discord in time to wait for it.

    That Discord cannot be told does not stop the work: a job may be accepted already.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=_PATIENCE_SECONDS)
    if not done and not interaction.response.is_done():
        try:
            await understood(interaction.response.defer(thinking=True, ephemeral=ephemeral))
        except FAULTS as error:
            log.warning("An interaction could not be put off: %s", error)
    return await task


class Intake:
    """Takes orders: commits the job, then answers with its message.

    Once a job is committed nothing that happens to the answer can lose it: one without a
    message is given a new message when its pictures are ready.
    """

    def __init__(self, service: ImagineService, settings: Settings) -> None:
        self._service = service
        self._settings = settings

    async def accept(
        self, interaction: discord.Interaction[Any], ordering: Coroutine[Any, Any, NewJob]
    ) -> None:
        """Accept the order that `ordering` returns, for a command, a button or a modal.

        The person's place is held before anything is done for the order, and until it is committed.
        Making the order and committing it have one deadline together: Discord's for an answer.

        Raises:
            PermissionMissing: the bot could not deliver the pictures here.
            QueueFull: too many jobs are waiting; nothing of `ordering` has run.
            StorageError: the job could not be written.
        """
        requester = requester_of(interaction)
        submitting = self._submit(ordering, requester, lambda: check_can_answer(interaction))
        job = await within_deadline(interaction, submitting)
        said = self._service.latest(job)
        await self._announce(job, _answer(interaction, job, said), said)

    async def accept_reaction(
        self,
        requester: Requester,
        ordering: Coroutine[Any, Any, NewJob],
        picture: discord.PartialMessage,
    ) -> None:
        """Accept the order that `ordering` returns; its message answers the one of the picture.

        Raises:
            PermissionMissing: the bot could not answer here.
            QueueFull: too many jobs are waiting; nothing of `ordering` has run.
            StorageError: the job could not be written.
        """
        job = await self._submit(
            ordering, requester, lambda: check_can_reply(picture.guild, requester.channel_id)
        )
        said = self._service.latest(job)
        await self._announce(job, _reply(picture, job, said), said)

    async def _submit(
        self, ordering: Coroutine[Any, Any, NewJob], requester: Requester, check: Callable[[], None]
    ) -> Job:
        """Commit an order with the person's place held from the start; `check` says if it may."""
        person = requester.person
        # Closed, since Python reports a coroutine that was never run.
        with (
            contextlib.closing(ordering),
            self._service.place(person.id, requester.guild_id) as place,
        ):
            check()
            new = self._weighted(await ordering, person)
            return await self._service.submit(Placed(new, place))

    def _weighted(self, new: NewJob, person: discord.User | discord.Member) -> NewJob:
        """Return the order with the weight that the person's roles have now."""
        return replace(new, weight=weight(self._settings, person))

    async def _announce(
        self, job: Job, answer: Coroutine[Any, Any, int | None], says: Event | None
    ) -> None:
        message_id = None
        try:
            message_id = await understood(answer)
        except FAULTS as error:
            # It is accepted; `Courier.post` looks for the message, and posts one if there is none.
            log.warning("Job %s: its message could not be sent (%s)", job.id, error)
        finally:
            await self._service.announced(job, message_id, says=says)


async def _answer(
    interaction: discord.Interaction[Any], job: Job, event: Event | None
) -> int | None:
    content, view = messages.waiting(job, event), waiting_view(job)
    if interaction.response.is_done():
        message = await interaction.edit_original_response(content=content, view=view)
        return message.id
    response = await interaction.response.send_message(content, view=view, suppress_embeds=True)
    return response.message_id


async def _reply(picture: discord.PartialMessage, job: Job, event: Event | None) -> int:
    message = await picture.channel.send(
        messages.waiting(job, event),
        view=waiting_view(job),
        nonce=messages.nonce(job),
        reference=picture.to_reference(fail_if_not_exists=False),
        mention_author=False,
        suppress_embeds=True,
    )
    return message.id
