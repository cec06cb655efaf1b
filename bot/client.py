"""The bot: everything put together, opened in order and closed in the reverse order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import discord
from discord import app_commands
from discord.ext import commands

from generation.errors import GenerationError
from generation.locate import ModelProfile, locate
from generation.queue import EngineLike, GenerationQueue
from storage.errors import StorageError
from storage.opening import open_storage
from storage.space import Space

from .actions import Actions
from .ages import Ages
from .answers import tell
from .background import Background
from .buttons import DYNAMIC_ITEMS
from .config import Settings
from .delivery import DiscordCourier
from .engines import start_engine
from .errors import OutdatedCommand, sentence
from .gate import Gate, GatedTree
from .intake import Intake
from .memory import PictureMemory
from .overrides import Integrations
from .presence import has_left
from .publishing import Publisher
from .requests import RequestDesk
from .retry import InvalidRequests
from .room import Room
from .service import ImagineService

log = logging.getLogger(__name__)

# None of these is privileged: nothing has to be switched on in Discord's developer portal. Those on
# messages tell which are deleted; of new ones the bot learns no content, and looks at none.
INTENTS: Final = discord.Intents(
    guilds=True, guild_messages=True, dm_messages=True, guild_reactions=True, dm_reactions=True
)
_RESUME_SECONDS: Final = 60.0
_COGS: Final = ("imagine", "vary", "history", "reactions", "removals")

MakeEngine = Callable[[], EngineLike[Any]]


class ImagineBot(commands.Bot):
    """Imagine Bot on Discord; made by `create_bot`.

    `service`, `courier`, `intake`, `actions`, `ages`, `desk`, `integrations` and `memory` are there
    from `setup_hook` until `close`. `failure` holds what made it stop by itself.
    """

    service: ImagineService
    courier: DiscordCourier
    intake: Intake
    actions: Actions
    ages: Ages
    desk: RequestDesk
    integrations: Integrations
    memory: PictureMemory
    _queue: GenerationQueue[Any]

    def __init__(self, settings: Settings, profile: ModelProfile, make_engine: MakeEngine) -> None:
        self._invalid = InvalidRequests()
        super().__init__(
            http_trace=self._invalid.trace(),
            # There are no text commands: only slash commands, buttons and reactions.
            command_prefix=commands.when_mentioned,
            help_command=None,
            intents=INTENTS,
            tree_cls=GatedTree,
            # Nothing of what people write is kept, not even in memory.
            max_messages=None,
            allowed_mentions=discord.AllowedMentions.none(),
            allowed_installs=app_commands.AppInstallationType(guild=True, user=False),
            allowed_contexts=app_commands.AppCommandContext(
                guild=True, dm_channel=True, private_channel=False
            ),
        )
        self.settings = settings
        self.profile = profile
        self.failure: Exception | None = None
        self.gate = Gate()
        self._make_engine = make_engine
        self._stack = AsyncExitStack()
        self._background = Background()
        self._closing: asyncio.Task[None] | None = None
        self.tree.error(self._on_command_error)

    async def setup_hook(self) -> None:
        """Open storage and queue, load the cogs, publish the commands.

        Raises:
            StorageError: the data folder cannot be used.
            CommandsRefused: Discord refused the commands, and has none from before.
        """
        jobs = await self._stack.enter_async_context(open_storage(self.settings.data))
        self.memory = PictureMemory()
        self.courier = DiscordCourier(
            self,
            self.memory,
            progress_seconds=self.settings.progress_seconds,
            previews=self.settings.previews,
            invalid=self._invalid,
        )
        queue = GenerationQueue(
            self._make_engine,
            limit=self.settings.queue_limit,
            member_limit=self.settings.member_limit,
            group_limit=self.settings.guild_limit,
            previews=self.settings.previews,
        )
        space = Space(jobs.folder, self.settings.min_free_mb * 2**20)
        self.service = ImagineService(
            jobs=jobs, queue=queue, courier=self.courier, room=Room(space, self.memory)
        )
        # Closed in the reverse order: the queue stops first, then what it made is delivered.
        self._stack.push_async_callback(self.courier.close)
        self._stack.push_async_callback(self.service.close)
        self.intake = Intake(self.service, self.settings)
        self.ages = Ages(self, self._invalid)
        self.actions = Actions(self, self.memory)
        self.desk = RequestDesk(self.settings, self.profile)
        self.add_dynamic_items(*DYNAMIC_ITEMS)
        for name in _COGS:
            await self.load_extension(f"bot.cogs.{name}")
        # It starts to load the model, which takes longer than what follows.
        await self._stack.enter_async_context(queue)
        self._queue = queue
        self._background.start(self._watch(queue), "load the engine")
        await self._publish()
        self._background.start(self._resume(), "take up the jobs from before")

    async def engine_loaded(self) -> None:
        """Wait until the engine that `setup_hook` started has loaded the model.

        Raises:
            GenerationError: it cannot be loaded.
        """
        await self._queue.ready()

    async def _publish(self) -> None:
        publisher = Publisher(self.tree)
        self.integrations = Integrations(self, await publisher.publish())
        retrying = publisher.keep_trying(self.integrations.learn)
        self._background.start(retrying, "publish the commands")

    async def close(self) -> None:
        """Stop the engine, whatever it is doing; what is unfinished is kept for next time."""
        if self._closing is None:
            # A task of its own: one of those that it ends may be the one that asks for it.
            self._closing = asyncio.create_task(self._close(), name="close the bot")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._background.close()
        await self._stack.aclose()
        await super().close()

    async def on_ready(self) -> None:
        """Say in the log who we are and where."""
        log.info("Logged in as %s in %s servers", self.user, len(self.guilds))
        # What changed while there was no connection was not told.
        self.integrations.forget()
        if self.user is not None:
            # Servers with an outage are among them.
            guild_ids = [guild.id for guild in self.guilds]
            looking = self.service.removals.guilds_are(
                self.user.id, guild_ids, partial(has_left, self, self.courier.retry)
            )
            self._background.start(looking, "look for servers that the bot has left")

    async def on_message(self, _message: discord.Message, /) -> None:
        """Look at nothing that people write: there are no text commands."""

    async def on_raw_app_command_permissions_update(
        self, event: discord.RawAppCommandPermissionsUpdateEvent
    ) -> None:
        """Ask again who may use what in a server where that changed."""
        self.integrations.forget(event.guild.id)

    async def _watch(self, queue: GenerationQueue[Any]) -> None:
        """Stop the bot if the engine cannot be loaded, or not again; the jobs stay queued."""
        try:
            await queue.ready()
            log.info("The model %s is ready", self.profile.name)
            await queue.died()
        except GenerationError as error:
            self.failure = error
            await self.close()

    async def _resume(self) -> None:
        await self.wait_until_ready()
        while True:
            try:
                count = await self.service.resume()
            except StorageError as error:
                log.error("The jobs from before cannot be taken up yet: %s", error)
                await asyncio.sleep(_RESUME_SECONDS)
            else:
                break
        if count:
            log.info("Taking up %s jobs from before", count)

    async def _on_command_error(
        self, interaction: discord.Interaction[Any], error: app_commands.AppCommandError
    ) -> None:
        """Answer what fails before a command's own code runs.

        By itself that is a command, or an option of one, that this version does not have: Discord
        may go on with those of another (`bot.publishing`), and so may somebody's window.
        """
        if isinstance(error, app_commands.CommandInvokeError):
            await tell(interaction, sentence(error.original))
            return
        log.warning("A command of another version of the bot was used: %s", error)
        # Among suggestions nothing can be said.
        if interaction.type is not discord.InteractionType.autocomplete:
            await tell(interaction, sentence(OutdatedCommand()))


def create_bot(
    settings: Settings,
    *,
    profile: ModelProfile | None = None,
    make_engine: MakeEngine | None = None,
) -> ImagineBot:
    """Return the whole bot for `settings`, as Discord, the demo and the tests run it.

    `profile` is the model if it was located already; `make_engine` builds the engine, on the
    engine's thread; without it that is one in a process of its own.

    Raises:
        ModelError: the model cannot be found or used.
    """
    located = (
        profile
        if profile is not None
        else locate(settings.model, prediction_type=settings.prediction_type)
    )
    start = make_engine or partial(start_engine, settings, located)
    return ImagineBot(settings, located, start)
