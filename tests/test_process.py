"""The installed bot as its own process, over real sockets, in a Discord that has bad days."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import discord
import pytest
import pytest_asyncio
from PIL import Image
from simcord.builders import ChannelHandle

from bot.cli.run import CONFIG_FAULT
from bot.config import Settings
from bot.requests.builder import RequestBuilder
from bot.requests.limits import OperatorLimits
from bot.requests.options import RequestOptions
from generation.models.locate import locate

from .rig import Asked, BotProcess, Discord, MessageView
from .running import WITH_PICTURES, Reference, finished, imagine_bot, reference, shown

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEPS = 2
PACE = 0.4
CALLBACK = "/interactions/*/callback"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[Discord]:
    async with Discord.start() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bot(
    world: Discord, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[BotProcess]:
    data = tmp_path_factory.mktemp("bot") / "data"
    async with imagine_bot(world, data, steps=STEPS, progress_seconds=PACE) as process:
        await process.ready()
        yield process


@pytest.fixture(scope="module")
def right() -> Iterator[Reference]:
    with reference() as making:
        yield making


@pytest.fixture(scope="module")
def builder() -> RequestBuilder:
    return RequestBuilder(
        OperatorLimits(Settings(steps=STEPS), locate("starter")), locate("starter")
    )


class Room:
    """A channel of the test's own, and what the bot does there."""

    def __init__(self, world: Discord, bot: BotProcess, channel: ChannelHandle) -> None:
        self.world = world
        self.bot = bot
        self.channel = channel
        self.path = f"/channels/{channel.id}/messages"

    async def ask(self, command: str = "imagine", **options: Any) -> Asked:
        if command == "imagine":
            options.setdefault("prompt", "rabbit face")
        return await self.world.slash(command, where=self.channel, **options)

    async def imagine(self, **options: Any) -> Asked:
        """Ask for pictures and wait for the answer, which Discord wants within three seconds."""
        return await (await self.ask(**options)).answered()

    def messages(self) -> list[MessageView]:
        return self.world.messages(self.channel)

    def with_pictures(self) -> list[MessageView]:
        return [message for message in self.messages() if finished(message)]

    async def pictured(self, count: int = 1) -> list[MessageView]:
        """Wait until so many messages have pictures; nothing else may stand in the channel."""
        await self.world.until(
            lambda: len(self.with_pictures()) == count, within=60, what=f"{count} answers"
        )
        # A doubled answer could still be under way: another job's comes after it.
        assert self.messages() == self.with_pictures()
        return self.messages()

    async def shows(self, words: str) -> MessageView:
        return await self.world.until(
            lambda: next((m for m in self.messages() if words in m.content), None),
            within=60,
            what=f"{words!r} in the channel",
        )


@pytest.fixture
def room(world: Discord, bot: BotProcess, request: pytest.FixtureRequest) -> Room:
    name = request.node.name.replace("_", "-")[:90]
    return Room(world, bot, world.guild.create_text_channel(name))


async def test_a_prompt_is_acknowledged_in_time_and_answered_with_the_pictures_of_its_seed(
    room: Room, right: Reference, builder: RequestBuilder
) -> None:
    asked = await room.imagine(prompt="red apple", seed=4_294_967_295, count=2)
    assert asked.kind == "message"
    assert asked.message
    assert asked.message.content.startswith("**red apple** — <@")

    [message] = await room.pictured()
    assert message.id == asked.message.id
    wanted = builder.imagine(
        RequestOptions(prompt="red apple", seed=4_294_967_295, count=2), guild_id=None
    )
    assert [shown(file) for file in message.attachments] == right.pictures(wanted)
    assert "seeds 4294967295 to 0" in message.content
    assert message.pinged == ()


async def test_an_attached_picture_is_fetched_and_varied(
    room: Room, right: Reference, builder: RequestBuilder
) -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    file = io.BytesIO()
    picture.save(file, "PNG")
    asked = await room.ask(
        "vary", attachment=("sunset.png", file.getvalue()), prompt="pizza", strength=0.8, seed=5
    )
    await asked.answered()

    [message] = await room.pictured()
    wanted = builder.similar(
        picture, RequestOptions(prompt="pizza", strength=0.8, seed=5), guild_id=None
    )
    assert [shown(file) for file in message.attachments] == right.pictures(wanted)
    assert [seen.status for seen in room.world.asked("GET", "/cdn/*/sunset.png")] == [200]


async def test_buttons_order_more_and_take_away(room: Room) -> None:
    await room.imagine()
    [first] = await room.pictured()
    again = await (await room.world.click(first, "🔁", who="bob")).answered()
    vary = await (await room.world.click(first, "🎲", who="bob")).answered()
    assert again.message
    assert vary.message
    assert len(await room.pictured(3)) == 3

    refused = await (await room.world.click(again.message, "❌")).answered()
    await room.world.until(lambda: refused.followups, what="the refusal")
    [told] = refused.followups
    assert told.ephemeral
    assert told.content.startswith("Only the person who asked for this picture or a moderator")
    asked = await room.world.click(again.message, "❌", who="bob")
    await room.world.until(lambda: asked.followups, what="the question")
    [question] = asked.followups
    assert question.content == "Delete 1 picture?"
    assert again.message
    await room.world.click(question, "Delete", who="bob")
    await room.world.until(lambda: again.message is None, what="the removal")
    assert [message.id for message in room.messages()] == [first.id, vary.message.id]


async def test_a_cut_connection_is_resumed_while_a_job_runs(room: Room) -> None:
    before = room.world.gateway.resumed
    await room.imagine(steps=20)
    await room.shows(" %")
    assert room.world.drop_sockets() == 1
    late = await room.ask(prompt="asked while nobody listened")
    await room.world.until(lambda: late.acknowledged, what="an answer")

    assert len(await room.pictured(2)) == 2
    assert room.world.gateway.resumed == before + 1


async def test_progress_is_shown_no_faster_than_discord_allows(room: Room) -> None:
    for _ in range(2):
        await room.imagine(steps=12, count=2)
    await room.pictured(2)

    edits = room.world.asked("PATCH", f"{room.path}/*")
    progress = [edit for edit in edits if WITH_PICTURES not in str(edit.json).replace("'", '"')]
    percents = [int(n) for edit in progress for n in re.findall(r"(\d+) %", edit.json["content"])]
    assert len(progress) >= 3
    assert percents
    gaps = [after.at - before.at for before, after in itertools.pairwise(progress)]
    # Taken where they arrive, after a way of varying length.
    assert min(gaps) > PACE / 2
    assert sum(gaps) >= PACE * (len(gaps) - 1)
    # Discord takes five edits in five seconds, of which the pictures themselves need some.
    assert Settings().progress_seconds >= 1.5


async def test_rate_limits_are_waited_out(room: Room) -> None:
    callback = room.world.fault("POST", CALLBACK, status=429, retry_after=0.2)
    edit = room.world.fault(
        "PATCH", f"{room.path}/*", status=429, times=2, retry_after=0.3, containing=WITH_PICTURES
    )
    await room.imagine()
    await room.pictured()
    assert (callback.hits, edit.hits) == (1, 2)


@pytest.mark.parametrize("carried_out", [False, True])
async def test_a_server_error_at_the_answer_leaves_one_message(
    room: Room, carried_out: bool
) -> None:
    fault = room.world.fault("POST", CALLBACK, status=500, carried_out=carried_out)
    asked = await room.ask()
    [message] = await room.pictured()
    assert fault.hits == 1
    assert asked.message
    assert asked.message.id == message.id
    assert asked.followups == []


@pytest.mark.parametrize("carried_out", [False, True])
async def test_a_line_that_is_cut_at_the_answer_leaves_one_message(
    room: Room, carried_out: bool
) -> None:
    room.world.fault("POST", CALLBACK, status=None, carried_out=carried_out)
    asked = await room.ask()
    [message] = await room.pictured()
    assert asked.acknowledged is carried_out
    assert (asked.message is not None and asked.message.id == message.id) is carried_out
    assert asked.followups == []


async def test_an_interaction_that_discord_no_longer_knows_still_gets_its_pictures(
    room: Room,
) -> None:
    room.world.fault("POST", CALLBACK, status=404)
    asked = await room.ask()
    [message] = await room.pictured()
    assert not asked.acknowledged
    assert f"<@{room.world.member('alice').id}>" in message.content


async def test_a_token_that_dies_while_the_bot_thinks_does_not_cost_the_pictures(
    room: Room,
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, "PNG")
    slow = room.world.hold("GET", "/cdn/*")
    room.world.fault("PATCH", "/webhooks/*", status=401)
    asked = await room.ask("vary", attachment=("sea.png", file.getvalue()), prompt="pizza")
    await slow.reached()
    await asked.answered()
    assert asked.kind == "deferred"
    slow.release()

    await room.world.until(room.with_pictures, within=60, what="pictures")
    [message] = room.with_pictures()
    assert asked.message
    assert message.id != asked.message.id


@pytest.mark.parametrize("status", [500, None])
async def test_a_reply_whose_answer_is_lost_is_not_posted_twice(
    room: Room, status: int | None
) -> None:
    await room.imagine()
    [first] = await room.pictured()
    fault = room.world.fault("POST", room.path, status=status, carried_out=True)
    await room.world.react(first, "🔁", who="bob")
    assert len(await room.pictured(2)) == 2
    assert fault.hits == 1


async def test_a_lost_reply_is_not_posted_twice_where_the_history_may_not_be_read(
    room: Room,
) -> None:
    await room.imagine()
    [first] = await room.pictured()
    hidden = room.world.fault("GET", room.path, status=403, code=50013, times=100)
    room.world.fault("POST", room.path, status=None, carried_out=True)
    await room.world.react(first, "🔁", who="bob")
    assert len(await room.pictured(2)) == 2
    assert hidden.hits > 0


async def test_pictures_arrive_although_discord_is_down_for_a_while(room: Room) -> None:
    path = f"{room.path}/*"
    cut = room.world.fault("PATCH", path, status=None, containing=WITH_PICTURES)
    down = room.world.fault("PATCH", path, status=503, containing=WITH_PICTURES)
    # discord.py itself repeats after this one.
    hiccup = room.world.fault("PATCH", path, status=500, containing=WITH_PICTURES)
    await room.imagine()
    await room.pictured()
    assert (cut.hits, down.hits, hiccup.hits) == (1, 1, 1)


async def test_a_message_that_somebody_deletes_takes_its_job_with_it(room: Room) -> None:
    asked = await room.imagine(steps=10)
    assert asked.message
    room.world.join("mo", discord.Permissions(manage_messages=True))
    await room.world.delete(asked.message, who="mo")
    await room.imagine(prompt="red apple")
    [message] = await room.pictured()
    assert "red apple" in message.content


async def test_refused_pictures_are_explained_in_their_message(room: Room) -> None:
    path = f"{room.path}/*"
    room.world.fault("PATCH", path, status=403, code=50013, containing=WITH_PICTURES)
    await room.imagine()
    message = await room.shows("View Channel and Attach Files")
    assert message.button("🔁")

    room.world.fault("PATCH", path, status=403, code=50013, times=100)
    await room.imagine(prompt="pizza")
    other = Room(room.world, room.bot, room.world.channel)
    await other.imagine(prompt="the bot lives on")
    await other.shows("seed")


async def test_sigterm_ends_the_bot_soon_and_the_next_start_finishes_every_job_once(
    room: Room, right: Reference, builder: RequestBuilder
) -> None:
    await room.imagine()
    [old] = await room.pictured()
    await room.imagine(steps=60, seed=1)
    for seed in (2, 3):
        await room.imagine(seed=seed)
    await room.shows(" %")
    room.bot.terminate()
    assert await room.bot.wait(within=10) == 0
    # The short ones may have been there before the signal; the long one was not.
    early = room.with_pictures()
    assert early[0] == old
    assert len(early) < 4

    await room.bot.start()
    await room.bot.ready()
    # Nothing that the new process remembers: the messages are from before it was born.
    await room.world.react(old, "🔁", who="bob")
    await (await room.world.click(old, "🎲")).answered()
    finished = await room.pictured(6)
    orders = [(60, 1), (STEPS, 2), (STEPS, 3)]
    for message, (steps, seed) in zip(finished[1:4], orders, strict=True):
        wanted = builder.imagine(
            RequestOptions(prompt="rabbit face", seed=seed, steps=steps), guild_id=None
        )
        assert [shown(file) for file in message.attachments] == right.pictures(wanted)


async def test_a_token_that_is_reset_ends_the_bot_and_a_new_one_lets_it_go_on(room: Room) -> None:
    await room.imagine(steps=40)
    await room.shows(" %")
    room.world.reset_token()
    room.world.drop_sockets()
    assert await room.bot.wait(within=20) == CONFIG_FAULT
    assert "if the token was reset, set DISCORD_TOKEN to the new one" in room.bot.output
    assert "Traceback" not in room.bot.output

    room.bot.env["DISCORD_TOKEN"] = room.world.token
    await room.bot.start()
    await room.bot.ready()
    await room.pictured()
