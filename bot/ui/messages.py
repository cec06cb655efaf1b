"""The texts of messages, made from records."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import discord

from generation.schedulers import names
from generation.values.events import Event
from generation.values.recipe import Recipe
from storage.records import HistoryEntry, Job, JobKind, Remover, StoredImage

from ..listing import ListedModel
from .markup import inert, plain, visible
from .states import state

_PROMPT_SHOWN: Final = 300
_MESSAGE_LENGTH: Final = 2_000
ALT_LENGTH: Final = 1_024
_CHOICE_LENGTH: Final = 100
_LISTED_PROMPT: Final = 80
_MADE: Final = {JobKind.VARY: "varied from another", JobKind.EDIT: "edited from others"}


def quoted(prompt: str, length: int = _PROMPT_SHOWN) -> str:
    """Return `prompt` on one line, shortened and without working markup or links."""
    return inert(cut(" ".join(visible(prompt).split()), length))


def headline(job: Job) -> str:
    """Return the first line of a job's message: the prompt and who asked."""
    return f"**{quoted(job.request.prompt)}** — <@{job.user_id}>"


def waiting(job: Job, event: Event | None = None) -> str:
    """Return the message of an unfinished job after `event`."""
    return f"{headline(job)}\n{' · '.join([*state(event), f'job {job.id}'])}"


def nonce(job: Job) -> str:
    """Return the nonce of a job's message: Discord posts it once, however often it is sent."""
    # Discord's limit of 25 characters fits a token and the largest job id of any real database.
    return f"{job.token}-{job.id}"


def cancelled(job: Job) -> str:
    """Return the message of a job that was cancelled."""
    is_others = job.ended_by is not None and job.ended_by.remover is Remover.MODERATOR
    who = " by a moderator" if is_others else ""
    return f"{headline(job)}\ncancelled{who} · job {job.id}"


def postponed(job: Job) -> str:
    """Return the message of a job whose pictures cannot be stored now."""
    return (
        f"{headline(job)}\nMy disk cannot store these pictures now; they follow as soon as "
        f"the operator makes room or fixes the disk · job {job.id}"
    )


def failed(job: Job, sentence: str) -> str:
    """Return the message of a job that failed."""
    return f"{headline(job)}\n⚠️ {sentence} · job {job.id}"


def unquoted(job: Job, content: str) -> str:
    """Return a message of a job without the prompt, in case a filter blocks the prompt."""
    return f"<@{job.user_id}>\n{content.removeprefix(headline(job)).lstrip()}"


def finished(job: Job, recipe: Recipe, parent: StoredImage | None = None) -> str:
    """Return the message above the pictures, with all that is needed to make them again.

    `recipe` is the recipe of the first picture. `parent` is the picture that they vary, if any.
    """
    first, last = job.request.seed, job.request.seed_of(job.request.count - 1)
    facts = [
        f"seed {first}" if first == last else f"seeds {first} to {last}",
        f"{recipe.width}×{recipe.height}",
        f"{recipe.steps} steps",
        f"guidance {recipe.guidance_scale:g}",
        names.label(recipe.scheduler, recipe.spacing),
    ]
    if job.request.model is not None:
        facts.insert(0, plain(job.request.model))
    facts += [f"LoRA {plain(used['name'])} {used['weight']:g}" for used in recipe.loras or ()]
    if recipe.strength is not None:
        source = "" if parent is None else f" of {parent.job_id}-{parent.index + 1}"
        facts.append(f"variation{source} at strength {recipe.strength:g}")
    if recipe.reference_sha256:
        facts.append(_edited(recipe.reference_sha256, parent))
    facts.append(f"job {job.id}")
    lines = [headline(job), " · ".join(facts)]
    if recipe.negative_prompt:
        lines.insert(1, f"without: {quoted(recipe.negative_prompt)}")
    if recipe.unread_prompt:
        lines.append(f"-# The model did not read: “{quoted(recipe.unread_prompt, 120)}”")
    return "\n".join(lines)


def _edited(references: Sequence[str], parent: StoredImage | None) -> str:
    """Return what a picture is an edit of; `parent` is the first of the pictures, if known."""
    others = len(references) - (parent is not None)
    pictures = "a picture" if others == 1 else f"{others} pictures"
    if parent is None:
        return f"edit of {pictures}"
    first = f"edit of {parent.job_id}-{parent.index + 1}"
    return f"{first} and {pictures}" if others else first


def jump(entry: HistoryEntry) -> str:
    """Return a link to the message of a job, or "" if the job never had a message."""
    if entry.message_id is None:
        return ""
    place = entry.guild_id if entry.guild_id is not None else "@me"
    url = f"https://discord.com/channels/{place}/{entry.channel_id}/{entry.message_id}"
    return f"[go to it](<{url}>)"


def history(
    entries: Sequence[HistoryEntry], search: str, hidden: Collection[int] = frozenset()
) -> str:
    """Return the answer of `/history`: a list of jobs, newest first.

    `hidden` are jobs of age-restricted channels: the list shows a link in place of their prompts.
    """
    if not entries:
        if search:
            return (
                f"None of your pictures match “{quoted(search, _LISTED_PROMPT)}”; try fewer words."
            )
        return "You have no pictures yet; make one with /imagine."
    text = ""
    for entry in entries:
        what = f"**{quoted(entry.prompt, _LISTED_PROMPT)}** · seed {entry.seed}"
        if entry.job_id in hidden:
            what = "made in an age-restricted channel; look at it there"
        line = (
            f"`{entry.job_id}` {what} · "
            f"{discord.utils.format_dt(entry.created_at, 'R')} {jump(entry)}".rstrip()
        )
        if len(text) + len(line) >= _MESSAGE_LENGTH:
            break
        text += f"{line}\n"
    return text.rstrip()


def models(usable: Sequence[ListedModel]) -> str:
    """Return the answer of `/models`: the models that a person may use here, with licences.

    The first is used when a request names none.
    """
    if not usable:
        return "You may use none of the models here; ask the operator."
    lines = []
    for model in usable:
        name = f"**{quoted(model.name, _LISTED_PROMPT)}**"
        licence = quoted(model.licence_name, _LISTED_PROMPT)
        note = " · used when you name none" if model is usable[0] and len(usable) > 1 else ""
        lines.append(f"{name} · licence: {licence}{note}")
    return cut("\n".join(lines), _MESSAGE_LENGTH)


def choice_name(entry: HistoryEntry, number: int | None = None) -> str:
    """Return the text of a suggestion: the job or picture, then the prompt, shortened."""
    name = f"{entry.job_id}" if number is None else f"{entry.job_id}-{number}"
    text = f"{name} · {' '.join(plain(entry.prompt).split())}"
    return cut(text, _CHOICE_LENGTH)


def alt_text(job: Job, recipe: Recipe, number: int, count: int) -> str:
    """Return the description of a picture for people who cannot see it."""
    which = "A picture" if count == 1 else f"Picture {number} of {count}"
    kind = _MADE.get(job.kind, "generated")
    text = f"{which}, {kind}: {' '.join(plain(recipe.prompt).split())} (seed {recipe.seed})"
    return cut(text, ALT_LENGTH)


def cut(text: str, length: int) -> str:
    """Return `text`, shortened to `length` characters with an ellipsis at the end if needed."""
    return text if len(text) <= length else text[: length - 1] + "…"
