"""What the tests of deletions share."""

from __future__ import annotations

from pathlib import Path

import simcord

from storage.records import Job

from ..stage import Person, Stage, pictures

PROMPT = "zyzzogeton rabbit"


def files(stage: Stage) -> list[Path]:
    return [path for path in (stage.settings.data / "pictures").rglob("*") if path.is_file()]


async def record(stage: Stage, job_id: int = 1) -> Job:
    job = await stage.bot.service.jobs.record(job_id)
    assert job is not None
    return job


async def deleted(stage: Stage, job_id: int = 1) -> Job:
    """Wait until a job is deleted, and return what is left of it."""

    async def is_deleted() -> bool:
        return (await record(stage, job_id)).deleted

    await stage.eventually(is_deleted, seconds=10)
    return await record(stage, job_id)


async def picture_in(
    stage: Stage, channel: simcord.ChannelHandle, who: Person | None = None
) -> None:
    await (who or stage.alice).slash(channel, "imagine", prompt=PROMPT)
    await stage.until(lambda: [m for m in channel.history() if pictures(m)])


async def missing_guilds(stage: Stage) -> list[int]:
    """Return the servers that the bot is known to be in."""
    user = stage.bot.user
    assert user is not None
    return await stage.bot.service.removals._joined_guilds.missing(user.id, [])
