"""The installed bot behind a line on which answers go astray: nothing that it made is lost."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from .rig import Discord
from .running import WITH_PICTURES, finished, imagine_bot

MESSAGE = "/channels/*/messages/*"
# Status, code: None as a code is a proxy's web page, None as a status a cut line.
STRAY = ((404, 0), (404, None), (403, None), (408, None), (200, None), (413, None), (None, 0))


def rows(data: Path) -> list[tuple[str, int]]:
    db = sqlite3.connect(f"file:{data}/imagine-bot.db?mode=ro", uri=True)
    try:
        return db.execute("SELECT status, deleted FROM jobs ORDER BY id").fetchall()
    finally:
        db.close()


async def test_no_answer_that_is_not_discord_s_own_costs_a_picture(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with Discord.start() as discord, imagine_bot(discord, data, steps=2) as bot:
        await bot.ready()
        # The first edit of all is one of progress.
        progress = discord.fault("PATCH", MESSAGE, status=404)
        faults = [
            discord.fault("PATCH", MESSAGE, status=status, code=code, containing=WITH_PICTURES)
            for status, code in STRAY[:4]
        ]
        asked = [await discord.slash("imagine", prompt=f"rabbit {n}") for n in range(3)]
        faults += [
            discord.fault("PATCH", MESSAGE, status=status, code=code, containing=WITH_PICTURES)
            for status, code in STRAY[4:]
        ]
        await discord.until(
            lambda: all(one.message and finished(one.message) for one in asked),
            within=60,
            what="all pictures",
        )
        assert progress.hits == 1
        assert [fault.hits for fault in faults] == [1] * len(STRAY)
        assert len(discord.messages()) == 3
        await discord.until(
            lambda: rows(data) == [("delivered", 0)] * 3, within=10, what="their records"
        )

        discord.fault("PATCH", MESSAGE, status=400, code=20009, containing=WITH_PICTURES)
        blocked = await discord.slash("imagine", prompt="owl")
        await discord.until(
            lambda: blocked.message and "explicit content" in blocked.message.content,
            within=60,
            what="a reason",
        )
        await discord.until(lambda: rows(data)[-1] == ("failed", 0), within=10, what="its record")
        shown = await discord.slash("history", search="owl")
        await discord.until(lambda: "owl" in (shown.text or ""), within=10, what="the history")
        assert shown.ephemeral
        assert len(list(data.rglob("*.png"))) == 4
