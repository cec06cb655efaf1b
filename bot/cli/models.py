"""`imagine-bot models`: the operator's list of models, and what of it is on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import typer

from generation.catalog.cache.sizes import disk_bytes
from generation.catalog.files import ModelFiles, list_folder, select_files
from generation.catalog.profile import ModelProfile
from generation.errors import GenerationError, ModelError, ModelNotHere
from generation.models.locate import STARTER, is_on_hub, layout_for, layout_of

from .. import console
from ..config import load_settings
from ..errors import BotError
from ..listing import ListedModel
from ..requests.models import look_at
from . import data_folder

_NONE = "-"
_Check = Callable[[ListedModel], str]


@console.one_sentence
def list_models(config: Path | None) -> int:
    """Print a line for each listed model; return the exit code."""
    settings = load_settings(config)
    rows = [("name", "family", "licence", "size", "state")]
    for listed in settings.listed:
        is_default = listed.name == settings.default_model.name
        rows.append((listed.name, *_state(listed, is_default=is_default)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for *cells, last in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        console.say("  ".join((*padded, last)))
    return 0


def _state(listed: ListedModel, *, is_default: bool) -> tuple[str, str, str, str]:
    """Return the family, licence, size and state of a model."""
    try:
        profile = look_at(listed)
        size = _size(profile)
    except ModelNotHere:
        return _NONE, listed.licence_name, _NONE, "not here: imagine-bot models pull brings it"
    except GenerationError as error:
        return _NONE, listed.licence_name, _NONE, f"cannot be used: {error}"
    notes = ["here"]
    if is_default:
        notes.append("used when a person names none")
    if listed.needs_filter:
        notes.append("not in Discord: the licence demands a content filter")
    return profile.family, listed.licence_name, size, "; ".join(notes)


def pull_models(names: Sequence[str], config: Path | None) -> int:
    """Download or convert listed models, all without `names`; return 0 if all are here."""
    return _for_each(names, config, _pull)


def _pull(listed: ListedModel) -> str:
    console.say(f"{listed.name}: licence {_licence(listed)}")
    profile = console.locate_model(listed)
    size = _size(profile)
    return f"here, {size} in {profile.folder}"


def _licence(listed: ListedModel) -> str:
    if not listed.licence and is_on_hub(listed.location):
        # It loads the hub's client, which takes a good part of a second.
        from generation.catalog.cache.licences import licence_on_hub  # noqa: PLC0415

        return licence_on_hub(listed.location) or listed.licence_name
    return listed.licence_name


def check_models(names: Sequence[str], config: Path | None) -> int:
    """Read all files of listed models that are here; return 0 if all are whole."""
    return _for_each(names, config, _check)


def _check(listed: ListedModel) -> str:
    from generation.catalog.cache.verification import verify  # noqa: PLC0415

    profile = look_at(listed)
    files, beside = _files_of(profile), _beside(profile)
    count = len(files.names) + len(beside)
    with console.progress() as bar:
        task = bar.add_task("Reading", total=count)
        verified = verify(
            profile.folder, files, lambda _: bar.update(task, advance=1), beside=beside
        )
    if verified.faults:
        fix = (
            f"run imagine-bot models remove {listed.name!r}, then pull."
            if is_on_hub(listed.location)
            else "bring the model here again."
        )
        raise ModelError(f"{' '.join(verified.faults)} To repair it, {fix}")
    return (
        f"{count} files are whole ({verified.by_hash} have the hub's hashes, and "
        f"{verified.by_header} are as long as their headers say)"
    )


@console.one_sentence
def remove_models(
    names: Sequence[str], config: Path | None, *, data: Path | None, yes: bool
) -> int:
    """Remove downloaded and converted models from this machine, after a question for each."""
    settings = load_settings(config, data=data)
    if data_folder.is_in_use(settings.data):
        raise BotError("The bot is running and may need the model; stop the bot first.")
    chosen = settings.only(names)
    for listed in chosen:
        kept = [other for other in settings.listed if other not in chosen]
        _remove(listed, kept, yes=yes)
    return 0


def _remove(listed: ListedModel, kept: Sequence[ListedModel], *, yes: bool) -> None:
    from generation.catalog.cache.removal import remove, size_of  # noqa: PLC0415

    folders = _own_folders(listed)
    if not folders:
        console.say(f"{listed.name}: there is nothing to remove")
        return
    if sharing := [other.name for other in kept if _shares(other, folders)]:
        raise ModelError(
            f"The model {listed.name} has its files in common with {' and '.join(sharing)}; name "
            "those too, to remove all of them."
        )
    size = _megabytes(size_of(folders))
    if not yes:
        typer.confirm(f"Remove {listed.name} ({size} in {folders[0]})?", abort=True, err=True)
    remove(folders)
    console.say(f"{listed.name}: removed, {size} are free again")


def _shares(other: ListedModel, folders: Sequence[Path]) -> bool:
    """Return whether a model needs one of the folders that the bot made for another model."""
    with suppress(ModelError):
        return not set(folders).isdisjoint(_own_folders(other))
    return False


def _own_folders(listed: ListedModel) -> list[Path]:
    """Return the folders that the bot made for a model.

    Raises:
        ModelError: the model is in a folder of the operator, or is the bundled one.
    """
    from generation.catalog.cache.removal import hub_folders, is_converted  # noqa: PLC0415

    if listed.location == STARTER:
        raise ModelError(f"The model {listed.name} is a part of the bot; it cannot be removed.")
    # Of a model with a base, the bot downloaded only the base.
    source = listed.base or listed.location
    if is_on_hub(source):
        return hub_folders(source)
    try:
        folder = look_at(listed).folder
    except ModelNotHere:
        return []
    if not is_converted(folder):
        raise ModelError(
            f"The model {listed.name} is in a folder of your own, {folder}; remove that folder "
            "yourself."
        )
    return [folder]


@console.one_sentence
def _for_each(names: Sequence[str], config: Path | None, act: _Check) -> int:
    """Print what `act` returns for each of the listed models; return 1 if one of them failed."""
    failed = False
    for listed in load_settings(config).only(names):
        try:
            console.say(f"{listed.name}: {act(listed)}")
        except GenerationError as error:
            failed = True
            console.complain(BotError(f"{listed.name}: {error}"))
    return int(failed)


def _files_of(profile: ModelProfile) -> ModelFiles:
    where = f"The model in {profile.folder}"
    layout = layout_for(layout_of(profile.folder), profile.denoiser)
    return select_files(list_folder(profile.folder), layout, where)


def _beside(profile: ModelProfile) -> list[Path]:
    """Return the files of a model that are not in its folder: a denoiser, and another VAE."""
    denoiser = None if profile.denoiser is None else profile.denoiser.path
    return [path for path in (denoiser, profile.autoencoder) if path is not None]


def _size(profile: ModelProfile) -> str:
    size = disk_bytes(profile.folder, _files_of(profile))
    return _megabytes(size + sum(path.stat().st_size for path in _beside(profile)))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
