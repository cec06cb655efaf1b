"""Job ids start at 1 in a new database; buttons of older messages do not reach its jobs."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from simcord.components import walk_components

from bot.client import create_bot
from bot.ui.views import finished_view
from generation.images.png import read_origin
from storage.states import JobStatus

from ..stage import Stage, button_actions, buttons, pictures
from ..ui.test_messages import JOB

UNKNOWN = "That button belongs to a picture that I no longer know; make a new one with /imagine."
EVERY_BUTTON = pytest.mark.parametrize("button", ["rerun:1", "vary:1:1", "remove:1"])


async def start_again(stage: Stage, change: Any) -> None:
    """Stop the bot, let `change` be done to the data folder, and start it again."""
    await stage.bot.close()
    change()
    await stage.env.restart_bot(create_bot(stage.settings, make_engine=stage.make_engine))


def as_before_tokens(stage: Stage, message_id: int) -> None:
    """Give a message the buttons that the first version put below it."""
    stored = stage.env.backend.messages[stage.channel.id][message_id]
    for part in walk_components(stored.components):
        if "custom_id" in part:
            part["custom_id"] = re.sub(r":[0-9a-f]+\.", ":", part["custom_id"])
    assert buttons(stage.look(message_id)) == button_actions(stage.look(message_id))


async def is_refused(stage: Stage, message_id: int, button: str) -> bool:
    result = await stage.alice.click(stage.look(message_id), custom_id=button)
    told = result.followups[0] if result.followups else result.response
    assert told.ephemeral
    return str(told.content) == UNKNOWN


@EVERY_BUTTON
async def test_a_button_from_before_a_new_database_does_nothing(stage: Stage, button: str) -> None:
    old = await stage.imagine("rabbit face")
    await start_again(stage, lambda: shutil.rmtree(stage.settings.data))
    new = await stage.imagine("pizza")
    assert button_actions(old) == button_actions(new)
    assert await is_refused(stage, old.id, button)
    assert [message.id for message in stage.messages()] == [old.id, new.id]
    assert await stage.bot.service.jobs.get(2) is None
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    assert (job.status, job.deleted) == (JobStatus.DELIVERED, False)


@pytest.mark.parametrize("button", ["rerun:2", "vary:2:1", "remove:2"])
async def test_a_button_of_a_job_that_a_backup_did_not_have_does_nothing_after_its_restoring(
    stage: Stage, tmp_path: Path, button: str
) -> None:
    kept = await stage.imagine("rabbit face")
    await start_again(stage, lambda: shutil.copytree(stage.settings.data, tmp_path / "backup"))
    lost = await stage.imagine("red apple")

    def restore() -> None:
        shutil.rmtree(stage.settings.data)
        shutil.copytree(tmp_path / "backup", stage.settings.data)

    await start_again(stage, restore)
    new = await stage.imagine("pizza")
    assert button_actions(lost) == button_actions(new)
    assert await is_refused(stage, lost.id, button)
    assert [message.id for message in stage.messages()] == [kept.id, lost.id, new.id]
    assert await stage.bot.service.jobs.get(3) is None
    assert (await stage.alice.click(stage.look(kept.id), custom_id="rerun:1")).acknowledged
    assert await stage.eventually(lambda: stage.bot.service.jobs.get(3))


@EVERY_BUTTON
async def test_a_button_of_the_first_version_works_below_its_own_job(
    stage: Stage, button: str
) -> None:
    message = await stage.imagine("rabbit face")
    as_before_tokens(stage, message.id)
    assert not await says_unknown(stage, message.id, button)


async def test_the_cross_of_the_first_version_deletes_after_the_question(stage: Stage) -> None:
    message = await stage.imagine("rabbit face")
    as_before_tokens(stage, message.id)
    await stage.remove(stage.alice, stage.look(message.id))
    await stage.until(lambda: not stage.messages())


async def says_unknown(stage: Stage, message_id: int, button: str) -> bool:
    result = await stage.alice.click(stage.look(message_id), custom_id=button)
    assert result.acknowledged
    told = [*result.followups, *([result.response] if result.response else [])]
    return any(answer.content == UNKNOWN for answer in told)


@EVERY_BUTTON
async def test_a_button_of_the_first_version_does_nothing_below_another_message(
    stage: Stage, button: str
) -> None:
    old = await stage.imagine("rabbit face")
    as_before_tokens(stage, old.id)
    await start_again(stage, lambda: shutil.rmtree(stage.settings.data))
    new = await stage.imagine("pizza")
    assert await is_refused(stage, old.id, button)
    assert [message.id for message in stage.messages()] == [old.id, new.id]
    assert await stage.bot.service.jobs.get(2) is None


async def test_a_button_below_a_copy_of_the_message_elsewhere_does_nothing(stage: Stage) -> None:
    # As of a second bot that runs on a copy of the folder: the token is the same.
    message = await stage.imagine("rabbit face")
    await stage.bot.service.jobs.set_message(1, message.id + 1)
    assert await is_refused(stage, message.id, "remove:1")
    assert pictures(stage.look(message.id))


async def test_a_picture_s_file_names_its_job_as_no_other_database_does(stage: Stage) -> None:
    async def origin(number: int) -> str | None:
        message = stage.messages()[number]
        return read_origin(await message.attachments[1].read())

    await stage.imagine("rabbit face", seed=1, count=2)
    job = await stage.bot.service.jobs.record(1)
    assert job is not None
    assert await origin(0) == f"{job.token}.1-2"
    await start_again(stage, lambda: shutil.rmtree(stage.settings.data))
    await stage.imagine("rabbit face", seed=1, count=2)
    assert (await origin(1) or "").endswith(".1-2")
    assert await origin(1) != await origin(0)


def test_custom_ids_are_no_longer_than_discord_takes() -> None:
    job = dataclasses.replace(JOB, id=10**18, token="f" * 12)
    ids = [getattr(item, "custom_id", "") for item in finished_view(job, [1, 2, 3, 4]).children]
    assert len(ids) == 6
    assert all(0 < len(custom_id) <= 100 for custom_id in ids)
