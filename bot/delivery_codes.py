"""What Discord's own error codes mean for a delivery, and what is done about each: one table.

The codes are those of docs.discord.com/developers/topics/opcodes-and-status-codes, under "JSON".
An HTTP status alone proves nothing: proxies and sick machines on the way answer 403 and 404 too.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, TypeVar

import aiohttp
import discord

T = TypeVar("T")


class Course(enum.Enum):
    """What is done about a refusal."""

    GONE = "Discord is asked again; what it then confirms counts as deleted by a person."
    FORBIDDEN = "Not repeated: the person reads what is missing."
    FILTERED = "Not repeated: the person reads it, without the prompt if that is blocked too."
    SMALLER = "Pictures are sent once more as smaller JPEGs."
    ARCHIVED = "The thread is opened once."
    WAIT = "Repeated until it passes, however long that takes."
    REFUSED = "Not repeated, since it would be refused again: the operator has to look."
    EXPIRED = "The interaction is over: the answer comes as an ordinary message."
    UNPROVEN = "Repeated, for an hour or so: Discord itself may not have said it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One code: Discord's words for it, what is done, and what the person reads if that is all.

    `pause` is how many seconds pass at least before another try.
    """

    code: int
    meaning: str
    course: Course
    sentence: str = "Discord did not take the pictures; try again later."
    pause: float = 0.0


_PERMISSIONS: Final = (
    "Discord does not let me show the pictures here; ask an admin to give me View Channel and "
    "Attach Files in this channel."
)
_BUG: Final = "Discord refused the pictures; ask the operator to look at the log."
_EXPLICIT: Final = (
    "Discord's filter for explicit content blocked the pictures; ask a moderator about the "
    "filter, or try another prompt."
)
_AUTOMOD: Final = (
    "AutoMod of this server blocked the message; ask a moderator about its rules, or try another "
    "prompt."
)
_LINKS: Final = (
    "Discord's filter for harmful links blocked the message; try a prompt without a link."
)
_TOO_LARGE: Final = (
    "The pictures are too large for Discord even as JPEGs; ask for fewer or smaller ones."
)
_LOCKED: Final = "This thread is locked; ask a moderator to unlock it, then try again."
CLOSED: Final = "This thread is closed; ask a moderator to open it, then try again."
_DIRECT: Final = (
    "Discord does not let me write to you; allow direct messages from members of a server that we "
    "share, then try again."
)
_WRONG_PLACE: Final = "I cannot show pictures in a channel of this kind; ask for them in another."
_NO_UPLOADS: Final = (
    "Discord allows no uploads in this server for now; try again later or in another server."
)
_VERIFICATION: Final = (
    "This server asks for more verification than I have; ask an admin to let me write here."
)

# What Discord says of a server, among others, to a bot that is not in it.
MISSING_ACCESS: Final = 50001

TABLE: Final = (
    # What is gone.
    Refusal(code=10003, meaning="Unknown channel", course=Course.GONE),
    Refusal(code=10004, meaning="Unknown guild", course=Course.GONE),
    Refusal(code=10008, meaning="Unknown message", course=Course.GONE),
    # What the bot may not do.
    Refusal(
        code=MISSING_ACCESS,
        meaning="Missing access",
        course=Course.FORBIDDEN,
        sentence=_PERMISSIONS,
    ),
    Refusal(
        code=50013, meaning="Missing permissions", course=Course.FORBIDDEN, sentence=_PERMISSIONS
    ),
    Refusal(
        code=50007,
        meaning="Cannot send messages to this user",
        course=Course.FORBIDDEN,
        sentence=_DIRECT,
    ),
    Refusal(
        code=50278,
        meaning="Cannot send messages to this user due to having no mutual guilds",
        course=Course.FORBIDDEN,
        sentence=_DIRECT,
    ),
    Refusal(
        code=50009,
        meaning="Channel verification level is too high for you to gain access",
        course=Course.FORBIDDEN,
        sentence=_VERIFICATION,
    ),
    Refusal(
        code=50008,
        meaning="Cannot send messages in a non-text channel",
        course=Course.FORBIDDEN,
        sentence=_WRONG_PLACE,
    ),
    Refusal(
        code=50024,
        meaning="Cannot execute action on this channel type",
        course=Course.FORBIDDEN,
        sentence=_WRONG_PLACE,
    ),
    Refusal(
        code=40058,
        meaning="Cannot send a message in a forum channel",
        course=Course.FORBIDDEN,
        sentence=_WRONG_PLACE,
    ),
    Refusal(
        code=400001,
        meaning="Access to file uploads has been limited for this guild",
        course=Course.FORBIDDEN,
        sentence=_NO_UPLOADS,
    ),
    # Threads.
    Refusal(code=160005, meaning="Thread is locked", course=Course.FORBIDDEN, sentence=_LOCKED),
    Refusal(
        code=160006,
        meaning="Maximum number of active threads reached",
        course=Course.FORBIDDEN,
        sentence=CLOSED,
    ),
    Refusal(
        code=50083,
        meaning="Tried to perform an operation on an archived thread",
        course=Course.ARCHIVED,
        sentence=CLOSED,
    ),
    # Filters.
    Refusal(
        code=20009,
        meaning="Explicit content cannot be sent to the desired recipient(s)",
        course=Course.FILTERED,
        sentence=_EXPLICIT,
    ),
    Refusal(
        code=200000,
        meaning="Message was blocked by automatic moderation",
        course=Course.FILTERED,
        sentence=_AUTOMOD,
    ),
    Refusal(
        code=200001,
        meaning="Title was blocked by automatic moderation",
        course=Course.FILTERED,
        sentence=_AUTOMOD,
    ),
    Refusal(
        code=240000,
        meaning="Message blocked by harmful links filter",
        course=Course.FILTERED,
        sentence=_LINKS,
    ),
    # Size.
    Refusal(
        code=40005,
        meaning="Request entity too large",
        course=Course.SMALLER,
        sentence=_TOO_LARGE,
    ),
    Refusal(
        code=50045,
        meaning="File uploaded exceeds the maximum size",
        course=Course.SMALLER,
        sentence=_TOO_LARGE,
    ),
    # What passes by itself, or when the operator has done something.
    Refusal(
        code=30046,
        meaning="Maximum number of edits to messages older than 1 hour reached",
        course=Course.WAIT,
        pause=60,
    ),
    Refusal(code=20016, meaning="Slowmode rate limit", course=Course.WAIT, pause=10),
    Refusal(code=20022, meaning="Announcement rate limits", course=Course.WAIT, pause=60),
    Refusal(
        code=20028, meaning="The channel has hit the write rate limit", course=Course.WAIT, pause=10
    ),
    Refusal(
        code=20029, meaning="The server has hit the write rate limit", course=Course.WAIT, pause=10
    ),
    Refusal(
        code=40003,
        meaning="You are opening direct messages too fast",
        course=Course.WAIT,
        pause=60,
    ),
    Refusal(
        code=40004,
        meaning="Send messages has been temporarily disabled",
        course=Course.WAIT,
        pause=60,
    ),
    Refusal(
        code=40006,
        meaning="This feature has been temporarily disabled server-side",
        course=Course.WAIT,
        pause=60,
    ),
    Refusal(code=40062, meaning="Service resource is being rate limited", course=Course.WAIT),
    Refusal(
        code=40333, meaning="Cloudflare is blocking your request", course=Course.WAIT, pause=10
    ),
    Refusal(
        code=130000, meaning="API resource is currently overloaded", course=Course.WAIT, pause=5
    ),
    # The job then waits for a start with a token that is right.
    Refusal(code=40001, meaning="Unauthorized", course=Course.WAIT, pause=60),
    Refusal(
        code=50014, meaning="Invalid authentication token provided", course=Course.WAIT, pause=60
    ),
    # Faults of this program, or of a record of the message.
    Refusal(
        code=50005,
        meaning="Cannot edit a message authored by another user",
        course=Course.REFUSED,
        sentence=_BUG,
    ),
    Refusal(
        code=50006, meaning="Cannot send an empty message", course=Course.REFUSED, sentence=_BUG
    ),
    Refusal(
        code=50021,
        meaning="Cannot execute action on a system message",
        course=Course.REFUSED,
        sentence=_BUG,
    ),
    Refusal(code=50035, meaning="Invalid form body", course=Course.REFUSED, sentence=_BUG),
    Refusal(code=50046, meaning="Invalid file uploaded", course=Course.REFUSED, sentence=_BUG),
    Refusal(
        code=50109,
        meaning="The request body contains invalid JSON",
        course=Course.REFUSED,
        sentence=_BUG,
    ),
    # Answers to interactions, whose tokens die.
    Refusal(code=10015, meaning="Unknown webhook", course=Course.EXPIRED),
    Refusal(code=10062, meaning="Unknown interaction", course=Course.EXPIRED),
    Refusal(code=40060, meaning="Interaction has already been acknowledged", course=Course.EXPIRED),
    Refusal(
        code=40094,
        meaning="This interaction has hit the maximum number of follow up messages",
        course=Course.EXPIRED,
    ),
    Refusal(code=50027, meaning="Invalid webhook token provided", course=Course.EXPIRED),
)
_BY_CODE: Final = {refusal.code: refusal for refusal in TABLE}

# What has no row: trouble on Discord's side, and answers that need not be Discord's at all.
PASSING: Final = Refusal(
    code=0, meaning="Discord is out of reach or in trouble", course=Course.WAIT
)
UNPROVEN: Final = Refusal(code=0, meaning="Nothing that is known", course=Course.UNPROVEN)

# The faults without any answer; `TimeoutError` is an `OSError`.
NETWORK_ERRORS: Final = (aiohttp.ClientError, OSError)
# How discord.py fails over an answer that calls itself a success and is a proxy's web page.
GARBLED: Final = (AttributeError, KeyError, TypeError, ValueError, discord.InvalidData)
_SERVER_ERRORS: Final = 500
_TOO_LARGE_STATUS: Final = 413


class Garbled(Exception):
    """An answer that calls itself a success and is not what was asked for."""


# How a request to Discord can fail.
FAULTS: Final = (discord.HTTPException, Garbled, *NETWORK_ERRORS)


async def understood(asking: Awaitable[T]) -> T:
    """Return the answer of one request.

    Raises:
        Garbled: it is none of Discord's, though its status says so.
    """
    try:
        return await asking
    except GARBLED as error:
        raise Garbled(f"{type(error).__name__}: {error}") from error


def refusal_of(error: Exception) -> Refusal:
    """Return what is to be done about a request that failed with `error`."""
    if isinstance(error, Garbled):
        return UNPROVEN
    if not isinstance(error, discord.HTTPException) or error.status >= _SERVER_ERRORS:
        return PASSING
    # The JSON of somebody else may hold anything there.
    code: object = error.code
    if isinstance(code, int) and code in _BY_CODE:
        return _BY_CODE[code]
    if error.status in (401, 408, 429):
        return PASSING
    # Even if Discord did not say so, what is smaller can only do better.
    return _BY_CODE[40005] if error.status == _TOO_LARGE_STATUS else UNPROVEN
