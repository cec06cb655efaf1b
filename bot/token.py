"""The bot's token: its sources, its validation, and who else may read it."""

from __future__ import annotations

import ctypes
import difflib
import os
import re
import stat
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from .errors import ConfigError

if TYPE_CHECKING:
    from pydantic import SecretStr

PORTAL: Final = "https://discord.com/developers/applications"
VARIABLE: Final = "DISCORD_TOKEN"
_OWN_VARIABLE: Final = "IMAGINE_BOT_TOKEN"
FILE_VARIABLE: Final = "DISCORD_TOKEN_FILE"
# systemd's LoadCredential= puts files into this folder, which only the service can read.
_CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
CREDENTIAL: Final = "discord_token"
_SECRETS: Final = (
    VARIABLE,
    _OWN_VARIABLE,
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_HUB_TOKEN",
)
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")
_LIKE_A_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{18,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{25,}")
_NAME: Final = re.compile(r"\w*token\s*[=:]", re.IGNORECASE)
_PREFIX: Final = re.compile(r"(bot|bearer) ", re.IGNORECASE)
_QUOTES: Final = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
# A token has about 70 characters. If another file is named by mistake, only this much is read.
_LONGEST: Final = 1_000
_AGAIN: Final = f"copy it again from the Bot page of {PORTAL}"
_PR_SET_DUMPABLE: Final = 4


class NoToken(ConfigError):
    """There is no token at all."""


class TokenSettings(Protocol):
    """The settings that say where the token is."""

    @property
    def token(self) -> SecretStr | None:
        """Return the token itself, if it was given."""

    @property
    def token_file(self) -> Path | None:
        """Return the file that holds the token, if one was named."""


def take_token(environment: MutableMapping[str, str]) -> dict[str, str]:
    """Return `token` or `token_file` from the environment, and remove the token there."""
    # Upper and lower case are the same, as for every key.
    names = [name for name in environment if name.upper() == _OWN_VARIABLE]
    own = [environment.pop(name) for name in names]
    # This is no pydantic alias: pydantic would read the variable TOKEN too, and the secret of
    # another program would be sent to Discord.
    if token := environment.pop(VARIABLE, None):
        return {"token": token}
    if file := environment.get(FILE_VARIABLE):
        return {"token_file": file}
    if own:
        return {"token": own[0]}
    folder = environment.get(_CREDENTIALS)
    if folder and "IMAGINE_BOT_TOKEN_FILE" not in environment:
        credential = Path(folder) / CREDENTIAL
        if credential.is_file():
            return {"token_file": str(credential)}
    return {}


def find_token(settings: TokenSettings, environment: Mapping[str, str] = os.environ) -> str:
    """Return the token from the settings or from the file that they name.

    Raises:
        ConfigError: there is no token, or it is malformed; the sentence does not show it.
    """
    if settings.token is not None:
        token = settings.token.get_secret_value()
    elif settings.token_file is not None:
        token = _read(settings.token_file)
    else:
        token = ""
    token = token.strip()
    if not token:
        raise NoToken(_missing(settings, environment))
    if fault := _fault(token):
        raise ConfigError(f"The Discord token {fault}.")
    return token


def looks_like_token(text: str) -> bool:
    """Return whether a text holds a token; a person may put a token in a wrong place."""
    return bool(_LIKE_A_TOKEN.search(text))


def readable_by_others(file: Path | None) -> bool:
    """Return whether other users of this machine may read `file`, which holds the token."""
    if file is None:
        return False
    try:
        mode = file.stat().st_mode
    except OSError:
        return False
    return bool(mode & (stat.S_IRGRP | stat.S_IROTH))


def forget_secrets(environment: MutableMapping[str, str] = os.environ) -> None:
    """Remove secrets from the environment, since every child process gets a copy."""
    for name in _SECRETS:
        environment.pop(name, None)


def deny_inspection() -> None:
    """Keep other processes of the same user from reading this process's memory and environment.

    The system keeps the environment that a process was started with, even after variables are
    removed. On Linux only the superuser can read it if the process is not "dumpable" (prctl(2)).
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _read(file: Path) -> str:
    if looks_like_token(str(file)):
        raise ConfigError(
            f"The name of the token file is a token itself; set {VARIABLE} to the token, or name "
            "the file that holds it."
        )
    try:
        with file.open(encoding="utf-8-sig") as opened:
            return opened.read(_LONGEST)
    except UnicodeDecodeError as error:
        raise ConfigError(f"The token file {file} is not text; put the token into it.") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"The token file {file} cannot be read ({why}); let the bot's user read it, or name "
            "another."
        ) from error


def _missing(settings: TokenSettings, environment: Mapping[str, str]) -> str:
    if settings.token is None and settings.token_file is not None:
        return f"The token file {settings.token_file} is empty; {_AGAIN} into it."
    similar = [name for name in environment if "DISCORD" in name.upper()]
    near = difflib.get_close_matches(VARIABLE, similar, n=1, cutoff=0.7)
    hint = f" {near[0]} is set, which the bot does not read." if near else ""
    return (
        f"There is no Discord token; set {VARIABLE}, or token in config.toml, to the one on the "
        f"Bot page of {PORTAL}.{hint}"
    )


def _fault(token: str) -> str:
    """Return why this is no token of Discord's, and how to correct it; "" if it may be one."""
    faults = (
        (token[0] in _QUOTES or token[-1] in _QUOTES, "stands in quotes; leave them out"),
        (_NAME.match(token), "begins with a name; leave the name and the sign after it out"),
        (len(token.splitlines()) > 1, f"has a line break inside; {_AGAIN}, as one line"),
        (_PREFIX.match(token), "begins with a word that is no part of it; leave that word out"),
        (len(token.split()) > 1, f"has a space inside; {_AGAIN}"),
        (not _TOKEN.fullmatch(token), f"has a character inside that no token has; {_AGAIN}"),
        (len(token) >= _LONGEST, f"is longer than any token; {_AGAIN}"),
    )
    return next((text for is_so, text in faults if is_so), "")
