"""What people read and see: from records to content and files. Pure functions, no network."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import discord
from PIL import Image

from generation.metadata import read_origin, read_png, to_png
from generation.pictures import shown_factor, to_image
from generation.request import Event, Pixels, Recipe
from storage.records import HistoryEntry, Job, JobKind, Remover, StoredImage

from .markup import inert, plain, visible
from .states import state

_PROMPT_SHOWN: Final = 300
_MESSAGE_LENGTH: Final = 2_000
_ALT_LENGTH: Final = 1_024
_CHOICE_LENGTH: Final = 100
_LISTED_PROMPT: Final = 80
_JPEG_QUALITIES: Final = (95, 85, 70, 50)
_PREVIEW_NAME: Final = "preview-"
_PREVIEW_SIDE: Final = 256
_PREVIEW_QUALITY: Final = 80


def quoted(prompt: str, length: int = _PROMPT_SHOWN) -> str:
    """Return `prompt` on one line, shortened, with Discord's markup and links made harmless."""
    return inert(_cut(" ".join(visible(prompt).split()), length))


def headline(job: Job) -> str:
    """Return the first line of a job's message: the prompt and who asked."""
    return f"**{quoted(job.request.prompt)}** — <@{job.user_id}>"


def waiting(job: Job, event: Event | None = None) -> str:
    """Return the message of a job that is not finished, as it is after `event`."""
    return f"{headline(job)}\n{' · '.join([*state(event), f'job {job.id}'])}"


def nonce(job: Job) -> str:
    """Return the mark by which Discord posts a job's message once, however often it is sent."""
    # Discord takes 25 characters: those of the token, and of a number that no database reaches.
    return f"{job.token}-{job.id}"


def cancelled(job: Job) -> str:
    """Return the message of a job that was cancelled."""
    is_others = job.ended_by is not None and job.ended_by.remover is Remover.MODERATOR
    who = " by a moderator" if is_others else ""
    return f"{headline(job)}\ncancelled{who} · job {job.id}"


def postponed(job: Job) -> str:
    """Return the message of a job whose pictures cannot be stored now."""
    return (
        f"{headline(job)}\nMy disk does not take these pictures now; they come as soon as the "
        f"operator has made room for them, or fixed it · job {job.id}"
    )


def failed(job: Job, sentence: str) -> str:
    """Return the message of a job that came to nothing."""
    return f"{headline(job)}\n⚠️ {sentence} · job {job.id}"


def unquoted(job: Job, content: str) -> str:
    """Return a message of a job without its prompt, which may be what a filter blocks."""
    return f"<@{job.user_id}>\n{content.removeprefix(headline(job)).lstrip()}"


def finished(job: Job, recipe: Recipe, parent: StoredImage | None = None) -> str:
    """Return the message above the pictures: what it takes to make them again.

    `recipe` is the one of the first picture, `parent` the image that they were varied from.
    """
    first, last = job.request.seed, job.request.seed_of(job.request.count - 1)
    facts = [
        f"seed {first}" if first == last else f"seeds {first} to {last}",
        f"{recipe.width}×{recipe.height}",
        f"{recipe.steps} steps",
        f"guidance {recipe.guidance_scale:g}",
        recipe.scheduler.upper(),
    ]
    if recipe.strength is not None:
        source = "" if parent is None else f" of {parent.job_id}-{parent.index + 1}"
        facts.append(f"variation{source} at strength {recipe.strength:g}")
    facts.append(f"job {job.id}")
    lines = [headline(job), " · ".join(facts)]
    if recipe.negative_prompt:
        lines.insert(1, f"without: {quoted(recipe.negative_prompt)}")
    if recipe.unread_prompt:
        lines.append(f"-# The model did not read: “{quoted(recipe.unread_prompt, 120)}”")
    return "\n".join(lines)


def jump(entry: HistoryEntry) -> str:
    """Return a link to the message of a job, or nothing if it never had one."""
    if entry.message_id is None:
        return ""
    place = entry.guild_id if entry.guild_id is not None else "@me"
    url = f"https://discord.com/channels/{place}/{entry.channel_id}/{entry.message_id}"
    return f"[go to it](<{url}>)"


def history(
    entries: Sequence[HistoryEntry], search: str, hidden: Collection[int] = frozenset()
) -> str:
    """Return the list that `/history` answers with, newest first.

    Of the `hidden` jobs, which were asked for in age-restricted channels, it says only where
    they are.
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


def choice_name(entry: HistoryEntry, number: int | None = None) -> str:
    """Return a suggestion's text: the job or picture, then as much of the prompt as fits."""
    name = f"{entry.job_id}" if number is None else f"{entry.job_id}-{number}"
    text = f"{name} · {' '.join(plain(entry.prompt).split())}"
    return _cut(text, _CHOICE_LENGTH)


def alt_text(job: Job, recipe: Recipe, number: int, count: int) -> str:
    """Return the description of a picture for people who cannot see it."""
    which = "A picture" if count == 1 else f"Picture {number} of {count}"
    kind = "varied from another" if job.kind is JobKind.VARY else "generated"
    text = f"{which}, {kind}: {' '.join(plain(recipe.prompt).split())} (seed {recipe.seed})"
    return _cut(text, _ALT_LENGTH)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file to send: made into a new `discord.File` for each attempt, since those are used up."""

    filename: str
    data: bytes
    description: str

    def file(self) -> discord.File:
        """Return a fresh file object of this attachment."""
        return discord.File(io.BytesIO(self.data), self.filename, description=self.description)


def preview(job: Job, percent: int, pixels: Pixels) -> Attachment:
    """Return the file that shows what the pictures of a job will be, as far as can be seen yet.

    A preview has one pixel for several of the picture's. It is enlarged smoothly and by the
    largest whole factor that leaves its longer side within 256 pixels: that is more than 128,
    and no more than any picture is shown with.
    """
    factor = max(1, _PREVIEW_SIDE // max(pixels.width, pixels.height))
    size = (pixels.width * factor, pixels.height * factor)
    image = to_image(pixels).resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_PREVIEW_QUALITY)
    prompt = " ".join(plain(job.request.prompt).split())
    text = _cut(f"A blurred preview at {percent} %: {prompt}", _ALT_LENGTH)
    return Attachment(f"{_PREVIEW_NAME}{job.id}.jpg", file.getvalue(), text)


def is_finished(filenames: Iterable[str]) -> bool:
    """Return whether a message with these files below it has its pictures, not just a preview."""
    return any(not name.startswith(_PREVIEW_NAME) for name in filenames)


def attachments(
    job: Job, pictures: Sequence[tuple[Recipe, bytes]], *, limit: int
) -> list[Attachment]:
    """Return the files of a job as shown: small ones enlarged, all together at most `limit` bytes.

    `pictures` are the recipes and the PNG files that are stored with them inside. Those are sent as
    they are where nothing is to be enlarged; only where they are too large for the channel they
    become JPEGs of falling quality.
    """
    texts = [
        alt_text(job, recipe, number, len(pictures))
        for number, (recipe, _) in enumerate(pictures, start=1)
    ]
    pngs = [_as_shown(recipe, png) for recipe, png in pictures]
    if sum(map(len, pngs)) <= limit:
        return [
            Attachment(f"imagine-{job.id}-{number}.png", png, text)
            for number, (png, text) in enumerate(zip(pngs, texts, strict=True), start=1)
        ]
    for quality in _JPEG_QUALITIES:
        jpegs = [_jpeg(png, quality) for png in pngs]
        if sum(map(len, jpegs)) <= limit:
            break
    return [
        Attachment(f"imagine-{job.id}-{number}.jpg", jpeg, text)
        for number, (jpeg, text) in enumerate(zip(jpegs, texts, strict=True), start=1)
    ]


def bytes_to_show(job: Job) -> int:
    """Return how many bytes the pictures of a job take in memory, as stored and as shown, at most.

    A PNG of a photograph has somewhat less than its pixels.
    """
    request = job.request
    pixels = 3 * request.width * request.height
    return request.count * pixels * (1 + shown_factor(request.width, request.height) ** 2)


def _as_shown(recipe: Recipe, png: bytes) -> bytes:
    factor = shown_factor(recipe.width, recipe.height)
    if factor == 1:
        return png
    return to_png(read_png(png)[0], recipe, factor=factor, origin=read_origin(png))


def _jpeg(png: bytes, quality: int) -> bytes:
    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(file, "JPEG", quality=quality)
    return file.getvalue()
