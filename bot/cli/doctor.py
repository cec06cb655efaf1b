"""`imagine-bot doctor`: checks the set-up, and says how to fix what is wrong."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import discord

from generation.catalog.profile import Half
from generation.errors import GenerationError, ModelNotHere
from generation.values.request import SIZE_MIN
from storage.errors import StorageError
from storage.folder.permissions import others_may_enter
from storage.folder.space import free_bytes

from .. import console
from ..client import INTENTS
from ..config import Reading, Settings, read_settings
from ..delivery.codes import FAULTS, parsed
from ..engines import load_engine
from ..errors import ConfigError
from ..listing import ListedModel
from ..permissions.models import needs_missing_filter
from ..requests.builder import RequestBuilder
from ..requests.limits import OperatorLimits
from ..requests.models import look_at
from ..requests.options import RequestOptions
from ..terminal import shows
from ..token import PORTAL, NoToken, find_token, readable_by_others
from . import data_folder
from .addons import checked_addons
from .needs import needs_of

_SPACE_MIN: Final = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `fix` is empty if all is well."""

    subject: str
    text: str
    fix: str = ""


def examine(config: Path | None, *, data: Path | None, card: float | None) -> int:
    """Print a line for each check; return 0 only if all is well.

    `card` is the memory, in GB, of a card that is not in this machine.
    """
    reading = read_settings(config, data=data)
    console.set_up_logging("ERROR")
    findings = []
    for finding in _findings(reading, card):
        _print(finding)
        findings.append(finding)
    return 1 if any(finding.fix for finding in findings) else 0


def _findings(reading: Reading, card: float | None) -> Iterator[Finding]:
    for fault in reading.faults:
        yield Finding("config", "cannot be used", fault)
    if not reading.faults:
        yield Finding("config", "can be read")
    # The settings are without the wrong values, so the other parts can be checked.
    settings = reading.settings
    yield _token(settings, reading.token_in)
    yield _intents(settings)
    yield from _models(settings)
    for addon in checked_addons(settings):
        yield Finding(*addon)
    yield _device(settings)
    yield from _memory(settings, card)
    yield from _weights(settings)
    for check in (_data, _rights, _space):
        yield check(settings)


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
        await parsed(client.login(token))
        return str(client.user)


def _intents(_: Settings) -> Finding:
    names = ", ".join(name for name, wanted in INTENTS if wanted)
    return Finding("intents", f"{names}: none is privileged, so none has to be switched on")


def _models(settings: Settings) -> Iterator[Finding]:
    for listed in settings.listed:
        yield _model(settings, listed)


def _model(settings: Settings, listed: ListedModel) -> Finding:
    # A file that doctor downloads or converts would belong to the user who runs doctor.
    name = listed.name if settings.models else listed.location
    try:
        profile = look_at(listed)
    except ModelNotHere as error:
        if listed.name == settings.default_model.name:
            return Finding("model", str(error))
        fix = f"run imagine-bot models pull {listed.name!r}"
        return Finding("model", f"{name} is not on this machine, so nobody can choose it", fix)
    except GenerationError as error:
        return Finding("model", f"{name} cannot be used", str(error))
    if listed.scheduler is not None and listed.scheduler not in profile.schedulers:
        fix = f"set the scheduler to one of {', '.join(profile.schedulers)}"
        return Finding("model", f"{name} does not work with {listed.scheduler}", fix)
    shown = name if settings.models else profile.name
    text = (
        f"{shown}, {profile.native_size}x{profile.native_size} pixels, "
        f"{profile.prompt_limit} tokens"
    )
    if needs_missing_filter(listed):
        text += "; its licence demands a content filter, so it works on the command line only"
    return Finding("model", text)


def _device(settings: Settings) -> Finding:
    # Imported here because it loads torch: the findings before are printed first.
    from generation.models.networks.devices import choose_device, choose_dtype  # noqa: PLC0415

    try:
        device = choose_device(settings.device)
    except GenerationError as error:
        return Finding("device", f"{settings.device or 'none'} cannot be used", str(error))
    try:
        dtype = str(choose_dtype(settings.dtype, device, _half(settings))).removeprefix("torch.")
    except GenerationError as error:
        return Finding("device", f"{settings.dtype} cannot be used on {device}", str(error))
    text = f"{device}, {dtype}"
    if device.type == "cpu":
        text += "; large models need a GPU, the starter model does not"
    return Finding("device", text)


def _memory(settings: Settings, card: float | None) -> Iterator[Finding]:
    """Say what each model needs on a card of `card` GB, or on the device that is there."""
    import torch  # noqa: PLC0415 - it takes seconds

    from generation.models.networks.devices import choose_device, choose_dtype  # noqa: PLC0415

    for listed in settings.listed:
        try:
            profile = look_at(listed)
            device = choose_device(settings.device) if card is None else torch.device("cuda")
            needs = needs_of(profile, choose_dtype(settings.dtype, device, profile.half))
        except GenerationError:
            # The findings about the model and the device say what is wrong.
            continue
        size = None if card is None else card * 1e9
        if device.type == "cuda" and size is None:
            size = torch.cuda.get_device_properties(device).total_memory
        fix = "" if size is None else needs.fix(size)
        yield Finding("memory", f"{profile.name}: {needs.describe()}", fix)


def _half(settings: Settings) -> Half:
    """Return the 16-bit type of the default model; if it cannot be looked at, of most models."""
    try:
        return look_at(settings.default_model).half
    except GenerationError:
        return "float16"


def _weights(settings: Settings) -> Iterator[Finding]:
    for listed in settings.listed:
        finding = _weights_of(settings, listed)
        if settings.models:
            finding = replace(finding, text=f"of {listed.name}: {finding.text}")
        yield finding
        # The networks refer to each other in circles, and the next model needs their memory.
        gc.collect()


def _weights_of(settings: Settings, listed: ListedModel) -> Finding:
    """Load a model and take one step with it, as the bot does before it connects."""
    if data_folder.is_in_use(settings.data):
        return Finding("weights", "not tried, because the running bot has loaded them")
    try:
        profile = look_at(listed)
        # Compiling takes minutes and does not check the weights.
        engine = load_engine(settings.model_copy(update={"compile": False}), profile, shared=False)
        options = RequestOptions(prompt="a test", steps=1, width=SIZE_MIN, height=SIZE_MIN)
        builder = RequestBuilder(OperatorLimits(settings, profile, listed), profile)
        engine.generate(builder.imagine(options, guild_id=None))
    except ModelNotHere:
        return Finding("weights", "not tried, because the model has to be brought here first")
    except GenerationError as error:
        return Finding("weights", "cannot be used", str(error))
    return Finding("weights", "loaded, and one step was taken with them")


def _data(settings: Settings) -> Finding:
    if not _is_there(settings.data):
        # Doctor does not make the folder, because another user than the bot's may run it.
        return _missing_folder(settings.data)
    return Finding("database", *data_folder.check_or_explain(settings.data))


def _missing_folder(data: Path) -> Finding:
    try:
        data.exists()
    except PermissionError:
        pass
    except OSError as error:
        # For example, the name is too long.
        reason = f"{error.strerror}: name another folder with --data"
        return Finding("database", f"{data} cannot be a folder", reason)
    parent = _nearest(data)
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return Finding("database", f"{data} does not exist yet; the bot makes it when it starts")
    return Finding(
        "database",
        f"{data} does not exist and cannot be made",
        f"let the bot's user write to {parent}, or name another folder with --data",
    )


def _nearest(folder: Path) -> Path:
    """Return `folder` if it exists, or else its nearest parent that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if _is_there(place))


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:
        # A parent folder may not be readable.
        return False


def _rights(settings: Settings) -> Finding:
    data = settings.data
    try:
        is_open = _is_there(data) and others_may_enter(data)
    except OSError as error:
        return Finding(
            "rights", f"{data} cannot be checked", f"{error.strerror}: run doctor as its owner"
        )
    if is_open:
        return Finding(
            "rights", f"other users of this machine may read {data}", f"chmod 700 {data}"
        )
    return Finding("rights", f"only its owner may read {data}")


def _space(settings: Settings) -> Finding:
    try:
        free = free_bytes(_nearest(settings.data))
    except StorageError as error:
        return Finding("space", "cannot be measured", str(error))
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
