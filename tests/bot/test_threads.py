from __future__ import annotations

import discord

from .stage import Stage, pictures


async def test_a_picture_in_a_private_thread_stays_there(stage: Stage) -> None:
    channel = stage.bot.get_channel(stage.channel.id)
    assert isinstance(channel, discord.TextChannel)
    made = await channel.create_thread(name="secret", type=discord.ChannelType.private_thread)
    await made.add_user(discord.Object(stage.alice.id))
    (thread,) = [thread for thread in stage.channel.threads if thread.id == made.id]
    result = await stage.alice.slash(thread, "imagine", prompt="rabbit face")
    await stage.until(lambda: [m for m in thread.history() if pictures(m)])
    assert result.response is not None
    denied = await stage.bob.slash(stage.channel, "vary", image="1-1")
    assert "There is no picture 1-1 that you can see here" in denied.response.content
    mine = await stage.alice.slash(stage.channel, "vary", image="1-1")
    assert not mine.ephemeral
