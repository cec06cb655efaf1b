"""Keeps the page at what the bot does by itself."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from simcord.preview import Preview

from ..ui.actions import RERUN
from .world import World

_PAUSE_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 0.05

Controls = dict[int, list[dict[str, Any]]]


class Follower:
    """Publishes the page again when one of the bot's messages has changed, at most twice a second.

    Never on a timer: the page refuses a click that was aimed at an older revision of it.
    """

    def __init__(self, world: World, preview: Preview) -> None:
        self._world = world
        self._preview = preview
        self._changed = asyncio.Event()
        self._controls = self._present_controls()
        self._moved = False

    async def run(self) -> None:
        """Follow until cancelled."""
        self._world.on_message_change(self._note)
        while True:
            await self._changed.wait()
            if self._busy():
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._changed.clear()
            self._world.offer_reaction(RERUN.emoji)
            self._publish()
            await asyncio.sleep(_PAUSE_SECONDS)

    def _note(self) -> None:
        """Note that a message changed, and whether the buttons below an older one did."""
        controls = self._present_controls()
        self._moved |= any(controls.get(key) != value for key, value in self._controls.items())
        self._controls = controls
        self._changed.set()

    def _busy(self) -> bool:
        """Return whether somebody is just doing something on the page."""
        return self._world.env._operation_task is not None

    def _publish(self) -> None:
        """Do what `Preview.refresh` does, in one go.

        That one waits in the middle, and an action that reaches the page meanwhile is never
        answered: the page then takes no other until it is loaded again.
        """
        self._preview._advance_presentation_time()
        for page in tuple(self._preview._pages.values()):
            if not self._moved:
                # Progress leaves every button in its place, so a click that was aimed at the
                # page of before is as good: the page would refuse it for an older revision.
                page.revision -= 1
            self._preview._publish(page, reason="refresh")
        self._moved = False

    def _present_controls(self) -> Controls:
        messages = self._world.env.backend.messages.get(self._world.channel.id, {})
        return {message.id: message.components for message in messages.values()}
