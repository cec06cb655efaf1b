"""The exceptions that discord.py raises for failed requests."""

from __future__ import annotations

from typing import Final

import aiohttp
import discord

# Requests without any answer; `TimeoutError` is an `OSError`.
NETWORK_ERRORS: Final = (aiohttp.ClientError, OSError)
# Requests without a successful answer.
UNREACHABLE: Final = (discord.HTTPException, discord.RateLimited, *NETWORK_ERRORS)
# Requests with a success whose body is a proxy's web page.
GARBLED: Final = (AttributeError, KeyError, TypeError, ValueError, discord.InvalidData)
