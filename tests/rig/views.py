"""Messages as a test reads them: snapshots that no longer change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from simcord.backend import Backend
from simcord.backend.models import Message
from simcord.components import walk_components
from simcord.enums import ComponentType

from .errors import NotThere


@dataclass(frozen=True, slots=True)
class FileView:
    """An attachment with its bytes."""

    name: str
    data: bytes = field(repr=False)
    content_type: str
    description: str | None
    url: str


@dataclass(frozen=True, slots=True)
class Button:
    """A button; one with only an emoji has no label."""

    custom_id: str | None
    label: str | None
    emoji: str | None
    disabled: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Return what a test may call it: its custom id, its label, its emoji."""
        return tuple(name for name in (self.custom_id, self.label, self.emoji) if name)


@dataclass(frozen=True, slots=True)
class MessageView:
    """A message at the moment it was read."""

    id: int
    channel_id: int
    author: str
    content: str
    attachments: tuple[FileView, ...]
    components: tuple[dict[str, Any], ...]
    embeds: tuple[dict[str, Any], ...]
    reactions: dict[str, tuple[str, ...]]
    pinged: tuple[str, ...]
    """Who gets a notification, by name; `@everyone` and roles as Discord writes them."""
    asked_by: str | None
    """Who ran the command that this message answers."""
    ephemeral: bool
    edited: bool

    @property
    def buttons(self) -> tuple[Button, ...]:
        """Return its buttons from the top left."""
        return tuple(
            Button(
                custom_id=part.get("custom_id"),
                label=part.get("label"),
                emoji=(part.get("emoji") or {}).get("name"),
                disabled=bool(part.get("disabled")),
            )
            for part in walk_components(list(self.components))
            if part.get("type") == ComponentType.BUTTON
        )

    def button(self, name: str) -> Button:
        """Return the one button with this custom id, label or emoji.

        Raises:
            NotThere: no button is called so, or several are.
        """
        found = [button for button in self.buttons if name in button.names]
        if len(found) != 1:
            raise NotThere("single button", name, [button.names for button in self.buttons])
        return found[0]


def view(backend: Backend, message: Message) -> MessageView:
    """Return what there is to see of a stored message."""
    requester = ((message.interaction_metadata or {}).get("user") or {}).get("username")
    return MessageView(
        id=message.id,
        channel_id=message.channel_id,
        author=backend.users[message.author_id].name,
        content=message.content,
        attachments=tuple(_file(backend, payload) for payload in message.attachments),
        components=tuple(message.components),
        embeds=tuple(message.embeds),
        reactions={
            reaction.emoji: tuple(backend.users[user].name for user in reaction.user_ids)
            for reaction in message.reactions
        },
        pinged=_pinged(backend, message),
        asked_by=requester,
        ephemeral=message.is_ephemeral,
        edited=message.edited_timestamp is not None,
    )


def _file(backend: Backend, payload: dict[str, Any]) -> FileView:
    data = backend.cdn.get(payload["url"])
    if data is None:
        raise NotThere("attachment", payload["url"], ())
    return FileView(
        name=payload["filename"],
        data=data,
        content_type=payload["content_type"],
        description=payload["description"],
        url=payload["url"],
    )


def _pinged(backend: Backend, message: Message) -> tuple[str, ...]:
    everyone = ["@everyone"] if message.mention_everyone else []
    roles = [f"<@&{role}>" for role in message.ping_role_ids]
    people = [backend.users[user].name for user in message.ping_user_ids]
    return (*everyone, *roles, *people)
