"""The people of the guild: what they type, click, and see come back."""

from __future__ import annotations

from typing import Any, Final

from simcord.actors import MemberActor, _autocomplete_result
from simcord.backend.models import Interaction
from simcord.builders import ChannelHandle, UserHandle
from simcord.results import InteractionResult, ResponseMessage

from .errors import NotThere
from .forms import filled_in
from .views import MessageView, view
from .world import World

PATIENCE: Final = 3.0
"""Seconds after which Discord tells people that the application did not respond."""


class Asked:
    """Something a person asked of the bot, and what has come back by now."""

    def __init__(
        self, world: World, result: InteractionResult, actor: MemberActor | UserHandle
    ) -> None:
        self._world = world
        self.result = result
        self.actor = actor

    @property
    def record(self) -> Interaction:
        """SimCord's own record of the interaction."""
        return self.result._interaction

    @property
    def acknowledged(self) -> bool:
        """Whether the bot answered at all, if only with "thinking"."""
        return self.record.responded

    @property
    def kind(self) -> str | None:
        """Say how: message, deferred, deferred_update, update, modal or autocomplete."""
        return None if self.record.response_kind is None else str(self.record.response_kind)

    @property
    def ephemeral(self) -> bool:
        """Whether only the person sees the answer."""
        return self.record.ephemeral

    @property
    def message(self) -> MessageView | None:
        """The answer as it is now; None before it comes and after it was deleted."""
        return self._view(self.record.message_id)

    @property
    def followups(self) -> list[MessageView]:
        """What the bot sent after the answer, on the same interaction."""
        return [seen for key in self.record.followup_ids if (seen := self._view(key))]

    @property
    def text(self) -> str:
        """All the words of the answer and its follow-ups, a line each."""
        answer = [self.message] if self.message else []
        return "\n".join(seen.content for seen in [*answer, *self.followups] if seen.content)

    @property
    def modal(self) -> dict[str, Any] | None:
        """The form that the bot showed."""
        return self.record.modal

    @property
    def choices(self) -> list[dict[str, Any]] | None:
        """The choices that the bot offered."""
        return self.record.autocomplete_choices

    async def answered(self, *, within: float = PATIENCE) -> Asked:
        """Wait for the bot's first answer.

        Raises:
            NeverHappened: it took longer than a person is made to wait.
        """
        await self._world.until(lambda: self.acknowledged, within=within, what="an answer")
        return self

    def _view(self, message_id: int | None) -> MessageView | None:
        posted = self._world.backend.messages.get(self.record.channel_id, {})
        message = posted.get(message_id) if message_id is not None else None
        return None if message is None else view(self._world.backend, message)


class PeopledWorld(World):
    """A world whose members act; `who` is a name, `alice` unless a test says otherwise."""

    async def slash(
        self,
        command: str,
        /,
        *,
        who: str = "alice",
        where: ChannelHandle | None = None,
        **options: Any,
    ) -> Asked:
        """Run a slash command; a file option takes a pair of name and bytes.

        It returns at once; `where` is another channel of the guild.
        """
        actor = self.member(who)
        return self._asked(await actor.slash(where or self.channel, command, **options), actor)

    async def slash_alone(self, command: str, /, *, who: str = "alice", **options: Any) -> Asked:
        """Run a slash command in the person's direct messages with the bot."""
        actor = self.member(who).user
        return self._asked(await actor.slash(command, **options), actor)

    async def context_menu(
        self, command: str, message: MessageView | int, *, who: str = "alice"
    ) -> Asked:
        """Run a command from the menu of a message."""
        actor, handle = self.member(who), self._handle(message)
        channel = ChannelHandle(self.env, self.guild, self.backend.get_channel(handle.channel_id))
        return self._asked(await actor.context_menu(channel, command, handle), actor)

    async def autocomplete(
        self, command: str, option: str, typed: str, /, *, who: str = "alice", **filled: Any
    ) -> list[dict[str, Any]]:
        """Type into an option and return the choices that came, each with name and value.

        Raises:
            NeverHappened: the bot offered none, not even an empty list.
        """
        actor = self.member(who)
        channel = self.channel
        result = await _autocomplete_result(actor, channel, command, option, typed, filled)
        return (await self._asked(result, actor).answered()).choices or []

    async def click(self, message: MessageView | int, button: str, *, who: str = "alice") -> Asked:
        """Press a button, named by custom id, label or emoji.

        Raises:
            NotThere: the message has no such button.
        """
        custom_id = self.look(message).button(button).custom_id
        actor, handle = self._actor(message, who), self._handle(message)
        return self._asked(await actor.click(handle, custom_id=custom_id), actor)

    async def choose(
        self, message: MessageView | int, custom_id: str, values: list[Any], *, who: str = "alice"
    ) -> Asked:
        """Choose values in a select menu."""
        actor, handle = self._actor(message, who), self._handle(message)
        return self._asked(await actor.select(handle, values, custom_id=custom_id), actor)

    async def submit_modal(self, shown: Asked, values: dict[str, Any]) -> Asked:
        """Send off the form that was shown; what `values` leaves out stays as the bot filled it.

        Fields go by their custom id or label.

        Raises:
            NotThere: no form was shown, or it has no such field.
        """
        if shown.modal is None:
            raise NotThere("form", "in the answer", [shown.kind])
        values = filled_in(shown.modal, values)
        return self._asked(await shown.actor.submit_modal(shown.result, values), shown.actor)

    async def react(self, message: MessageView | int, emoji: str, *, who: str = "alice") -> None:
        """Add a reaction."""
        await self._actor(message, who).set_reaction(self._handle(message), emoji, reacted=True)

    async def unreact(self, message: MessageView | int, emoji: str, *, who: str = "alice") -> None:
        """Take a reaction back."""
        await self._actor(message, who).set_reaction(self._handle(message), emoji, reacted=False)

    async def say(
        self, content: str, *, who: str = "alice", attachments: tuple[tuple[str, bytes], ...] = ()
    ) -> MessageView:
        """Write into the channel."""
        sent = await self.member(who).send(self.channel, content, attachments=attachments)
        return self.look(sent.id)

    async def delete(self, message: MessageView | int, *, who: str = "alice") -> None:
        """Delete a message: one's own, or with the permission another's."""
        await self._actor(message, who).delete(self._handle(message))

    def _asked(self, result: InteractionResult, actor: MemberActor | UserHandle) -> Asked:
        return Asked(self, result, actor)

    def _handle(self, message: MessageView | int) -> ResponseMessage:
        return ResponseMessage(self.env, self.stored(message))

    def _actor(self, message: MessageView | int, who: str) -> MemberActor | UserHandle:
        channel = self.backend.get_channel(self.stored(message).channel_id)
        member = self.member(who)
        return member.user if channel.guild_id is None else member
