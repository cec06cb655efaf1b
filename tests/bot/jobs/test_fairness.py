from __future__ import annotations

from ..stage import GatedEngine, Stage, pictures


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
    await stage.waits_at(bob, 1)
    await stage.waits_at(alice[1], 2)
    await stage.waits_at(alice[4], 5)
    gate.open()
    await stage.finished(bob)
    assert not pictures(stage.look(alice[4]))
    for message_id in alice:
        await stage.finished(message_id)


async def test_a_role_with_weight_is_served_more_often(stage: Stage, gate: GatedEngine) -> None:
    role = stage.guild.create_role("Supporters")
    stage.bot.services.intake._role_weights = {role.id: 3.0}
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
    await stage.waits_at(plain[0], 1)
    for place, message_id in enumerate(heavy, start=2):
        await stage.waits_at(message_id, place)
    await stage.waits_at(plain[2], 6)
