from __future__ import annotations

from .stage import GatedEngine, Stage, pictures


async def _many(stage: Stage, gate: GatedEngine) -> list[int]:
    """Have Alice queue five jobs and then Bob one; return their messages."""
    gate.shut()
    results = [
        await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face") for _ in range(5)
    ]
    results.append(await stage.bob.slash(stage.channel, "imagine", prompt="cat face"))
    return [result.response.id for result in results]


async def test_many_jobs_of_one_member_delay_another_s_first_by_one(
    stage: Stage, gate: GatedEngine
) -> None:
    *alice, bob = await _many(stage, gate)
    await stage.until(lambda: "next in the queue" in stage.look(bob).content)
    await stage.until(lambda: "place 2" in stage.look(alice[1]).content)
    await stage.until(lambda: "place 5" in stage.look(alice[4]).content)
    gate.open()
    await stage.finished(bob)
    assert not pictures(stage.look(alice[4]))
    for message_id in alice:
        await stage.finished(message_id)


async def test_a_role_with_weight_is_served_more_often(stage: Stage, gate: GatedEngine) -> None:
    role = stage.guild.create_role("Supporters")
    stage.bot.intake._settings = stage.settings.model_copy(update={"role_weights": {role.id: 3.0}})
    eve = stage.guild.add_member(stage.env.create_user("eve"), roles=[role])
    gate.shut()
    await stage.mo.slash(stage.channel, "imagine", prompt="owl")
    plain = [
        (await stage.bob.slash(stage.channel, "imagine", prompt="owl")).response.id
        for _ in range(3)
    ]
    heavy = [
        (await eve.slash(stage.channel, "imagine", prompt="owl")).response.id for _ in range(3)
    ]
    await stage.until(lambda: "next in the queue" in stage.look(plain[0]).content)
    for place, message_id in enumerate(heavy, start=2):
        await stage.until(lambda m=message_id, p=place: f"place {p}" in stage.look(m).content)
    await stage.until(lambda: "place 6" in stage.look(plain[2]).content)
