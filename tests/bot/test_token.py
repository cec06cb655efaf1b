"""The token: from which of its places it comes, what cannot be one, and who may read it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.config import Settings, load_settings, read_settings
from bot.errors import ConfigError
from bot.token import find_token, forget_secrets, readable_by_others

TOKEN = "a.good-token_1"


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment and a folder without any token."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISCORD_TOKEN", "DISCORD_TOKEN_FILE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return file


def refused(settings: Settings) -> str:
    with pytest.raises(ConfigError) as error:
        find_token(settings, {})
    return str(error.value)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (f"{TOKEN}\nOTHER=1", "has a line break inside; copy it again"),
        (f"{TOKEN}\r\n{TOKEN}", "has a line break inside"),
        (f"{TOKEN}\u2028x", "has a line break inside"),
        (f'"{TOKEN}"', "stands in quotes; leave them out"),
        (f"'{TOKEN}", "stands in quotes; leave them out"),
        (f"\u201c{TOKEN}\u201d", "stands in quotes; leave them out"),
        (f"DISCORD_TOKEN={TOKEN}", "begins with a name; leave the name"),
        (f"token: {TOKEN}", "begins with a name; leave the name"),
        (f"Bot {TOKEN}", "begins with a word that is no part of it"),
        (f"{TOKEN} {TOKEN}", "has a space inside"),
        (f"{TOKEN}\u00e9", "has a character inside that no token has"),
        (f"{TOKEN}\x00", "has a character inside that no token has"),
        (f"{TOKEN}\udcff", "has a character inside that no token has"),
        ("x" * 5000, "is longer than any token"),
        (" \n", "There is no Discord token"),
    ],
    ids=ascii,
)
def test_a_token_that_cannot_be_one_gets_a_sentence_without_it(token: str, said: str) -> None:
    sentence = refused(Settings(token=token))  # type: ignore[arg-type]
    assert said in sentence
    assert TOKEN not in sentence


@given(st.text(min_size=1))
def test_a_token_is_taken_as_a_header_can_hold_it_or_refused(text: str) -> None:
    with suppress(ConfigError):
        token = find_token(Settings(token=text), {})  # type: ignore[arg-type]
        assert token == text.strip()
        assert token.isascii()
        assert token.isprintable()


def test_a_file_of_the_config_holds_the_token(tmp_path: Path, token_file: Path) -> None:
    (tmp_path / "config.toml").write_text('token_file = "token"')
    reading = read_settings(None)
    assert find_token(reading.settings) == TOKEN
    assert reading.token_in == Path("token")
    assert not readable_by_others(reading.token_in)
    token_file.chmod(0o640)
    assert readable_by_others(reading.token_in)


def test_a_config_that_holds_the_token_is_checked_like_a_token_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'token = "{TOKEN}"')
    config.chmod(0o644)
    assert readable_by_others(read_settings(None).token_in)
    config.chmod(0o600)
    assert not readable_by_others(read_settings(None).token_in)
    config.chmod(0o644)
    monkeypatch.setenv("DISCORD_TOKEN", "another")
    assert read_settings(None).token_in is None


def test_a_token_in_a_wrong_place_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "MTIzNDU2Nzg5MDEyMzQ1Njc4.GabcdE.s3cret_s3cret-s3cret_s3cret"
    assert "token itself" in refused(Settings(token_file=Path(token)))
    assert "s3cret" not in refused(Settings(token_file=Path(token)))
    (tmp_path / "config.toml").write_text(f'dtype = "{token}"')
    monkeypatch.setenv("IMAGINE_BOT_PROGRESS_SECONDS", token)
    faults = read_settings(None).faults
    assert len(faults) == 2
    assert "s3cret" not in "".join(faults)


@pytest.mark.parametrize(
    "names",
    [
        ("DISCORD_TOKEN", "DISCORD_TOKEN_FILE"),
        ("DISCORD_TOKEN_FILE", "IMAGINE_BOT_TOKEN"),
        ("DISCORD_TOKEN_FILE", "IMAGINE_BOT_TOKEN_FILE"),
        ("IMAGINE_BOT_TOKEN", "IMAGINE_BOT_TOKEN_FILE"),
        ("IMAGINE_BOT_TOKEN_FILE", "CREDENTIALS_DIRECTORY"),
        ("CREDENTIALS_DIRECTORY",),
    ],
    ids=str,
)
def test_the_first_of_the_places_counts_and_all_come_before_the_config(
    tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    (tmp_path / "config.toml").write_text('token = "of-the-config"')
    for name, token in zip(names, (TOKEN, "another"), strict=False):
        folder = tmp_path / name
        folder.mkdir()
        file = folder / "discord_token"
        file.write_text(token)
        values = {"FILE": str(file), "DIRECTORY": str(folder), "TOKEN": token}
        monkeypatch.setenv(name, values[name.rpartition("_")[2]])
    assert find_token(load_settings()) == TOKEN


def test_the_token_leaves_the_environment_once_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCORD_TOKEN", TOKEN)
    monkeypatch.setenv("imagine_bot_token", "another")
    monkeypatch.setenv("HF_TOKEN", "hub")
    assert find_token(load_settings()) == TOKEN
    assert not {"DISCORD_TOKEN", "imagine_bot_token"} & os.environ.keys()
    forget_secrets()
    assert "HF_TOKEN" not in os.environ


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read (No such file or directory); let the bot's user read it"),
        (b"", "is empty; copy it again"),
        (b"\xff\xfe", "is not text"),
        (b"one\ntwo", "The Discord token has a line break inside"),
    ],
)
def test_a_token_file_that_holds_none_is_named(
    token_file: Path, content: bytes | None, said: str
) -> None:
    if content is None:
        token_file.unlink()
    else:
        token_file.write_bytes(content)
    assert said in refused(Settings(token_file=token_file))


def test_a_variable_of_a_similar_name_is_pointed_out() -> None:
    with pytest.raises(ConfigError, match="DISCORD_BOT_TOKEN is set, which the bot does not read"):
        find_token(Settings(), {"DISCORD_BOT_TOKEN": TOKEN})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has prctl")
def test_other_processes_of_the_user_may_not_look_into_the_one_with_the_token() -> None:
    ask = "ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)"  # PR_GET_DUMPABLE
    code = f"import ctypes, bot.token as t; print({ask}); t.deny_inspection(); print({ask})"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout.split() == ["1", "0"]
