"""A small bot that uses what an image bot uses of Discord; the rig's own tests run it."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
from typing import Any

import discord
from discord import app_commands
from PIL import Image

_STYLES = ("oil", "ink", "watercolour")
_AGAIN = discord.PartialEmoji(name="🔄")


def picture(colour: str) -> bytes:
    """Return a PNG of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


class EditPrompt(discord.ui.Modal, title="Edit the prompt"):
    """A form with what was asked before in it."""

    def __init__(self, prompt: str) -> None:
        super().__init__(custom_id="edit")
        self.prompt: discord.ui.TextInput[EditPrompt] = discord.ui.TextInput(
            label="Prompt", custom_id="prompt", default=prompt
        )
        self.extra: discord.ui.TextInput[EditPrompt] = discord.ui.TextInput(
            label="Extra", custom_id="extra", required=False
        )
        self.add_item(self.prompt)
        self.add_item(self.extra)

    async def on_submit(self, interaction: discord.Interaction) -> None:
        await interaction.response.send_message(f"edited: {self.prompt} {self.extra}".strip())


class Buttons(discord.ui.View):
    """Buttons that work for ever, as they are known by custom id alone."""

    def __init__(self) -> None:
        super().__init__(timeout=None)

    @discord.ui.button(emoji=_AGAIN, custom_id="again")
    async def again(self, interaction: discord.Interaction, _: Any) -> None:
        await interaction.response.send_message("again!")

    @discord.ui.button(label="Edit", custom_id="edit")
    async def edit(self, interaction: discord.Interaction, _: Any) -> None:
        assert interaction.message is not None
        await interaction.response.send_modal(EditPrompt(interaction.message.content))

    @discord.ui.button(label="Whisper", custom_id="whisper")
    async def whisper(self, interaction: discord.Interaction, _: Any) -> None:
        await interaction.response.defer(ephemeral=True, thinking=True)
        await interaction.followup.send("only for you", ephemeral=True)


class SampleBot(discord.Client):
    """Draws squares."""

    def __init__(self) -> None:
        intents = discord.Intents.default()
        intents.members = "members" in os.environ.get("SAMPLE_INTENTS", "")
        super().__init__(intents=intents)
        self.tree = app_commands.CommandTree(self)
        self.work: set[asyncio.Task[None]] = set()

    async def setup_hook(self) -> None:
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGTERM, lambda: self.keep(self.close())
        )
        self.add_view(Buttons())
        commands: list[app_commands.Command[Any, ..., None]]
        commands = [draw, recent, post, write_me, info]
        for command in commands:
            self.tree.add_command(command)
        await self.tree.sync()

    def keep(self, work: Any) -> None:
        """Run something beside the handlers."""
        task = asyncio.ensure_future(work)
        self.work.add(task)
        task.add_done_callback(self.work.discard)

    async def finish(self, message: discord.PartialMessage, text: str) -> None:
        """Show the picture in the message and offer a reaction."""
        file = discord.File(io.BytesIO(picture("red")), "square.png", description=text)
        await message.edit(content=f"half of {text}")
        await message.edit(content=text, attachments=[file], view=Buttons())
        await message.add_reaction("⭐")

    async def on_raw_reaction_add(self, event: discord.RawReactionActionEvent) -> None:
        await self._note("added", event)

    async def on_raw_reaction_remove(self, event: discord.RawReactionActionEvent) -> None:
        await self._note("removed", event)

    async def _note(self, what: str, event: discord.RawReactionActionEvent) -> None:
        if self.user is None or event.user_id == self.user.id:
            return
        channel = self.get_partial_messageable(event.channel_id)
        await channel.send(
            f"{what} {event.emoji} by <@{event.user_id}>",
            reference=discord.MessageReference(
                message_id=event.message_id, channel_id=event.channel_id
            ),
            allowed_mentions=discord.AllowedMentions.none(),
        )


def _bot(interaction: discord.Interaction) -> SampleBot:
    assert isinstance(interaction.client, SampleBot)
    return interaction.client


def _channel(interaction: discord.Interaction) -> discord.PartialMessageable:
    assert interaction.channel_id is not None
    return interaction.client.get_partial_messageable(interaction.channel_id)


@app_commands.command(description="Draw a square")
async def draw(
    interaction: discord.Interaction,
    prompt: str,
    steps: app_commands.Range[int, 1, 150] = 20,
    style: str = "oil",
    image: discord.Attachment | None = None,
) -> None:
    """Answer at once and draw afterwards."""
    source = f" from {len(await image.read())} bytes {image.width}x{image.height}" if image else ""
    await interaction.response.send_message("drawing")
    answer = await interaction.original_response()
    message = _channel(interaction).get_partial_message(answer.id)
    _bot(interaction).keep(_bot(interaction).finish(message, f"{prompt} {style} {steps}{source}"))


@draw.autocomplete("style")
async def _styles(_: discord.Interaction, typed: str) -> list[app_commands.Choice[str]]:
    return [app_commands.Choice(name=name, value=name) for name in _STYLES if typed in name]


@app_commands.command(description="List the messages after one")
async def recent(interaction: discord.Interaction, after: str, limit: int) -> None:
    """Read the channel's history, oldest first."""
    seen = []
    async for message in _channel(interaction).history(
        after=discord.Object(int(after)), limit=limit, oldest_first=True
    ):
        requester = message.interaction_metadata.user.name if message.interaction_metadata else "-"
        own = [str(reaction) for reaction in message.reactions if reaction.me]
        rows = len(message.components)
        seen.append(
            f"{message.content}/{requester}/{rows}/{''.join(own)}/{len(message.attachments)}"
        )
    await interaction.response.send_message("\n".join(seen) or "nothing", ephemeral=True)


@app_commands.command(description="Post something, twice under one nonce")
async def post(interaction: discord.Interaction, text: str) -> None:
    """Say whether the second message is the first."""
    await interaction.response.defer(ephemeral=True)
    first = await _channel(interaction).send(text, nonce="once")
    second = await _channel(interaction).send(text, nonce="once")
    fetched = await _channel(interaction).fetch_message(first.id)
    other = await _channel(interaction).send("to be deleted", nonce="other")
    await other.delete()
    await interaction.followup.send(f"same: {first.id == second.id}, fetched: {fetched.content}")


@app_commands.command(name="writeme", description="Write to the person")
async def write_me(interaction: discord.Interaction) -> None:
    """Send a picture as a direct message."""
    await interaction.user.send("hello", file=discord.File(io.BytesIO(picture("blue")), "b.png"))
    await interaction.response.send_message("written", ephemeral=True)


@app_commands.command(description="Say what the bot knows")
async def info(interaction: discord.Interaction) -> None:
    """Name the application, the permissions and the way here."""
    application = await interaction.client.application_info()
    allowed = interaction.permissions.send_messages
    where = "guild" if interaction.guild_id else "alone"
    await interaction.response.send_message(f"{application.name} {allowed} {where}")


def main() -> None:
    """Run until closed."""
    logging.basicConfig(level=logging.INFO)
    SampleBot().run(os.environ["DISCORD_TOKEN"], log_handler=None)
    print("closed in order")


if __name__ == "__main__":
    main()
