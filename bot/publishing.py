"""Publishing the slash commands, unless Discord has them already.

If Discord refuses new commands, the commands from before stay in force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import discord
from discord import app_commands

from .connecting import DELAYS, reason, spread_backoff
from .delivery.codes import Garbled, parsed
from .errors import BotError
from .network import UNREACHABLE

log = logging.getLogger(__name__)

_FAULTS: Final = (*UNREACHABLE, Garbled)
Commands = Sequence[app_commands.AppCommand]

# discord.py waits until a rate limit ends. The limit for new commands lasts a day.
_DEADLINE: Final = 45.0
_LOOK_DEADLINE: Final = 10.0
# Fields that Discord adds to a command, and fields that are deprecated in favour of `contexts`.
_NOT_COMPARED: Final = frozenset(
    {
        "id",
        "application_id",
        "version",
        "name_localized",
        "description_localized",
        "dm_permission",
        "default_permission",
    }
)
# From 8 s on: nobody waits for this.
_DELAYS: Final = DELAYS[3:]
_RATE_LIMITED: Final = 429
_SERVER_ERROR: Final = 500


class CommandsRefused(BotError):
    """Discord refused our commands, and has none from before."""


class Publisher:
    """Publishes the commands of a tree, and retries while Discord has temporary errors."""

    def __init__(self, tree: app_commands.CommandTree[Any]) -> None:
        self._tree = tree
        self._may_help = False

    async def publish(self) -> Commands:
        """Return the commands in force, published now or before.

        Discord's commands are compared with ours first. So a restart publishes nothing, and changes
        by somebody else are corrected. After a temporary error of Discord or of the network the
        result may be empty; `keep_trying` publishes later.

        Raises:
            CommandsRefused: Discord refused the commands for good, and has none from before.
        """
        try:
            return await self._sync()
        except _FAULTS as error:
            self._may_help = is_temporary(error)
            return await self._from_before(reason(error))

    async def keep_trying(self, on_publish: Callable[[Commands], None]) -> None:
        """Retry until Discord takes the commands, after a temporary error only.

        `on_publish` is called with the commands once they are published.
        """
        delays = spread_backoff(_DELAYS)
        while self._may_help:
            await asyncio.sleep(next(delays))
            try:
                commands = await self._sync()
            except _FAULTS as error:
                self._may_help = is_temporary(error)
                log.warning("The commands could not be published: %s", reason(error))
            else:
                log.info("The commands are published")
                on_publish(commands)
                return

    async def _sync(self) -> Commands:
        try:
            async with asyncio.timeout(_LOOK_DEADLINE):
                there = await parsed(self._in_force())
        except _FAULTS as error:
            log.info("The commands that Discord has could not be read: %s", reason(error))
            there = None
        if there is not None:
            return there
        async with asyncio.timeout(_DEADLINE):
            return await parsed(self._tree.sync())

    async def _in_force(self) -> Commands | None:
        """Return the commands that Discord has, if they are ours."""
        client = self._tree.client
        if client.application_id is None:
            raise app_commands.MissingApplicationID
        # discord.py's own class for a command misreads the contexts where it may be used.
        there = await client.http.get_global_commands(client.application_id)
        ours = [command.to_dict(self._tree) for command in self._tree.get_commands()]
        if _by_name(there) != _by_name(ours):
            return None
        state = client._connection
        return [app_commands.AppCommand(data=command, state=state) for command in there]

    async def _from_before(self, why: str) -> Commands:
        try:
            async with asyncio.timeout(_DEADLINE):
                commands = await parsed(self._tree.fetch_commands())
        except _FAULTS:
            self._may_help = True
            commands = []
        names = ", ".join(f"/{command.name}" for command in commands)
        if names:
            log.error("Discord refused the commands (%s); these stay in force: %s.", why, names)
        elif self._may_help:
            log.error("Discord refused the commands (%s); they are published later.", why)
        else:
            raise CommandsRefused(
                f"Discord refused the commands ({why}) and has none from before, so nobody could "
                "ask for pictures; look up this error in Discord's documentation, or report it."
            )
        return commands


def _by_name(commands: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{command['type']} {command['name']}": _said(command) for command in commands}


def _said(value: Any) -> Any:
    """Return a part of a command without empty values, which Discord may add or leave out."""
    if isinstance(value, Mapping):
        return {
            key: _said(inner)
            for key, inner in value.items()
            if key not in _NOT_COMPARED and inner not in (None, [], {}) and inner is not False
        }
    return [_said(inner) for inner in value] if isinstance(value, list | tuple) else value


def is_temporary(error: Exception) -> bool:
    """Return whether the same request may be accepted later."""
    if isinstance(error, discord.HTTPException):
        return error.status == _RATE_LIMITED or error.status >= _SERVER_ERROR
    return True
