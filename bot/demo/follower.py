"""Refreshes the page when the bot does something by itself."""

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
    """Publishes the page again when a message of the bot changes, at most twice a second.

    It does not refresh on a timer, because the page refuses a click on an older revision.
    """

    def __init__(self, world: World, preview: Preview) -> None:
        self._world = world
        self._preview = preview
        self._changed = asyncio.Event()
        self._controls = self._present_controls()
        self._moved = False

    async def run(self) -> None:
        """Refresh until cancelled."""
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
        """Note that a message changed, and whether the buttons of an older one changed."""
        controls = self._present_controls()
        self._moved |= any(controls.get(key) != value for key, value in self._controls.items())
        self._controls = controls
        self._changed.set()

    def _busy(self) -> bool:
        """Return whether an action on the page is in progress."""
        return self._world.env._operation_task is not None

    def _publish(self) -> None:
        """Do what `Preview.refresh` does, but without an await.

        `refresh` awaits in the middle. An action that reaches the page at that moment is never
        answered, and the page takes no other action until it is loaded again.
        """
        self._preview._advance_presentation_time()
        for page in tuple(self._preview._pages.values()):
            if not self._moved:
                # Progress moves no button, so a click on the page before this one is still right.
                # The page would refuse it for its older revision.
                page.revision -= 1
            self._preview._publish(page, reason="refresh")
        self._moved = False

    def _present_controls(self) -> Controls:
        messages = self._world.env.backend.messages.get(self._world.channel.id, {})
        return {message.id: message.components for message in messages.values()}
