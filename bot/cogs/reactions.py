"""🔁 🎲 ❌ as reactions, on any of the bot's pictures, however old."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import discord
from discord.ext import commands

from storage.records import Job, JobStatus

from ..access import may_remove, may_use, removal_by
from ..actions import Asker
from ..buttons import REMOVE_EMOJI, RERUN_COMMAND, RERUN_EMOJI, VARY_COMMAND, VARY_EMOJI
from ..delivery_codes import FAULTS, understood
from ..errors import USER_ERRORS, sentence
from ..gate import Gate
from ..requests import ImageReference

if TYPE_CHECKING:
    from ..client import ImagineBot

_SHOWN_SECONDS: Final = 20.0
_QUIET_SECONDS: Final = 60.0

log = logging.getLogger(__name__)


class Reactions(commands.Cog):
    """What a reaction on one of our messages does.

    The raw event is used, with the message looked up in our own database: discord.py tells of
    reactions on messages that it remembers only, which after a restart is none.
    """

    def __init__(self, bot: ImagineBot, gate: Gate) -> None:
        self._bot = bot
        self._gate = gate
        # When each person was last told something, by where.
        self._told: dict[tuple[int, int], float] = {}

    @commands.Cog.listener()
    async def on_raw_reaction_add(self, payload: discord.RawReactionActionEvent) -> None:
        """Act on 🔁, 🎲 and ❌ below our own messages; ignore all else."""
        emoji = str(payload.emoji)
        if emoji not in (RERUN_EMOJI, VARY_EMOJI, REMOVE_EMOJI):
            return
        if not self._gate.passes(payload.user_id):
            return
        person = payload.member or await self._person(payload)
        if person is None or person.bot:
            return
        try:
            job = await self._bot.service.shown_in(payload.message_id)
            if job is not None and not job.deleted:
                await self._act(emoji, job, person, payload)
        except USER_ERRORS as error:
            await self._tell(payload, person, sentence(error))

    async def _person(self, payload: discord.RawReactionActionEvent) -> discord.User | None:
        """Return who reacted in a direct message; in a server the event names the member."""
        if payload.guild_id is not None:
            return None
        try:
            return await understood(self._bot.fetch_user(payload.user_id))
        except FAULTS:
            log.warning("Nothing is known of the person who reacted to %s", payload.message_id)
            return None

    async def _act(
        self,
        emoji: str,
        job: Job,
        person: discord.User | discord.Member,
        payload: discord.RawReactionActionEvent,
    ) -> None:
        if emoji == REMOVE_EMOJI:
            if may_remove(self._bot, job, person, payload.channel_id):
                # At once: it is chosen from a list, and there is no private way to ask.
                await self._bot.service.cancel_or_remove(job, removal_by(job, person))
            return
        command = RERUN_COMMAND if emoji == RERUN_EMOJI else VARY_COMMAND
        if not await may_use(self._bot, job, person, command):
            return
        here = (payload.guild_id, payload.channel_id)
        await self._bot.ages.learn([here])
        asker = Asker(
            person=person,
            guild_id=payload.guild_id,
            channel_id=payload.channel_id,
            origin=f"reaction:{payload.message_id}:{payload.user_id}:{emoji}",
            age_restricted=self._bot.ages.is_restricted(*here) is True,
        )
        if emoji == RERUN_EMOJI:
            ordering = self._bot.actions.rerun(asker, job.id)
        elif await self._has_pictures(job):
            ordering = self._bot.actions.vary(asker, ImageReference(job.id, 1))
        else:
            return
        await self._bot.intake.accept_reaction(asker, ordering, self._message(payload))

    async def _has_pictures(self, job: Job) -> bool:
        if job.status is JobStatus.FAILED:
            # It may have failed in its delivery only.
            return bool(await self._bot.service.jobs.images(job.id))
        return job.status in (JobStatus.GENERATED, JobStatus.DELIVERED)

    async def _tell(
        self,
        payload: discord.RawReactionActionEvent,
        person: discord.User | discord.Member,
        text: str,
    ) -> None:
        """Answer a reaction that came to nothing where it was made; there is no private way.

        So that a busy hour fills no channel, the answer goes after a while, and for as long as it
        would be in the way the person gets no other there.
        """
        now, place = asyncio.get_running_loop().time(), (person.id, payload.channel_id)
        self._told = {key: at for key, at in self._told.items() if now - at < _QUIET_SECONDS}
        if place in self._told:
            return
        self._told[place] = now
        try:
            await self._message(payload).reply(
                f"{person.mention}: {text}", delete_after=_SHOWN_SECONDS
            )
        except FAULTS as error:
            log.warning("Could not answer a reaction with %r: %s", text, error)

    def _message(self, payload: discord.RawReactionActionEvent) -> discord.PartialMessage:
        channel = self._bot.get_partial_messageable(payload.channel_id, guild_id=payload.guild_id)
        return channel.get_partial_message(payload.message_id)


async def setup(bot: ImagineBot) -> None:
    """Add the cog; called by `load_extension`."""
    await bot.add_cog(Reactions(bot, bot.gate))
