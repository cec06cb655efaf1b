"""The bot: builds all parts, opens them in order, and closes them in the reverse order."""

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
from generation.queue.queue import GenerationQueue
from generation.workers.protocol import EngineLike
from storage.errors import StorageError
from storage.folder.space import Space
from storage.opening import Storage, open_storage
from storage.records import Job

from .cogs.buttons import DYNAMIC_ITEMS
from .cogs.edit import Edit
from .cogs.history import History
from .cogs.imagine import Imagine
from .cogs.models import Models
from .cogs.reactions import Reactions
from .cogs.removals import DiscordDeletions
from .cogs.vary import Vary
from .config import Settings
from .delivery.courier import DiscordCourier
from .delivery.files import files_of
from .delivery.presence import has_left, is_channel_gone
from .delivery.retry import InvalidRequests
from .engines import start_engine
from .errors import OutdatedCommand, sentence
from .interactions.actions import Actions
from .interactions.answers import tell
from .interactions.intake import Intake
from .interactions.interaction_check import RateLimitedTree
from .interactions.lookup import Lookup
from .interactions.loras import LoraSuggestions
from .interactions.models import ModelChoice
from .interactions.rate_limit import RateLimit
from .interactions.services import Services
from .jobs.disk import DiskGuard
from .jobs.service import ImagineService
from .jobs.tasks import Background
from .memory import UPLOAD_BYTES, PictureMemory
from .permissions.ages import Ages
from .permissions.commands import CommandAccess
from .permissions.integrations import Integrations
from .permissions.members import Members
from .publishing import Publisher
from .requests.limits import OperatorQueueLimits, QueueLimitsSource
from .requests.models import ModelOffer
from .requests.uploads import Uploads

log = logging.getLogger(__name__)

# None of these intents is privileged, so operators switch nothing on in Discord's developer portal.
# The intents for messages report deletions. The bot reads no new messages: Discord leaves their
# content out.
INTENTS: Final = discord.Intents(
    guilds=True, guild_messages=True, dm_messages=True, guild_reactions=True, dm_reactions=True
)
_RESUME_SECONDS: Final = 60.0

MakeEngine = Callable[[], EngineLike[Any]]


class ImagineBot(commands.Bot):
    """Imagine Bot on Discord. `create_bot` makes it.

    `services`, `service`, `courier` and `integrations` exist from `setup_hook` on. `failure` holds
    the error that stopped the bot, if one did.
    """

    services: Services
    service: ImagineService
    courier: DiscordCourier
    integrations: Integrations
    _queue: GenerationQueue[Any]

    def __init__(self, settings: Settings, offer: ModelOffer, make_engine: MakeEngine) -> None:
        self._invalid = InvalidRequests()
        super().__init__(
            http_trace=self._invalid.trace(),
            # There are no text commands: only slash commands, buttons and reactions.
            command_prefix=commands.when_mentioned,
            help_command=None,
            intents=INTENTS,
            tree_cls=RateLimitedTree,
            # The bot keeps no messages, not even in memory.
            max_messages=None,
            allowed_mentions=discord.AllowedMentions.none(),
            allowed_installs=app_commands.AppInstallationType(guild=True, user=False),
            allowed_contexts=app_commands.AppCommandContext(
                guild=True, dm_channel=True, private_channel=False
            ),
        )
        self.settings = settings
        self.offer = offer
        self.failure: Exception | None = None
        self._make_engine = make_engine
        self._stack = AsyncExitStack()
        self._background = Background()
        self._closing: asyncio.Task[None] | None = None
        self.tree.error(self._on_command_error)

    async def setup_hook(self) -> None:
        """Open storage and queue, add the cogs, publish the commands.

        Raises:
            StorageError: the data folder cannot be used.
            CommandsRefused: Discord refused the commands and has none from an earlier run.
        """
        storage = await self._stack.enter_async_context(open_storage(self.settings.data))
        queue = self._build_queue(OperatorQueueLimits(self.settings))
        self._build(storage, queue)
        # Closed in the reverse order: the queue stops first, then finished pictures are delivered.
        self._stack.push_async_callback(self.courier.close)
        self._stack.push_async_callback(self.service.close)
        await self._add_handlers()
        # The engine starts to load the model now, which takes longer than the rest.
        await self._stack.enter_async_context(queue)
        self._queue = queue
        self._background.start(self._watch(queue), "load the engine")
        await self._publish()
        self._background.start(self._resume(), "resume the unfinished jobs")

    def _build_queue(self, limits: QueueLimitsSource) -> GenerationQueue[Any]:
        return GenerationQueue(
            self._make_engine,
            limits_for=limits.queue_limits_for,
            previews=self.settings.previews,
            default_model=self.offer.default.name if self.settings.models else None,
        )

    def _build(self, storage: Storage, queue: GenerationQueue[Any]) -> None:
        """Build the services, each with what it needs."""
        if self.application_id is None:
            raise app_commands.MissingApplicationID
        memory = PictureMemory()
        self.courier = DiscordCourier(
            self,
            memory,
            on_message_gone=self._on_message_gone,
            progress_seconds=self.settings.progress_seconds,
            previews=self.settings.previews,
            invalid=self._invalid,
        )
        disk = DiskGuard(Space(storage.pictures_folder, self.settings.min_free_mb * 2**20), memory)
        self.service = ImagineService(
            jobs=storage.jobs,
            joined_guilds=storage.joined_guilds,
            queue=queue,
            courier=self.courier,
            disk=disk,
        )
        self.integrations = Integrations(self.http, self.application_id)
        members, ages = Members(self), Ages(self, self._invalid)
        lookup = Lookup(
            store=storage.jobs,
            history=storage.history,
            removals=self.service.removals,
            members=members,
            ages=ages,
            http=self.http,
        )
        models = ModelChoice(self.offer, queue.weights_sha256)
        self.services = Services(
            rate_limit=RateLimit(),
            jobs=self.service,
            intake=Intake(self.service, self.settings.role_weights),
            lookup=lookup,
            actions=Actions(lookup=lookup, models=models, store=storage.jobs, memory=memory),
            models=models,
            loras=LoraSuggestions(lookup, models),
            members=members,
            commands=CommandAccess(members, self.integrations),
            ages=ages,
            files_of=partial(files_of, self),
            memory=memory,
        )

    def _on_message_gone(self, job: Job) -> None:
        self.service.message_gone(job)

    async def _add_handlers(self) -> None:
        # Uploads have a memory of their own: a slow download must not delay a delivery.
        uploads = Uploads(PictureMemory(UPLOAD_BYTES))
        cogs = (
            Imagine(self.services),
            Vary(self.services, uploads),
            History(self.services),
            Models(self.services),
            *([Edit(self.services, uploads)] if self.offer.can_edit else []),
            Reactions(self, self.services),
            DiscordDeletions(self.service, partial(is_channel_gone, self, self.courier.retry)),
        )
        for cog in cogs:
            await self.add_cog(cog)
        self.add_dynamic_items(*DYNAMIC_ITEMS)

    async def engine_loaded(self) -> None:
        """Wait until the engine that `setup_hook` started has loaded the model.

        Raises:
            GenerationError: the model cannot be loaded.
        """
        await self._queue.ready()

    async def _publish(self) -> None:
        publisher = Publisher(self.tree)
        self.integrations.set_commands(await publisher.publish())
        retrying = publisher.keep_trying(self.integrations.set_commands)
        self._background.start(retrying, "publish the commands")

    async def close(self) -> None:
        """Stop the engine at once. Unfinished jobs stay stored for the next start."""
        if self._closing is None:
            # In a task of its own: closing cancels background tasks, and one of them may call this.
            self._closing = asyncio.create_task(self._close(), name="close the bot")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._background.close()
        await self._stack.aclose()
        await super().close()

    async def on_ready(self) -> None:
        """Log the account, and catch up with changes from the time without a connection."""
        log.info("Logged in as %s in %s servers", self.user, len(self.guilds))
        # Discord does not report changes from that time.
        self.integrations.forget()
        if self.user is not None:
            # `guilds` includes servers with an outage.
            guild_ids = [guild.id for guild in self.guilds]
            looking = self.service.removals.guilds_are(
                self.user.id, guild_ids, partial(has_left, self, self.courier.retry)
            )
            self._background.start(looking, "look for servers that the bot has left")

    async def on_message(self, _message: discord.Message, /) -> None:
        """Ignore messages: there are no text commands."""

    async def on_raw_app_command_permissions_update(
        self, event: discord.RawAppCommandPermissionsUpdateEvent
    ) -> None:
        """Ask Discord again for the command permissions of a server that changed them."""
        self.integrations.forget(event.guild.id)

    async def _watch(self, queue: GenerationQueue[Any]) -> None:
        """Stop the bot if the engine cannot be loaded or restarted. The jobs stay queued."""
        try:
            await queue.ready()
            log.info("The model %s is ready", self.offer.default.name)
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
                log.error("The unfinished jobs cannot be resumed yet: %s", error)
                await asyncio.sleep(_RESUME_SECONDS)
            else:
                break
        if count:
            log.info("Resuming %s unfinished jobs", count)

    async def _on_command_error(
        self, interaction: discord.Interaction[Any], error: app_commands.AppCommandError
    ) -> None:
        """Answer an error from before a command's own code runs.

        Such an error means a command or an option that this version does not have. Discord may
        still have the commands of another version (`bot.publishing`), and so may a person's app.
        """
        if isinstance(error, app_commands.CommandInvokeError):
            await tell(interaction, sentence(error.original))
            return
        log.warning("A command of another version of the bot was used: %s", error)
        # Discord shows no message among suggestions.
        if interaction.type is not discord.InteractionType.autocomplete:
            await tell(interaction, sentence(OutdatedCommand()))


def create_bot(
    settings: Settings,
    *,
    offer: ModelOffer | None = None,
    make_engine: MakeEngine | None = None,
) -> ImagineBot:
    """Return the whole bot for `settings`. Discord, the demo and the tests run the same bot.

    `offer` holds the models, if the caller has located them already. `make_engine` builds the
    engine on the engine's thread. Without `make_engine` the engine runs in a process of its own.

    Raises:
        ModelError: the default model cannot be found or used.
    """
    located = offer if offer is not None else ModelOffer.locate(settings)
    start = make_engine or partial(start_engine, settings, located.profiles)
    return ImagineBot(settings, located, start)
