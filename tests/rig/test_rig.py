"""The rig itself: a bot in another process meets a Discord that behaves as the real one."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import discord as dpy
import pytest
from PIL import Image

from . import BotExited, BotProcess, Discord, MessageView, NeverHappened, NotSimulated, NotThere
from .sample_bot import picture

ROOT = Path(__file__).parents[2]
SAMPLE = [sys.executable, "-m", "tests.rig.sample_bot"]


@pytest.fixture
async def discord() -> AsyncIterator[Discord]:
    async with Discord.start() as running:
        yield running


@pytest.fixture
async def bot(discord: Discord) -> AsyncIterator[BotProcess]:
    async with BotProcess(SAMPLE, discord, cwd=ROOT) as process:
        await process.ready()
        yield process


async def drawn(discord: Discord, prompt: str = "rabbit", **options: Any) -> MessageView:
    """Ask for a square and wait until it and the bot's reaction are there."""
    asked = await discord.slash("draw", prompt=prompt, **options)
    done = await discord.until(
        lambda: asked.message and asked.message.reactions and asked.message, what="a square"
    )
    assert done
    return done


@pytest.mark.usefixtures("bot")
async def test_a_command_is_answered_and_its_message_later_becomes_a_picture(
    discord: Discord,
) -> None:
    assert discord.commands() == ["draw", "info", "post", "recent", "writeme"]
    message = await drawn(discord, steps=30)

    assert message.content == "rabbit oil 30"
    assert message.asked_by == "alice"
    assert message.edited
    assert [button.names for button in message.buttons] == [
        ("again", "🔄"),
        ("edit", "Edit"),
        ("whisper", "Whisper"),
    ]
    [file] = message.attachments
    assert (file.name, file.content_type, file.data) == ("square.png", "image/png", picture("red"))
    assert file.description == "rabbit oil 30"
    assert message.reactions == {"⭐": ("TestBot",)}
    edits = discord.asked("PATCH", "/channels/*/messages/*")
    assert [edit.status for edit in edits] == [200, 200]
    assert edits[0].json["content"] == "half of rabbit oil 30"
    assert edits[0].at < edits[1].at


@pytest.mark.usefixtures("bot")
async def test_an_attached_picture_is_downloaded_and_known_by_its_size(discord: Discord) -> None:
    out = io.BytesIO()
    Image.new("RGB", (24, 16)).save(out, "PNG")
    message = await drawn(discord, image=("a source.png", out.getvalue()))

    assert message.content == f"rabbit oil 20 from {len(out.getvalue())} bytes 24x16"
    assert [seen.status for seen in discord.asked("GET", "/cdn/*")] == [200]


@pytest.mark.usefixtures("bot")
async def test_buttons_answer_to_anyone_who_presses_them(discord: Discord) -> None:
    message = await drawn(discord)
    again = await (await discord.click(message, "🔄", who="bob")).answered()
    assert again.message
    assert (again.message.content, again.ephemeral) == ("again!", False)

    whisper = await discord.click(message, "Whisper", who="bob")
    await discord.until(lambda: whisper.text == "only for you", what="a whisper")
    assert whisper.ephemeral
    assert "only for you" not in [seen.content for seen in discord.messages()]
    assert "only for you" in [seen.content for seen in discord.messages(seen_by="bob")]
    assert "only for you" not in [seen.content for seen in discord.messages(seen_by="alice")]
    with pytest.raises(NotThere, match=r"button 'Upscale'.*'Whisper'"):
        await discord.click(message, "Upscale")


@pytest.mark.usefixtures("bot")
async def test_a_form_keeps_what_one_does_not_change(discord: Discord) -> None:
    message = await drawn(discord)
    shown = await (await discord.click(message, "Edit")).answered()
    assert shown.kind == "modal"
    sent = await (await discord.submit_modal(shown, {"Extra": "in the snow"})).answered()
    assert sent.text == "edited: rabbit oil 20 in the snow"

    shown = await (await discord.click(message, "edit")).answered()
    with pytest.raises(NotThere, match="field 'Seed'"):
        await discord.submit_modal(shown, {"Seed": "7"})


@pytest.mark.usefixtures("bot")
async def test_choices_come_while_one_types(discord: Discord) -> None:
    choices = await discord.autocomplete("draw", "style", "o", prompt="rabbit")
    assert [choice["value"] for choice in choices] == ["oil", "watercolour"]


@pytest.mark.usefixtures("bot")
async def test_reactions_reach_the_bot_and_its_reply_pings_nobody(discord: Discord) -> None:
    message = await drawn(discord)
    await discord.react(message, "🔁", who="bob")
    await discord.unreact(message, "🔁", who="bob")
    await discord.until(lambda: len(discord.messages()) == 3, what="two notes")

    bob = discord.member("bob").id
    notes = [note.content for note in discord.messages()[1:]]
    assert sorted(notes) == [f"added 🔁 by <@{bob}>", f"removed 🔁 by <@{bob}>"]
    assert [note.pinged for note in discord.messages()] == [(), (), ()]
    assert discord.look(message).reactions == {"⭐": ("TestBot",)}


@pytest.mark.usefixtures("bot")
async def test_history_tells_who_asked_what_hangs_on_it_and_whose_reactions(
    discord: Discord,
) -> None:
    first = await discord.say("first")
    await drawn(discord, "hare")
    await discord.say("words of others need a privileged intent")
    await discord.say("too late")
    asked = await (await discord.slash("recent", after=str(first.id), limit=2)).answered()
    assert asked.text == "hare oil 20/alice/1/⭐/1\n/-/0//0"


@pytest.mark.usefixtures("bot")
async def test_an_enforced_nonce_posts_once(discord: Discord) -> None:
    asked = await discord.slash("post", text="only one")
    await discord.until(lambda: asked.text, what="a report")
    assert asked.text == "same: True, fetched: only one"
    assert [seen.content for seen in discord.messages()] == ["only one"]
    assert len(discord.asked("POST", "/channels/*/messages")) == 3

    discord.age(300)
    asked = await discord.slash("post", text="much later")
    await discord.until(lambda: asked.text, what="a report")
    assert [seen.content for seen in discord.messages()] == ["only one", "much later"]


@pytest.mark.usefixtures("bot")
async def test_the_bot_writes_to_a_person_and_is_asked_there(discord: Discord) -> None:
    await (await discord.slash("writeme")).answered()
    [hello] = discord.direct_messages("alice")
    assert (hello.content, hello.attachments[0].data) == ("hello", picture("blue"))

    assert (await (await discord.slash("info")).answered()).text == "TestBot True guild"
    assert (await (await discord.slash_alone("info")).answered()).text.endswith("alone")


@pytest.mark.usefixtures("bot")
async def test_after_a_cut_the_session_goes_on_and_nothing_is_lost(discord: Discord) -> None:
    assert discord.drop_sockets() == 1
    asked = await discord.slash("info")
    await asked.answered()
    assert (discord.gateway.identified, discord.gateway.resumed) == (1, 1)

    discord.drop_sockets(resumable=False)
    await discord.until(lambda: discord.gateway.identified == 2, what="a new session")
    assert discord.gateway.refused == 1


@pytest.mark.usefixtures("bot")
async def test_a_rate_limit_is_waited_out_and_a_server_error_tried_again(discord: Discord) -> None:
    limit = discord.fault("PATCH", "/channels/*/messages/*", status=429, times=2, retry_after=0.3)
    broken = discord.fault("PUT", "*/reactions/*", status=500)
    await drawn(discord)

    edits = discord.asked("PATCH", "/channels/*/messages/*")
    assert [edit.status for edit in edits] == [429, 429, 200, 200]
    assert edits[2].at - edits[0].at > 0.55
    assert [added.status for added in discord.asked("PUT", "*/reactions/*")] == [500, 204]
    assert (limit.hits, broken.hits) == (2, 1)


@pytest.mark.usefixtures("bot")
async def test_trouble_may_befall_only_requests_with_certain_words(discord: Discord) -> None:
    broken = discord.fault("PATCH", "/channels/*/messages/*", containing='"attachments"')
    await drawn(discord)
    edits = discord.asked("PATCH", "/channels/*/messages/*")
    assert [edit.status for edit in edits] == [200, 500, 200]
    assert broken.hits == 1


@pytest.mark.usefixtures("bot")
async def test_an_answer_that_is_lost_had_its_effect(discord: Discord) -> None:
    message = await drawn(discord)
    discord.fault("POST", "/channels/*/messages", status=None, carried_out=True)
    await discord.react(message, "🔁")
    await discord.until(lambda: discord.asked("POST", "/channels/*/messages"), what="a note")
    assert [seen.status for seen in discord.asked("POST", "/channels/*/messages")] == [0]
    assert len(discord.messages()) == 2


@pytest.mark.parametrize("carried_out", [False, True])
async def test_a_bot_killed_in_the_middle_of_a_request_starts_again_in_the_same_world(
    discord: Discord, bot: BotProcess, carried_out: bool
) -> None:
    hold = discord.hold("PATCH", "/channels/*/messages/*", carried_out=carried_out)
    asked = await discord.slash("draw", prompt="rabbit")
    await hold.reached()
    bot.kill()
    assert await bot.wait() == -signal.SIGKILL
    hold.release()
    await discord.until(lambda: discord.asked("PATCH", "/channels/*/messages/*"), what="an end")
    assert asked.message
    assert asked.message.content == ("half of rabbit oil 20" if carried_out else "drawing")

    await discord.slash("info")
    await bot.start()
    await bot.ready()
    assert discord.gateway.identified == 2
    message = await drawn(discord, "hare")
    assert [seen.content for seen in discord.messages()][-1] == message.content
    assert len(discord.messages()) == 2


async def test_sigterm_lets_the_bot_close_in_order(discord: Discord, bot: BotProcess) -> None:
    bot.terminate()
    assert await bot.wait() == 0
    assert "closed in order" in bot.output
    assert not bot.running


async def test_a_wrong_token_is_refused(discord: Discord) -> None:
    async with BotProcess(SAMPLE, discord, cwd=ROOT, env={"DISCORD_TOKEN": "stolen"}) as bot:
        assert await bot.wait() == 1
        assert "discord.errors.LoginFailure" in bot.output


async def test_an_unexpected_end_of_the_bot_ends_every_wait(discord: Discord) -> None:
    async with BotProcess([sys.executable, "-c", "exit(3)"], discord) as bot:
        with pytest.raises(BotExited, match="exit code 3"):
            await bot.ready()


async def test_privileged_intents_need_approval(discord: Discord) -> None:
    env = {"SAMPLE_INTENTS": "members"}
    async with BotProcess(SAMPLE, discord, cwd=ROOT, env=env) as bot:
        assert await bot.wait() == 1
        assert "PrivilegedIntentsRequired" in bot.output


async def test_an_interaction_token_dies_after_a_quarter_of_an_hour(
    discord: Discord, bot: BotProcess
) -> None:
    hold = discord.hold("POST", "/webhooks/*")
    await discord.slash("post", text="slow")
    await hold.reached()
    discord.age(901)
    hold.release()
    await discord.until(lambda: discord.asked("POST", "/webhooks/*"), what="the answer")
    assert [seen.status for seen in discord.asked("POST", "/webhooks/*")] == [404]


UNSIMULATED = """
import asyncio, discord, os

async def main():
    async with discord.Client(intents=discord.Intents.none()) as client:
        await client.login(os.environ["DISCORD_TOKEN"])
        await client.http.request(discord.http.Route("GET", "/guilds/1/welcome-screen"))

asyncio.run(main())
"""


async def test_what_is_not_simulated_fails_the_test() -> None:
    running = Discord.start()
    discord = await running.__aenter__()
    async with BotProcess([sys.executable, "-c", UNSIMULATED], discord) as bot:
        assert await bot.wait() == 1
    with pytest.raises(NotSimulated, match="GET /guilds/1/welcome-screen"):
        await running.__aexit__(None, None, None)


async def test_without_discord_py_the_redirection_loads_none_of_it(discord: Discord) -> None:
    script = "import sys; print('discord' in sys.modules, 'yarl' in sys.modules)"
    async with BotProcess([sys.executable, "-c", script], discord) as bot:
        assert await bot.wait() == 0
        assert bot.output.strip() == "False False"


async def test_another_sitecustomize_still_runs(discord: Discord, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('the other one')\n")
    async with BotProcess([sys.executable, "-c", ""], discord) as plain:
        path = plain.env["PYTHONPATH"]
        assert await plain.wait() == 0
    env = {"PYTHONPATH": f"{path}:{tmp_path}"}
    async with BotProcess([sys.executable, "-c", ""], discord, env=env) as bot:
        assert await bot.wait() == 0
        assert "the other one" in bot.output


async def test_requests_that_discord_refuses_are_refused(discord: Discord) -> None:
    messages = f"{discord.url}/api/v10/channels/{discord.channel.id}/messages"
    form = aiohttp.FormData({"payload_json": "{}"}, quote_fields=False)
    form.add_field("files[0]", io.BytesIO(bytes(10 * 2**20 + 1)), filename="huge.png")
    async with aiohttp.ClientSession() as client:
        async with client.post(messages, json={"content": "let me in"}) as refused:
            assert refused.status == 401
        client.headers["Authorization"] = f"Bot {discord.token}"
        async with client.post(messages, data=form) as refused:
            assert (refused.status, (await refused.json())["code"]) == (413, 40005)
        async with client.post(messages, json={"content": ""}) as refused:
            assert (refused.status, (await refused.json())["code"]) == (400, 50035)
        async with client.get(f"{discord.url}/cdn/attachments/1/2/gone.png") as refused:
            assert refused.status == 404
    assert discord.messages() == []


async def test_permissions_come_with_the_person(discord: Discord) -> None:
    discord.join("carol", dpy.Permissions(manage_messages=True))
    said = await discord.say("something rude")
    await discord.delete(said, who="carol")
    assert discord.messages() == []
    with pytest.raises(NotThere, match=r"member 'dave'.*'carol'"):
        discord.member("dave")


async def test_what_never_happens_is_reported_with_its_name(discord: Discord) -> None:
    with pytest.raises(NeverHappened, match=r"the flood did not happen within 0\.05 s"):
        await discord.until(discord.messages, within=0.05, what="the flood")
