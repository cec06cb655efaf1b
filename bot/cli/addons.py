"""What `imagine-bot doctor` says of the LoRAs and textual inversions of the operator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from generation.catalog.addons.loras import LoraLibrary, check_source
from generation.catalog.files import PICKLES
from generation.catalog.headers import read_header
from generation.errors import GenerationError
from generation.models.adapters.layouts import is_adapter

from ..config import Settings
from ..engines import inversion_library, lora_library

_SHOWN: Final = 3


def checked_addons(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield the subject of each folder that is set, what is in it, and how to fix its faults."""
    loras, inversions = lora_library(settings), inversion_library(settings)
    if loras.folder is not None or loras.listed:
        yield "LoRAs", *_checked(loras)
    if inversions.folder is not None:
        yield "embeddings", *_checked(inversions)


def _checked(library: LoraLibrary) -> tuple[str, str]:
    folder = library.folder
    if folder is not None and not folder.is_dir():
        return f"there is no folder {folder}", "make it, or correct its name in the config"
    try:
        known = list(library.all().values())
    except GenerationError as error:
        return "cannot be looked at", str(error)
    faults = [fault for each in known if (fault := _fault(each.path, library.kind))]
    if folder is not None and any(path.suffix.lower() in PICKLES for path in folder.iterdir()):
        faults.append(f"{folder} has pickles, which are never read: convert them to .safetensors")
    counted = f"{len(known)} found"
    if not faults:
        return counted, ""
    return f"{counted}, faults: {len(faults)}", "; ".join(faults[:_SHOWN])


def _fault(path: Path, kind: str) -> str:
    """Return why a file cannot be used; an empty text if its header is right."""
    try:
        check_source(path)
        header = read_header(path, what=f"the {kind}")
    except GenerationError as error:
        return str(error)
    if kind == "LoRA" and not is_adapter(header.tensors):
        return f"{path} holds no LoRA; remove it from the folder"
    return ""
