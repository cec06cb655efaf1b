"""Errors of the bot's own, and the one place where errors become sentences.

BotError
├── ConfigError          the configuration cannot be used
├── NotVisible           no such picture, or not for this person's eyes
├── AgeRestricted        a picture of an age-restricted channel is asked for in an open one
├── UnknownButton        the clicked button is of a picture that is not stored here
├── OutdatedCommand      a command in Discord is of another version of the bot
├── NotAllowed           the person may not do that
├── PermissionMissing    the bot may not do in a channel what it has to
├── MissingInput         something has to be added to the command
└── StillAtWork          as much as may be is being done for this person
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Final

from generation.errors import GenerationError
from storage.errors import DatabaseDamaged, DiskFull, FolderUnusable, StorageError

log = logging.getLogger(__name__)


class BotError(Exception):
    """The root of the bot's errors; its text is fit for the person who asked."""


class ConfigError(BotError):
    """The configuration cannot be used; each sentence names a key, its value and what is right."""

    def __init__(self, *sentences: str) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences


class NotVisible(BotError):
    """A job or picture that does not exist or is not for this person; both read the same."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"There is no picture {what} that you can see here; /history lists your own."
        )


class AgeRestricted(BotError):
    """A picture that was made in an age-restricted channel is asked for in another.

    With `is_known` false it may be one: Discord does not say so now.
    """

    def __init__(self, *, is_known: bool = True) -> None:
        super().__init__(
            "That picture was made in an age-restricted channel; use it in one."
            if is_known
            else "Discord does not tell me now whether the channel of that picture is "
            "age-restricted; use the picture in an age-restricted channel, or try again later."
        )


class UnknownButton(BotError):
    """The clicked button is of a job in another database, or of one that is gone from this one."""

    def __init__(self) -> None:
        super().__init__(
            "That button is of a picture that I no longer know; make a new one with /imagine."
        )


class OutdatedCommand(BotError):
    """A command in the form that another version of the bot has published."""

    def __init__(self) -> None:
        super().__init__(
            "Discord still shows you an older form of that command; reload Discord, then try again."
        )


class NotAllowed(BotError):
    """The person may not do that."""


class PermissionMissing(BotError):
    """The bot lacks permissions in the channel; `names` are Discord's own words for them."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"I could not show you the pictures in this channel; ask an admin to give me here: "
            f"{', '.join(names)}."
        )
        self.names = tuple(names)


class StillAtWork(BotError):
    """As much as may be is being done for this person."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"I am still looking up {most} things for you; please try again when they are here."
        )


class MissingInput(BotError):
    """Something that the command needs was not given."""


_DISK_FULL: Final = (
    "My disk is full, so I can take nothing on; ask the operator to make room, then try again."
)
_DISK_UNUSABLE: Final = (
    "I cannot read or write my pictures now; ask the operator to look at the log, then try again."
)

_DATABASE_DAMAGED: Final = (
    "My database is damaged, so I can take nothing on; ask the operator to look at the log."
)

USER_ERRORS = (BotError, GenerationError, StorageError)


def sentence(error: BaseException) -> str:
    """Return what to tell a person about `error`, logging it if it was not foreseen."""
    if isinstance(error, DiskFull):
        # Its own words are for the operator, who reads them in the log; see `bot.room`.
        return _DISK_FULL
    if isinstance(error, FolderUnusable):
        log.error("%s", error)
        return _DISK_UNUSABLE
    if isinstance(error, DatabaseDamaged):
        log.error("%s", error)
        return _DATABASE_DAMAGED
    if isinstance(error, USER_ERRORS):
        if isinstance(error, StorageError):
            log.error("%s", error)
        return str(error)
    code = secrets.token_hex(3)
    log.error("Unforeseen error %s", code, exc_info=error)
    return (
        f"Something went wrong on my side; please try again, and if it happens again tell the "
        f"operator the code {code}."
    )
