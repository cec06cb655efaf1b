from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from discord.http import HTTPClient

from bot.delivery import finding
from bot.delivery.courier import DiscordCourier
from generation.images.png import read_png
from generation.values.request import GenerationRequest
from storage.states import JobStatus

from ...storage.inspection import counts
from ..stage import GatedEngine, Stage, pictures


async def _none(asking: Awaitable[Sequence[Any]]) -> bool:
    return not await asking


async def test_unfinished_jobs_are_finished_after_a_restart_in_their_own_messages(
    stage: Stage, gate: GatedEngine
) -> None:
    gate.shut()
    results = [
        await stage.alice.slash(stage.channel, "imagine", prompt=prompt, seed=seed)
        for seed, prompt in enumerate(("rabbit face", "cat face", "dog face"))
    ]
    await stage.until(lambda: " 0 %" in stage.look(results[0].response.id).content)
    closing = stage.restart()
    gate.open()
    await closing
    for seed, result in enumerate(results):
        message = await stage.finished(result.response.id)
        assert read_png(await message.attachments[0].read())[1].seed == seed
    assert len(stage.messages()) == 3


async def test_a_job_whose_message_was_never_recorded_is_not_answered_twice(
    stage: Stage, gate: GatedEngine
) -> None:
    gate.shut()
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    await stage.bot.service.jobs._db.run(
        lambda db: db.execute("UPDATE jobs SET message_id = NULL") and None
    )
    closing = stage.restart()
    gate.open()
    await closing
    assert (await stage.finished(result.response.id)).attachments
    assert len(stage.messages()) == 1


async def test_what_a_reaction_asked_for_is_found_where_many_have_written_since(
    stage: Stage, gate: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs_from = HTTPClient.logs_from

    async def as_discord_does(
        http: HTTPClient, channel: int, limit: int, before: Any = None, after: Any = None
    ) -> Sequence[Any]:
        # It gives the ones next to `after`, the simulated one the newest of them.
        found = await logs_from(http, channel, 100 if after else limit, before, after)
        return found[-limit:]

    monkeypatch.setattr(HTTPClient, "logs_from", as_discord_does)
    monkeypatch.setattr(finding, "_SEARCHED", 3)
    first = await stage.imagine("rabbit face")
    gate.shut()
    await stage.bob.react(first, "🔁")
    await stage.until(lambda: len(stage.messages()) == 2)
    answer = stage.messages()[1]
    await stage.until(lambda: " 0 %" in stage.look(answer.id).content)
    # The simulated Discord has its own time; a real one has almost ours.
    asked_at = (answer.created_at + timedelta(seconds=20)).isoformat()
    forget = "UPDATE jobs SET message_id = NULL, created_at = ? WHERE id = 2"
    await stage.bot.service.jobs._db.run(lambda db: db.execute(forget, (asked_at,)) and None)
    for number in range(5):
        await stage.alice.send(stage.channel, f"Look at this, part {number}!")
    closing = stage.restart()
    gate.open()
    await closing
    assert (await stage.finished(answer.id)).attachments
    assert len(stage.messages()) == 2 + 5


async def test_generated_pictures_are_delivered_without_being_made_again(
    stage: Stage, gate: GatedEngine
) -> None:
    stage.env.inject_error("PATCH", "/channels/*/messages/*", status=500, times=None)
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    jobs = stage.bot.service.jobs

    async def status() -> JobStatus:
        job = await jobs.get(1)
        assert job is not None
        return job.status

    while await status() is not JobStatus.GENERATED:
        await stage.env.settle()
    for task in list(stage.bot.service._background._tasks):
        task.cancel()
    gate.shut()
    await stage.restart()
    stage.env.backend.faults.clear()
    assert (await stage.finished(result.response.id)).attachments


async def test_a_job_that_was_cancelled_just_before_a_crash_says_so_after_the_restart(
    stage: Stage, gate: GatedEngine
) -> None:
    gate.shut()
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    message_id = result.response.id
    await stage.until(lambda: " 0 %" in stage.look(message_id).content)
    stage.env.inject_error("PATCH", "/channels/*/messages/*", status=500, times=None)
    await stage.alice.click(stage.look(message_id), custom_id="remove:1")
    gate.open()
    jobs = stage.bot.service.jobs
    while [job.id for job in await jobs.unreported_cancellations()] != [1]:
        await stage.env.settle()
    for task in list(stage.bot.service._background._tasks):
        task.cancel()
    assert "cancelled" not in stage.look(message_id).content

    await stage.restart()
    stage.env.backend.faults.clear()
    await stage.until(lambda: "cancelled · job 1" in stage.look(message_id).content)
    assert not stage.look(message_id).attachments
    await stage.until(lambda: not stage.bot.service._under_way)
    assert await stage.bot.service.jobs.unreported_cancellations() == []
    assert await stage.bot.service.resume() == 0
    assert len(stage.messages()) == 1


async def test_the_jobs_of_a_weighted_member_keep_their_share_over_a_restart(
    stage: Stage, gate: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = stage.guild.create_role("Supporters")
    stage.bot.services.intake._role_weights = {role.id: 3.0}
    eve = stage.guild.add_member(stage.env.create_user("eve"), roles=[role])
    gate.shut()
    # Long enough to be there still when the bot is gone.
    await stage.mo.slash(stage.channel, "imagine", prompt="owl", seed=0, steps=100)
    for person, seeds in ((stage.bob, (1, 2, 3)), (eve, (11, 12, 13))):
        for seed in seeds:
            last = await person.slash(stage.channel, "imagine", prompt="owl", seed=seed)
    queue = stage.bot.service._queue
    closing = asyncio.ensure_future(stage.restart())
    # Or the first bot might begin the next job before it stops.
    await stage.until(lambda: queue._closed)
    begun: list[int] = []
    begin = gate.begin

    def noting(requests: Sequence[GenerationRequest]) -> Any:
        begun.extend(request.seed for request in requests)
        return begin(requests)

    monkeypatch.setattr(gate, "begin", noting)
    gate.open()
    await closing
    for message in stage.messages():
        await stage.finished(message.id)
    assert last.response is not None
    assert [seed for seed in begun if seed > 0] == [1, 11, 12, 13, 2, 3]


async def test_a_message_whose_removal_a_crash_came_upon_is_removed_after_the_restart(
    stage: Stage,
) -> None:
    message = await stage.imagine()
    stage.env.inject_error("DELETE", "/channels/*/messages/*", status=500, times=None)
    clicking = asyncio.ensure_future(stage.remove(stage.alice, message))
    await stage.eventually(stage.bot.service.jobs.deleted_with_message)
    assert stage.look(message.id)
    clicking.cancel()
    restarting = asyncio.ensure_future(stage.restart())
    await asyncio.wait([restarting, clicking])
    stage.env.backend.faults.clear()
    await stage.until(lambda: not stage.messages())
    jobs = stage.bot.service.jobs
    await stage.eventually(lambda: _none(jobs.deleted_with_message()))


async def test_a_job_whose_source_cannot_be_read_waits_for_the_start_after(
    stage: Stage, gate: GatedEngine
) -> None:
    first = await stage.imagine()
    gate.shut()
    await stage.alice.click(first, custom_id="vary:1:1")
    second = await stage.until(lambda: next((m for m in stage.messages() if m != first), None))
    (file,) = (stage.settings.data / "pictures").rglob("*.png")
    closing = stage.restart()
    gate.open()
    kept = file.rename(stage.settings.data / "kept.png")
    file.mkdir()
    await closing
    assert pictures(await stage.imagine("cat face"))
    assert not pictures(stage.look(second.id))
    assert "cannot" not in stage.look(second.id).content
    file.rmdir()
    kept.rename(file)
    await stage.restart()
    await stage.finished(second.id)


async def test_a_job_whose_source_is_lost_says_so_and_can_be_removed(
    stage: Stage, gate: GatedEngine
) -> None:
    first = await stage.imagine()
    gate.shut()
    await stage.alice.click(first, custom_id="vary:1:1")
    second = await stage.until(lambda: next((m for m in stage.messages() if m != first), None))
    closing = stage.restart()
    gate.open()
    # Its source is the picture of job 1.
    for file in (stage.settings.data / "pictures").rglob("*.png"):
        file.unlink()
    await closing
    await stage.until(lambda: "is missing" in stage.look(second.id).content)
    job = await stage.bot.service.jobs.record(2)
    assert job is not None
    await stage.until(lambda: not stage.bot.service._under_way)
    await stage.alice.click(stage.look(second.id), custom_id="remove:2")
    await stage.until(lambda: [m.id for m in stage.messages()] == [first.id])


async def test_a_job_that_is_delivered_while_those_from_before_are_read_stays_so(
    stage: Stage, gate: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.shut()
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    await stage.until(lambda: " 0 %" in stage.look(result.response.id).content)
    service, are_read = stage.bot.service, False
    retry, read = service._disk.retry, service.jobs.unfinished

    async def noting(*known: Any) -> Any:
        nonlocal are_read
        found = await read(*known)
        are_read |= asyncio.current_task() is resuming
        return found

    async def reading(ask: Any, **options: Any) -> Any:
        if asyncio.current_task() is not resuming:
            return await retry(ask, **options)
        if are_read:
            # As if the database were locked for a while after that answer.
            gate.open()
            await stage.until(lambda: not service._under_way)
        return await retry(ask, **options)

    monkeypatch.setattr(service.jobs, "unfinished", noting)
    monkeypatch.setattr(service._disk, "retry", reading)
    resuming = asyncio.current_task()
    assert await service.resume() == 0
    assert are_read
    gate.open()
    await stage.finished(result.response.id)
    await stage.until(lambda: not service._under_way)
    assert pictures(stage.look(result.response.id))


async def test_a_history_that_cannot_be_read_holds_no_job_up(
    stage: Stage, gate: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.shut()
    await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    await stage.bot.service.jobs._db.run(
        lambda db: db.execute("UPDATE jobs SET message_id = NULL") and None
    )

    async def broken(*_: Any) -> int:
        raise KeyError("components")

    monkeypatch.setattr(DiscordCourier, "find", broken)
    closing = stage.restart()
    gate.open()
    await closing
    await stage.eventually(lambda: _is_delivered(stage))


async def _is_delivered(stage: Stage) -> bool:
    return (await counts(stage.bot.service.jobs))[JobStatus.DELIVERED] == 1
