"""The demo without a browser: three requests, and the pictures that answered them."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Final

import discord

from .. import console
from ..errors import BotError
from ..ui import attachments
from ..ui.actions import RERUN
from .world import World, open_world

_PROMPT: Final = "rabbit face"
_VARIED_PROMPT: Final = "cat face"
_SEED: Final = 7
_PATIENCE_SECONDS: Final = 60.0


class NotAnswered(BotError):
    """The bot did not answer with a picture; the sentence says what it answered."""

    def __init__(self, asked: str, answer: str) -> None:
        instead = f"it said: {answer}" if answer else "it said nothing"
        super().__init__(f"The bot did not answer {asked} with a picture; {instead}.")


def play() -> int:
    """Run the script and return the exit code.

    Raises:
        NotAnswered: a request was not answered with a picture.
    """
    return asyncio.run(_play())


async def _play() -> int:
    folder = Path(tempfile.mkdtemp(prefix="imagine-bot-demo-"))
    async with open_world() as world:
        script = Script(world, folder)
        await script.command("imagine", prompt=_PROMPT, seed=_SEED)
        image = await script.suggestion("vary", "image")
        varied = await script.command("vary", image=image, prompt=_VARIED_PROMPT, seed=_SEED)
        await script.react(varied, RERUN.emoji)
    console.out.print(f"The pictures stay in {folder}", markup=False)
    return 0


class Script:
    """Sends requests as Alice and Bob, prints the answers and keeps the files."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self._folder = folder

    async def command(self, name: str, **options: str | int) -> discord.Message:
        """Send a slash command as Alice, and return the message with the picture."""
        said = " ".join(f"{option}: {value}" for option, value in options.items())
        asked = f"/{name} {said}"
        self._say(f"alice: {asked}")
        result = await self._world.alice.slash(self._world.channel, name, **options)
        answer = result.response
        if answer is None or answer.ephemeral:
            raise NotAnswered(asked, answer.content if answer is not None else "")
        return await self._answered(asked, answer.id)

    async def suggestion(self, name: str, option: str) -> str:
        """Return the first suggestion for an option of a command, as Alice."""
        alice, channel = self._world.alice, self._world.channel
        choices = await alice.autocomplete(channel, name, option, "")
        if not choices:
            raise NotAnswered(f"/{name} {option}", "")
        return str(choices[0]["value"])

    async def react(self, message: discord.Message, emoji: str) -> discord.Message:
        """React to a message as Bob, and return the message with the new picture."""
        asked = f"{emoji} below that picture"
        self._say(f"bob: {asked}")
        before = {known.id for known in self._world.messages()}
        await self._world.bob.react(message, emoji)

        def reply() -> int | None:
            new = (known.id for known in self._world.messages() if known.id not in before)
            return next(new, None)

        try:
            reply_id = await self._world.until(reply, seconds=_PATIENCE_SECONDS)
        except TimeoutError:
            raise NotAnswered(asked, "") from None
        return await self._answered(asked, reply_id)

    async def _answered(self, asked: str, message_id: int) -> discord.Message:
        def find() -> discord.Message:
            return next(known for known in self._world.messages() if known.id == message_id)

        def finished() -> discord.Message | None:
            message = find()
            names = [attachment.filename for attachment in message.attachments]
            return message if attachments.is_finished(names) else None

        try:
            message = await self._world.until(finished, seconds=_PATIENCE_SECONDS)
        except TimeoutError:
            raise NotAnswered(asked, self._text(find())) from None
        self._say(self._text(message), indent=2)
        for attachment in message.attachments:
            path = self._folder / attachment.filename
            path.write_bytes(await attachment.read())
            self._say(str(path), indent=2)
        return message

    def _text(self, message: discord.Message) -> str:
        """Return the text of a message as people read it."""
        text = message.content
        for person in (self._world.alice, self._world.bob):
            text = text.replace(f"<@{person.id}>", f"@{person.name}")
        return discord.utils.remove_markdown(text)

    def _say(self, text: str, *, indent: int = 0) -> None:
        for line in text.splitlines():
            console.out.print(" " * indent + line, markup=False)
