"""What a stranger wrote, on a terminal and in a log; and output that cannot be written."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import console
from bot.errors import ConfigError
from bot.terminal import SafeConsole, harmless, log_handler

IMAGINE_BOT = str(Path(sys.executable).with_name("imagine-bot"))
ESCAPES = "\x1b]0;PWNED\x07\x9b31m\u202eexe\u2066\u2028\r\x00"


@given(st.text())
def test_nothing_that_acts_on_a_terminal_is_left(text: str) -> None:
    shown = harmless(text, breaks=False)
    acting = {c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs"}}
    assert acting <= set("\u200c\u200d")
    assert not set("\n\r\u2028\u2029\x85") & set(shown)


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S"])))
def test_text_of_any_script_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text


def test_an_emoji_of_several_characters_stays_whole() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467\ufe0f"
    assert harmless(family, breaks=False) == family


@pytest.fixture
def log() -> tuple[logging.Logger, io.StringIO]:
    """A log as the commands write it, on a terminal with colours."""
    shown = io.StringIO()
    logger = logging.Logger("stranger")
    logger.addHandler(log_handler(SafeConsole(file=shown, no_color=True, width=500)))
    return logger, shown


def test_a_log_takes_no_escape_codes_no_markup_and_no_lines_from_a_stranger(
    log: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, shown = log
    logger.warning("Job of %s failed", f"[red]{ESCAPES}\nERROR  the disk is on fire")
    text = shown.getvalue()
    assert text.count("\n") == 1
    assert "[red]\\x1b]0;PWNED\\x07\\x9b31m\\u202eexe\\u2066\\u2028\\r\\x00\\nERROR" in text
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)


def test_a_traceback_in_the_log_keeps_its_lines_and_loses_its_escape_codes(
    log: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, shown = log
    try:
        raise ValueError(ESCAPES)
    except ValueError:
        logger.exception("That failed")
    assert shown.getvalue().count("\n") > 3
    assert "\\x1b]0;PWNED" in shown.getvalue()
    assert "\x1b" not in shown.getvalue()


def test_results_and_errors_show_what_would_act(capsys: pytest.CaptureFixture[str]) -> None:
    console.say(f"[bold]{ESCAPES}\nowl.png: the same")
    console.complain(ConfigError(f"one {ESCAPES}", "two\nthree"))
    printed = capsys.readouterr()
    assert printed.out.startswith("[bold]\\x1b]0;PWNED")
    assert printed.out.count("\n") == 1
    assert [line[:10] for line in printed.err.splitlines()] == ["error: one", "error: two"]
    assert "\x1b" not in printed.out + printed.err


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell in which `imagine-bot` is the installed command."""
    return subprocess.run(
        ["bash", "-c", command.replace("imagine-bot", IMAGINE_BOT)],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("--help >/dev/full", 1),
        ("--help | true", 1),
        ("doctor --config missing.toml >/dev/full 2>&1", 1),
        ("generate '' >&-", 1),
        ("generate '' 2>/dev/full", 1),
        ("generate '' 2>&-", 1),
    ],
)
def test_output_that_cannot_be_written_leaves_no_trace(
    tmp_path: Path, command: str, code: int
) -> None:
    result = shell(f"set -o pipefail; imagine-bot {command}", tmp_path)
    assert (result.returncode, result.stdout) == (code, "")
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    if command == "--help >/dev/full":
        assert result.stderr == (
            "error: The output cannot be written (No space left on device); make room there, or "
            "redirect it.\n"
        )


def test_an_ascii_terminal_is_shown_what_it_lacks_as_escapes(tmp_path: Path) -> None:
    help_ = shell("imagine-bot demo --help", tmp_path, PYTHONIOENCODING="ascii")
    assert (help_.returncode, help_.stderr) == (0, "")
    assert "/vary and a \\U0001f501 reaction" in help_.stdout
    wrong = shell(
        "imagine-bot generate 猫 --config 猫.toml", tmp_path, PYTHONIOENCODING="ascii", LC_ALL="C"
    )
    assert wrong.returncode == 1
    assert "error: \\u732b.toml cannot be read" in wrong.stderr


def test_a_closed_standard_stream_is_no_file_of_the_bot(tmp_path: Path) -> None:
    code = "import os, bot.terminal; bot.terminal.prepare_streams(); print(os.open('f', 64))"
    result = shell(f'{sys.executable} -c "{code}" <&- 2>&-', tmp_path, PYTHONPATH=str(Path.cwd()))
    assert int(result.stdout) > 2
