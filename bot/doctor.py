"""`imagine-bot doctor`: what is wrong with the set-up, and the fix."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import discord

from generation.errors import GenerationError, ModelNotHere
from generation.locate import ModelProfile, locate
from generation.request import SIZE_MIN
from storage.errors import StorageError
from storage.rights import others_may_enter
from storage.space import free_bytes

from . import console, storage_checks
from .client import INTENTS
from .config import Reading, Settings, read_settings
from .delivery_codes import FAULTS, understood
from .engines import load_engine
from .errors import ConfigError
from .requests import RequestDesk, Wishes
from .terminal import shows
from .token import PORTAL, NoToken, find_token, readable_by_others

_SPACE_MIN: Final = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `fix` is empty when it is well."""

    subject: str
    text: str
    fix: str = ""


def examine(config: Path | None, *, data: Path | None) -> int:
    """Print a line for each part of the set-up; return 0 only if all of it is well."""
    reading = read_settings(config, data=data)
    console.set_up_logging("ERROR")
    findings = []
    for finding in _findings(reading):
        _print(finding)
        findings.append(finding)
    return 1 if any(finding.fix for finding in findings) else 0


def _findings(reading: Reading) -> Iterator[Finding]:
    for fault in reading.faults:
        yield Finding("config", "cannot be used", fault)
    if not reading.faults:
        yield Finding("config", "can be read")
    # What is wrong there is left out, so the other parts can be looked at all the same.
    checks: tuple[Callable[[Settings], Finding], ...] = (
        lambda settings: _token(settings, reading.token_in),
        _intents,
        _model,
        _device,
        _weights,
        _data,
        _rights,
        _space,
    )
    for check in checks:
        yield check(reading.settings)


def _print(finding: Finding) -> None:
    bad, good, arrow = "✗✓→" if shows(console.out, "✗✓→") else "x+>"
    mark = f"[yellow]{bad}[/]" if finding.fix else f"[green]{good}[/]"
    console.out.print(f"{mark} [bold]{finding.subject}[/]:", end=" ")
    console.say(finding.text)
    if finding.fix:
        console.say(f"  {arrow} {finding.fix}")


def _token(settings: Settings, token_in: Path | None) -> Finding:
    try:
        token = find_token(settings)
    except NoToken as error:
        return Finding("token", "there is none", str(error))
    except ConfigError as error:
        return Finding("token", "cannot be used", str(error))
    try:
        name = asyncio.run(_log_in(token))
    except discord.LoginFailure:
        fix = f"copy it again from the Bot page of {PORTAL}; resetting it makes a new one"
        return Finding("token", "Discord refused it", fix)
    except FAULTS as error:
        return Finding(
            "token", "could not be tried", f"Discord cannot be reached ({error}): check the network"
        )
    if readable_by_others(token_in):
        return Finding(
            "token",
            f"it belongs to {name}, and other users may read it in {token_in}",
            f"chmod 600 {token_in}",
        )
    return Finding("token", f"it belongs to {name}")


async def _log_in(token: str) -> str:
    async with discord.Client(intents=INTENTS) as client:
        await understood(client.login(token))
        return str(client.user)


def _intents(_: Settings) -> Finding:
    names = ", ".join(name for name, wanted in INTENTS if wanted)
    return Finding("intents", f"{names}: none is privileged, so none has to be switched on")


def _model(settings: Settings) -> Finding:
    try:
        profile = _look_at(settings)
    except ModelNotHere as error:
        return Finding("model", str(error))
    except GenerationError as error:
        return Finding("model", f"{settings.model} cannot be used", str(error))
    return Finding(
        "model",
        f"{profile.name}, {profile.native_size}x{profile.native_size} pixels, "
        f"{profile.prompt_limit} tokens",
    )


def _look_at(settings: Settings) -> ModelProfile:
    # A file that doctor downloads or converts would belong to the user who runs doctor.
    return locate(settings.model, prediction_type=settings.prediction_type, only_look=True)


def _device(settings: Settings) -> Finding:
    # Here, because this import loads torch, and the other findings are printed before it.
    from generation.weights import choose_device, choose_dtype  # noqa: PLC0415

    try:
        device = choose_device(settings.device)
    except GenerationError as error:
        return Finding("device", f"{settings.device or 'none'} cannot be used", str(error))
    try:
        dtype = str(choose_dtype(settings.dtype, device)).removeprefix("torch.")
    except GenerationError as error:
        return Finding("device", f"{settings.dtype} cannot be used on {device}", str(error))
    text = f"{device}, {dtype}"
    if device.type == "cpu":
        text += "; large models want a GPU, the starter model does not"
    return Finding("device", text)


def _weights(settings: Settings) -> Finding:
    """Load the model and take one step with it, as the bot does before it connects."""
    if storage_checks.is_in_use(settings.data):
        return Finding("weights", "left to the running bot, which has loaded them")
    try:
        profile = _look_at(settings)
        # Compiling takes minutes, and says nothing about the weights.
        engine = load_engine(settings.model_copy(update={"compile": False}), profile, shared=False)
        wishes = Wishes(prompt="a test", steps=1, width=SIZE_MIN, height=SIZE_MIN)
        engine.generate(RequestDesk(settings, profile).imagine(wishes))
    except ModelNotHere:
        return Finding("weights", "left to the first start, which brings the model here")
    except GenerationError as error:
        return Finding("weights", "cannot be used", str(error))
    return Finding("weights", "loaded, and one step was taken with them")


def _data(settings: Settings) -> Finding:
    if not _is_there(settings.data):
        # It is looked at and not made: the person who asks may be another user than the bot's.
        return _folder_to_be(settings.data)
    return Finding("database", *storage_checks.sentence(settings.data))


def _folder_to_be(data: Path) -> Finding:
    try:
        data.exists()
    except PermissionError:
        pass
    except OSError as error:
        # For example, the name is too long.
        reason = f"{error.strerror}: name another folder with --data"
        return Finding("database", f"{data} can be no folder", reason)
    parent = _nearest(data)
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return Finding("database", f"{data} is not there yet; the bot makes it when it starts")
    return Finding(
        "database",
        f"{data} is not there and cannot be made",
        f"let the bot's user write to {parent}, or name another folder with --data",
    )


def _nearest(folder: Path) -> Path:
    """Return `folder`, or the nearest of those that it is in that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if _is_there(place))


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:
        # What is in a folder that may not be looked into cannot be told.
        return False


def _rights(settings: Settings) -> Finding:
    data = settings.data
    try:
        is_open = _is_there(data) and others_may_enter(data)
    except OSError as error:
        return Finding(
            "rights", f"{data} cannot be looked at", f"{error.strerror}: run as its owner"
        )
    if is_open:
        return Finding(
            "rights", f"other users of this machine may look into {data}", f"chmod 700 {data}"
        )
    return Finding("rights", f"only its owner may look into {data}")


def _space(settings: Settings) -> Finding:
    try:
        free = free_bytes(_nearest(settings.data))
    except StorageError as error:
        return Finding("space", "cannot be told", str(error))
    fix = "make room, or name a folder on another disk with --data"
    if free < settings.min_free_mb * 2**20:
        return Finding(
            "space",
            f"{settings.data} has only {free // 2**20} MB left, and below "
            f"{settings.min_free_mb} MB (min_free_mb) the bot accepts no jobs",
            fix,
        )
    if free < _SPACE_MIN:
        return Finding("space", f"{settings.data} has only {free // 2**20} MB left", fix)
    return Finding("space", f"{free // 2**30} GB are free for {settings.data}")
