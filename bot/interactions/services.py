"""The services that commands, buttons and reactions use, and nothing else of the bot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import discord

from storage.records import Job

from ..jobs.courier_protocol import Picture
from ..jobs.service import ImagineService
from ..memory import PictureMemory
from ..permissions.ages import Ages
from ..permissions.commands import CommandAccess
from ..permissions.members import Members
from ..ui.attachments import Attachment
from .actions import Actions
from .intake import Intake
from .lookup import Lookup
from .loras import LoraSuggestions
from .models import ModelChoice
from .rate_limit import RateLimit

FilesOf: TypeAlias = Callable[[Job, Sequence[Picture]], Awaitable[list[Attachment]]]
"""A function that returns the files which show pictures in the job's channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What handlers need. Cogs get it by constructor; buttons get it by `services_of`."""

    rate_limit: RateLimit
    jobs: ImagineService
    intake: Intake
    lookup: Lookup
    actions: Actions
    models: ModelChoice
    loras: LoraSuggestions
    members: Members
    commands: CommandAccess
    ages: Ages
    files_of: FilesOf
    memory: PictureMemory


class HasServices(Protocol):
    """The part of an interaction's client that handlers use."""

    @property
    def services(self) -> Services:
        """Return the services that handlers use."""


def services_of(interaction: discord.Interaction[Any]) -> Services:
    """Return the services for a handler that discord.py builds itself, such as a dynamic item."""
    client: HasServices = interaction.client
    return client.services
