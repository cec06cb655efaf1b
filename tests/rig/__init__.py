"""A Discord on loopback, for a bot that runs in its own process.

The bot's process talks to it with discord.py's unchanged network code, so it can be killed,
started again, cut off and rate-limited while the guild, its messages and its pending
interactions stay. What Discord means (routes, permissions, payloads, the life of an
interaction) is SimCord's; the transport is here. It uses private names of simcord 3.2.1.

    async with Discord.start() as discord, BotProcess([...], discord) as bot:
        await bot.ready()
        asked = await discord.slash("imagine", prompt="a rabbit")
        await discord.until(lambda: asked.message and asked.message.attachments)

Everything runs in the test's own event loop: between two awaits nothing changes, so a test
may read whatever it likes, and must not block the loop.
"""

from __future__ import annotations

from .control import Discord
from .errors import BotExited, NeverHappened, NotSimulated, NotThere, RigError
from .faults import Fault, Hold
from .people import Asked
from .process import BotProcess
from .rest import Request
from .views import Button, FileView, MessageView

__all__ = [
    "Asked",
    "BotExited",
    "BotProcess",
    "Button",
    "Discord",
    "Fault",
    "FileView",
    "Hold",
    "MessageView",
    "NeverHappened",
    "NotSimulated",
    "NotThere",
    "Request",
    "RigError",
]
