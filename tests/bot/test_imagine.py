from __future__ import annotations

from .stage import Stage, buttons


async def test_a_prompt_is_answered_with_its_picture(stage: Stage) -> None:
    result = await stage.alice.slash(stage.channel, "imagine", prompt="rabbit face", seed=7)
    assert result.acknowledged
    message = await stage.finished(result.response.id)
    assert "rabbit face" in message.content
    assert "seed 7" in message.content
    assert buttons(message) == ["rerun:1", "vary:1:1", "remove:1"]
