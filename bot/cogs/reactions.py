"""🔁 🎲 ❌ as reactions to the bot's messages, however old they are."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import discord
from discord.ext import commands

from storage.records import Job

from ..delivery.codes import FAULTS, parsed
from ..errors import USER_ERRORS, sentence
from ..interactions.requester import Requester
from ..interactions.services import Services
from ..permissions.members import removal_by
from ..requests.reference import ImageReference
from ..ui.actions import REMOVE, Action, by_emoji

_SHOWN_SECONDS: Final = 20.0
_QUIET_SECONDS: Final = 60.0

log = logging.getLogger(__name__)


class Reactions(commands.Cog):
    """Does what a reaction to one of the bot's messages asks for.

    This listens to the raw event and looks the message up in the database. discord.py's other event
    covers cached messages alone, and after a restart there are none.
    """

    def __init__(self, client: discord.Client, services: Services) -> None:
        self._client = client
        self._services = services
        # The time of the last answer, by person and channel.
        self._answered_at: dict[tuple[int, int], float] = {}

    @commands.Cog.listener()
    async def on_raw_reaction_add(self, payload: discord.RawReactionActionEvent) -> None:
        """Act on 🔁, 🎲 and ❌ below the bot's own messages."""
        action = by_emoji(str(payload.emoji))
        if action is None:
            return
        if not self._services.rate_limit.passes(payload.user_id):
            return
        person = payload.member or await self._person(payload)
        if person is None or person.bot:
            return
        try:
            job = await self._services.jobs.shown_in(payload.message_id)
            if job is not None and not job.deleted:
                await self._act(action, job, person, payload)
        except USER_ERRORS as error:
            await self._tell(payload, person, sentence(error))

    async def _person(self, payload: discord.RawReactionActionEvent) -> discord.User | None:
        """Return the person who reacted in a direct message; in a server use the event's member."""
        if payload.guild_id is not None:
            return None
        try:
            return await parsed(self._client.fetch_user(payload.user_id))
        except FAULTS:
            log.warning("The person who reacted to %s cannot be looked up", payload.message_id)
            return None

    async def _act(
        self,
        action: Action,
        job: Job,
        person: discord.User | discord.Member,
        payload: discord.RawReactionActionEvent,
    ) -> None:
        if action is REMOVE:
            if self._services.members.may_remove(job, person, payload.channel_id):
                # Without a question: a reaction cannot be answered privately.
                await self._services.jobs.cancel_or_remove(job, removal_by(job, person))
            return
        if not await self._services.commands.may_react(job, person, action):
            return
        if action.of_picture and not await self._services.lookup.has_pictures(job):
            return
        here = (payload.guild_id, payload.channel_id)
        await self._services.ages.fetch_unknown([here])
        requester = Requester(
            person=person,
            guild_id=payload.guild_id,
            channel_id=payload.channel_id,
            origin=f"reaction:{payload.message_id}:{payload.user_id}:{action.emoji}",
            age_restricted=self._services.ages.is_restricted(*here) is True,
        )
        new_job = self._services.actions.new_job(action, requester, ImageReference(job.id))
        await self._services.intake.accept_reaction(requester, new_job, self._message(payload))

    async def _tell(
        self,
        payload: discord.RawReactionActionEvent,
        person: discord.User | discord.Member,
        text: str,
    ) -> None:
        """Say in the channel why a reaction did nothing, since no private answer is possible.

        The answer is deleted after 20 s, and each person gets one answer a minute in a channel.
        """
        now, key = asyncio.get_running_loop().time(), (person.id, payload.channel_id)
        self._answered_at = {
            known: at for known, at in self._answered_at.items() if now - at < _QUIET_SECONDS
        }
        if key in self._answered_at:
            return
        self._answered_at[key] = now
        try:
            await self._message(payload).reply(
                f"{person.mention}: {text}", delete_after=_SHOWN_SECONDS
            )
        except FAULTS as error:
            log.warning("Could not answer a reaction with %r: %s", text, error)

    def _message(self, payload: discord.RawReactionActionEvent) -> discord.PartialMessage:
        channel = self._client.get_partial_messageable(
            payload.channel_id, guild_id=payload.guild_id
        )
        return channel.get_partial_message(payload.message_id)
