"""From an interaction or a reaction to a stored job, answered before Discord's deadline."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

import discord

from generation.values.events import Event
from storage.records import Job, NewJob

from ..delivery.codes import FAULTS, parsed
from ..jobs.service import ImagineService
from ..permissions.channels import check_can_answer, check_can_reply
from ..permissions.members import weight
from ..ui import messages
from ..ui.views import waiting_view
from .requester import Requester, requester_of

log = logging.getLogger(__name__)

T = TypeVar("T")
# Discord's deadline is three seconds, of which the network may take one.
_DEFER_AFTER_SECONDS: Final = 1.5


async def within_deadline(
    interaction: discord.Interaction[Any],
    work: Coroutine[Any, Any, T],
    *,
    ephemeral: bool = False,
) -> T:
    """Return what `work` returns, and defer the interaction if the work takes long.

    The work goes on if the interaction cannot be deferred, since a job may be stored already.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=_DEFER_AFTER_SECONDS)
    if not done and not interaction.response.is_done():
        try:
            await parsed(interaction.response.defer(thinking=True, ephemeral=ephemeral))
        except FAULTS as error:
            log.warning("An interaction could not be deferred: %s", error)
    return await task


class Intake:
    """Accepts jobs: stores a job, then answers with its message.

    A stored job is not lost if the answer fails: a job without a message gets a new message when
    its pictures are ready. `role_weights` are the weights of members by their roles.
    """

    def __init__(self, service: ImagineService, role_weights: Mapping[int, float]) -> None:
        self._service = service
        self._role_weights = role_weights

    async def accept(
        self, interaction: discord.Interaction[Any], building: Coroutine[Any, Any, NewJob]
    ) -> None:
        """Accept the job that `building` returns, for a command, a button or a modal.

        A place in the queue is reserved before `building` runs, and until the job is stored. Both
        together have one deadline: Discord's for an answer.

        Raises:
            PermissionMissing: the bot could not deliver the pictures here.
            QueueFull: too many jobs wait; `building` has not run.
            StorageError: the job could not be stored.
        """
        requester = requester_of(interaction)
        submitting = self._submit(building, requester, lambda: check_can_answer(interaction))
        job = await within_deadline(interaction, submitting)
        said = self._service.latest(job)
        await self._announce(job, _answer(interaction, job, said), said)

    async def accept_reaction(
        self,
        requester: Requester,
        building: Coroutine[Any, Any, NewJob],
        picture: discord.PartialMessage,
    ) -> None:
        """Accept the job that `building` returns, and reply to the message of the picture.

        Raises:
            PermissionMissing: the bot could not answer here.
            QueueFull: too many jobs wait; `building` has not run.
            StorageError: the job could not be stored.
        """
        job = await self._submit(
            building, requester, lambda: check_can_reply(picture.guild, requester.channel_id)
        )
        said = self._service.latest(job)
        await self._announce(job, _reply(picture, job, said), said)

    async def _submit(
        self, building: Coroutine[Any, Any, NewJob], requester: Requester, check: Callable[[], None]
    ) -> Job:
        """Reserve a place, run `check`, then build and store the job."""
        person = requester.person
        # Closed, since Python warns about a coroutine that never ran.
        with (
            contextlib.closing(building),
            self._service.reserve(person.id, requester.guild_id) as place,
        ):
            check()
            new = replace(await building, weight=weight(self._role_weights, person))
            return await self._service.submit(new, place)

    async def _announce(
        self, job: Job, answer: Coroutine[Any, Any, int | None], says: Event | None
    ) -> None:
        message_id = None
        try:
            message_id = await parsed(answer)
        except FAULTS as error:
            # The job is stored. `Courier.post` looks for a message, and posts one if there is none.
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
