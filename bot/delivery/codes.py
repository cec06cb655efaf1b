"""One table of Discord's error codes: what each means for a delivery, and what the bot does.

The codes are those of docs.discord.com/developers/topics/opcodes-and-status-codes, under "JSON".
An HTTP status alone proves nothing: proxies and faulty servers on the way answer 403 and 404 too.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, TypeVar

import discord

from ..network import GARBLED, NETWORK_ERRORS

T = TypeVar("T")


class RefusalKind(enum.Enum):
    """The kinds of refusals; each value says what the bot does about that kind."""

    GONE = "Ask Discord again; if Discord confirms it, a person has deleted the target."
    FORBIDDEN = "Do not retry; tell the person which permission is missing."
    FILTERED = "Do not retry; tell the person, without the prompt if that is blocked too."
    SMALLER = "Send the pictures once more as smaller JPEGs."
    ARCHIVED = "Open the thread once and retry."
    WAIT = "Retry until the fault has passed, however long that takes."
    REFUSED = "Do not retry, since Discord would refuse it again; the operator has to look."
    EXPIRED = "The interaction has expired; answer with an ordinary message."
    UNPROVEN = "Retry for about an hour; the answer may not be Discord's own."


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One code, Discord's words for it, its kind, and the sentence for the person.

    `pause` is the least number of seconds before the next attempt.
    """

    code: int
    meaning: str
    kind: RefusalKind
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

# Discord also answers this for a server that the bot is not in.
MISSING_ACCESS: Final = 50001

TABLE: Final = (
    # The target is gone.
    Refusal(code=10003, meaning="Unknown channel", kind=RefusalKind.GONE),
    Refusal(code=10004, meaning="Unknown guild", kind=RefusalKind.GONE),
    Refusal(code=10008, meaning="Unknown message", kind=RefusalKind.GONE),
    # Permissions.
    Refusal(
        code=MISSING_ACCESS,
        meaning="Missing access",
        kind=RefusalKind.FORBIDDEN,
        sentence=_PERMISSIONS,
    ),
    Refusal(
        code=50013, meaning="Missing permissions", kind=RefusalKind.FORBIDDEN, sentence=_PERMISSIONS
    ),
    Refusal(
        code=50007,
        meaning="Cannot send messages to this user",
        kind=RefusalKind.FORBIDDEN,
        sentence=_DIRECT,
    ),
    Refusal(
        code=50278,
        meaning="Cannot send messages to this user due to having no mutual guilds",
        kind=RefusalKind.FORBIDDEN,
        sentence=_DIRECT,
    ),
    Refusal(
        code=50009,
        meaning="Channel verification level is too high for you to gain access",
        kind=RefusalKind.FORBIDDEN,
        sentence=_VERIFICATION,
    ),
    Refusal(
        code=50008,
        meaning="Cannot send messages in a non-text channel",
        kind=RefusalKind.FORBIDDEN,
        sentence=_WRONG_PLACE,
    ),
    Refusal(
        code=50024,
        meaning="Cannot execute action on this channel type",
        kind=RefusalKind.FORBIDDEN,
        sentence=_WRONG_PLACE,
    ),
    Refusal(
        code=40058,
        meaning="Cannot send a message in a forum channel",
        kind=RefusalKind.FORBIDDEN,
        sentence=_WRONG_PLACE,
    ),
    Refusal(
        code=400001,
        meaning="Access to file uploads has been limited for this guild",
        kind=RefusalKind.FORBIDDEN,
        sentence=_NO_UPLOADS,
    ),
    # Threads.
    Refusal(code=160005, meaning="Thread is locked", kind=RefusalKind.FORBIDDEN, sentence=_LOCKED),
    Refusal(
        code=160006,
        meaning="Maximum number of active threads reached",
        kind=RefusalKind.FORBIDDEN,
        sentence=CLOSED,
    ),
    Refusal(
        code=50083,
        meaning="Tried to perform an operation on an archived thread",
        kind=RefusalKind.ARCHIVED,
        sentence=CLOSED,
    ),
    # Filters.
    Refusal(
        code=20009,
        meaning="Explicit content cannot be sent to the desired recipient(s)",
        kind=RefusalKind.FILTERED,
        sentence=_EXPLICIT,
    ),
    Refusal(
        code=200000,
        meaning="Message was blocked by automatic moderation",
        kind=RefusalKind.FILTERED,
        sentence=_AUTOMOD,
    ),
    Refusal(
        code=200001,
        meaning="Title was blocked by automatic moderation",
        kind=RefusalKind.FILTERED,
        sentence=_AUTOMOD,
    ),
    Refusal(
        code=240000,
        meaning="Message blocked by harmful links filter",
        kind=RefusalKind.FILTERED,
        sentence=_LINKS,
    ),
    # Size.
    Refusal(
        code=40005,
        meaning="Request entity too large",
        kind=RefusalKind.SMALLER,
        sentence=_TOO_LARGE,
    ),
    Refusal(
        code=50045,
        meaning="File uploaded exceeds the maximum size",
        kind=RefusalKind.SMALLER,
        sentence=_TOO_LARGE,
    ),
    # Faults that pass by themselves, or that the operator can fix.
    Refusal(
        code=30046,
        meaning="Maximum number of edits to messages older than 1 hour reached",
        kind=RefusalKind.WAIT,
        pause=60,
    ),
    Refusal(code=20016, meaning="Slowmode rate limit", kind=RefusalKind.WAIT, pause=10),
    Refusal(code=20022, meaning="Announcement rate limits", kind=RefusalKind.WAIT, pause=60),
    Refusal(
        code=20028,
        meaning="The channel has hit the write rate limit",
        kind=RefusalKind.WAIT,
        pause=10,
    ),
    Refusal(
        code=20029,
        meaning="The server has hit the write rate limit",
        kind=RefusalKind.WAIT,
        pause=10,
    ),
    Refusal(
        code=40003,
        meaning="You are opening direct messages too fast",
        kind=RefusalKind.WAIT,
        pause=60,
    ),
    Refusal(
        code=40004,
        meaning="Send messages has been temporarily disabled",
        kind=RefusalKind.WAIT,
        pause=60,
    ),
    Refusal(
        code=40006,
        meaning="This feature has been temporarily disabled server-side",
        kind=RefusalKind.WAIT,
        pause=60,
    ),
    Refusal(code=40062, meaning="Service resource is being rate limited", kind=RefusalKind.WAIT),
    Refusal(
        code=40333, meaning="Cloudflare is blocking your request", kind=RefusalKind.WAIT, pause=10
    ),
    Refusal(
        code=130000, meaning="API resource is currently overloaded", kind=RefusalKind.WAIT, pause=5
    ),
    # The job waits for a start with the right token.
    Refusal(code=40001, meaning="Unauthorized", kind=RefusalKind.WAIT, pause=60),
    Refusal(
        code=50014, meaning="Invalid authentication token provided", kind=RefusalKind.WAIT, pause=60
    ),
    # Faults of this program, or of what it stored about the message.
    Refusal(
        code=50005,
        meaning="Cannot edit a message authored by another user",
        kind=RefusalKind.REFUSED,
        sentence=_BUG,
    ),
    Refusal(
        code=50006, meaning="Cannot send an empty message", kind=RefusalKind.REFUSED, sentence=_BUG
    ),
    Refusal(
        code=50021,
        meaning="Cannot execute action on a system message",
        kind=RefusalKind.REFUSED,
        sentence=_BUG,
    ),
    Refusal(code=50035, meaning="Invalid form body", kind=RefusalKind.REFUSED, sentence=_BUG),
    Refusal(code=50046, meaning="Invalid file uploaded", kind=RefusalKind.REFUSED, sentence=_BUG),
    Refusal(
        code=50109,
        meaning="The request body contains invalid JSON",
        kind=RefusalKind.REFUSED,
        sentence=_BUG,
    ),
    # Answers to interactions whose tokens have expired.
    Refusal(code=10015, meaning="Unknown webhook", kind=RefusalKind.EXPIRED),
    Refusal(code=10062, meaning="Unknown interaction", kind=RefusalKind.EXPIRED),
    Refusal(
        code=40060, meaning="Interaction has already been acknowledged", kind=RefusalKind.EXPIRED
    ),
    Refusal(
        code=40094,
        meaning="This interaction has hit the maximum number of follow up messages",
        kind=RefusalKind.EXPIRED,
    ),
    Refusal(code=50027, meaning="Invalid webhook token provided", kind=RefusalKind.EXPIRED),
)
_BY_CODE: Final = {refusal.code: refusal for refusal in TABLE}

# Errors without a row: trouble at Discord, and answers that may not be Discord's own.
PASSING: Final = Refusal(
    code=0, meaning="Discord is out of reach or in trouble", kind=RefusalKind.WAIT
)
UNPROVEN: Final = Refusal(code=0, meaning="Unknown", kind=RefusalKind.UNPROVEN)

_SERVER_ERRORS: Final = 500
_TOO_LARGE_STATUS: Final = 413


class Garbled(Exception):
    """The status of an answer is a success, but its body is not what Discord would send."""


# All errors of a request to Discord.
FAULTS: Final = (discord.HTTPException, Garbled, *NETWORK_ERRORS)


async def parsed(request: Awaitable[T]) -> T:
    """Return the answer of one request, which discord.py parses.

    Raises:
        Garbled: the body of the answer is not Discord's, although its status is a success.
    """
    try:
        return await request
    except GARBLED as error:
        raise Garbled(f"{type(error).__name__}: {error}") from error


def refusal_of(error: Exception) -> Refusal:
    """Return the row of the table for a request that failed with `error`."""
    if isinstance(error, Garbled):
        return UNPROVEN
    if not isinstance(error, discord.HTTPException) or error.status >= _SERVER_ERRORS:
        return PASSING
    # The JSON of a proxy may hold anything here.
    code: object = error.code
    if isinstance(code, int) and code in _BY_CODE:
        return _BY_CODE[code]
    if error.status in (401, 408, 429):
        return PASSING
    # Even if the answer is a proxy's, smaller pictures can only help.
    return _BY_CODE[40005] if error.status == _TOO_LARGE_STATUS else UNPROVEN
