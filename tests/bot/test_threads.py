from __future__ import annotations

import discord
import pytest

from storage.states import JobStatus

from .stage import GatedEngine, Stage, pictures


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


async def archived_while_it_waits(stage: Stage, gate: GatedEngine) -> discord.Thread:
    """Ask for a picture in a thread that is archived before it is made.

    Discord sends into such a thread, but edits nothing there; SimCord would.
    """
    channel = stage.bot.get_channel(stage.channel.id)
    assert isinstance(channel, discord.TextChannel)
    made = await channel.create_thread(name="owls", type=discord.ChannelType.public_thread)
    (thread,) = [thread for thread in stage.channel.threads if thread.id == made.id]
    gate.shut()
    await stage.alice.slash(thread, "imagine", prompt="rabbit face")
    await made.edit(archived=True)
    for method in ("PATCH", "DELETE"):
        stage.env.inject_error(
            method, f"/channels/{made.id}/messages/*", status=400, code=50083, times=None
        )
    return made


async def test_a_thread_that_was_archived_is_opened_for_the_pictures(
    stage: Stage, gate: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await archived_while_it_waits(stage, gate)
    edit, opened = discord.Thread.edit, []

    async def editing(thread: discord.Thread, **changes: bool) -> discord.Thread:
        edited = await edit(thread, **changes)
        opened.append(changes)
        stage.env.backend.faults.clear()
        return edited

    monkeypatch.setattr(discord.Thread, "edit", editing)
    gate.open()
    (thread,) = [thread for thread in stage.channel.threads if thread.id == made.id]
    await stage.until(lambda: [m for m in thread.history() if pictures(m)])
    assert opened == [{"archived": False}]


async def test_a_thread_that_may_not_be_opened_ends_its_job_and_no_other(
    stage: Stage, gate: GatedEngine
) -> None:
    made = await archived_while_it_waits(stage, gate)
    stage.env.inject_error("PATCH", f"/channels/{made.id}", status=403, code=50013, times=None)
    gate.open()
    assert pictures(await stage.imagine("cat face"))
    await stage.until(lambda: not stage.bot.service._under_way)
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    assert job.status is JobStatus.FAILED
