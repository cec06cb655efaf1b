"""The bot's own errors, and the one place where errors become sentences.

BotError
├── ConfigError              the configuration cannot be used
├── NotVisible               no such picture, or this person may not see it
├── AgeRestricted            a picture from an age-restricted channel was requested in an open one
├── UnknownButton            the clicked button belongs to a picture that is not stored here
├── OutdatedCommand          the command in Discord belongs to another version of the bot
├── NotAllowed               the person may not do that
├── PermissionMissing        the bot lacks a permission in the channel
├── MissingInput             the command needs another option
└── ConcurrencyLimitReached  the person has as much work in progress as one person may have
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
    """The root of the bot's errors; its text may be shown to the person who asked."""


class ConfigError(BotError):
    """The configuration cannot be used; each sentence names a key, its value and a right one."""

    def __init__(self, *sentences: str) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences


class NotVisible(BotError):
    """The job or picture does not exist, or the person may not see it; the text is the same."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"There is no picture {what} that you can see here; /history lists your own."
        )


class AgeRestricted(BotError):
    """A picture from an age-restricted channel was requested in another channel.

    With `is_known` false, Discord does not tell now whether the channel is age-restricted.
    """

    def __init__(self, *, is_known: bool = True) -> None:
        super().__init__(
            "That picture was made in an age-restricted channel; use it in one."
            if is_known
            else "Discord does not tell me now whether the channel of that picture is "
            "age-restricted; use the picture in an age-restricted channel, or try again later."
        )


class UnknownButton(BotError):
    """The button belongs to a job in another database, or to one that this database lost."""

    def __init__(self) -> None:
        super().__init__(
            "That button belongs to a picture that I no longer know; make a new one with /imagine."
        )


class OutdatedCommand(BotError):
    """The command was published by another version of the bot, in another form."""

    def __init__(self) -> None:
        super().__init__(
            "Discord still shows you an older form of that command; reload Discord, then try again."
        )


class NotAllowed(BotError):
    """The person may not do that."""


class PermissionMissing(BotError):
    """The bot lacks permissions in the channel; `names` are Discord's own names for them."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"I could not show you the pictures in this channel; ask an admin to give me these "
            f"permissions here: {', '.join(names)}."
        )
        self.names = tuple(names)


class ConcurrencyLimitReached(BotError):
    """The person has as much work in progress as one person may have."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"I am still working on {most} requests of yours; try again when they are done."
        )


class MissingInput(BotError):
    """The command needs another option."""


_DISK_FULL: Final = (
    "My disk is full, so I accept no new jobs; ask the operator to make room, then try again."
)
_DISK_UNUSABLE: Final = (
    "I cannot read or write my pictures now; ask the operator to look at the log, then try again."
)

_DATABASE_DAMAGED: Final = (
    "My database is damaged, so I accept no new jobs; ask the operator to look at the log."
)

USER_ERRORS = (BotError, GenerationError, StorageError)


def sentence(error: BaseException) -> str:
    """Return what to tell a person about `error`; log an unexpected one with its traceback."""
    if isinstance(error, DiskFull):
        # `bot.jobs.disk` logs the error's own text, which is for the operator.
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
    log.error("Unexpected error %s", code, exc_info=error)
    return (
        f"Something went wrong on my side; please try again, and if it happens again tell the "
        f"operator the code {code}."
    )
