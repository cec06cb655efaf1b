"""Messages that are deleted while their jobs are under way."""

from __future__ import annotations

from storage.states import JobStatus

from ..stage import GatedEngine, Stage


async def test_a_message_deleted_while_its_job_runs_stops_nothing_else(
    stage: Stage, gate: GatedEngine
) -> None:
    gate.shut()
    doomed = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    other = await stage.alice.slash(stage.channel, "imagine", prompt="cat face")
    await stage.mo.delete(stage.look(doomed.response.id))
    gate.open()
    assert (await stage.finished(other.response.id)).attachments
    assert len(stage.messages()) == 1
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    assert job.status is JobStatus.CANCELLED
    assert await stage.bot.service.jobs.unreported_cancellations() == []


async def test_pictures_whose_message_was_deleted_are_kept_nowhere(
    stage: Stage, gate: GatedEngine
) -> None:
    # Nothing is shown between, so it is only found when the pictures are there.
    stage.bot.courier._progress.show = lambda *_: None  # type: ignore[method-assign]
    gate.shut()
    doomed = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face")
    await stage.mo.delete(stage.look(doomed.response.id))
    gate.open()
    await stage.until(lambda: not stage.bot.service._under_way)
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    assert job.deleted
    image = await stage.bot.service.jobs.image(1, 1)
    assert image is None or image.deleted
    assert not list((stage.settings.data / "pictures").rglob("*.png"))
    assert await stage.bot.service.jobs.deleted_with_message() == []
    denied = await stage.alice.slash(stage.channel, "vary", image="1-1")
    assert denied.response.content.startswith("There is no picture 1-1")


async def test_a_job_whose_message_was_deleted_is_not_made_to_its_end(
    stage: Stage, gate: GatedEngine
) -> None:
    gate.shut()
    doomed = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face", steps=150)
    await stage.mo.delete(stage.look(doomed.response.id))
    gate.open()
    await stage.until(lambda: not stage.bot.service._under_way)
    job = await stage.bot.service.jobs.get(1)
    assert job is not None
    assert job.status is JobStatus.CANCELLED
    assert await stage.bot.service.jobs.images(1) == []
    assert await stage.bot.service.jobs.unreported_cancellations() == []
