"""The LoRAs that the operator has: files in a folder, and what the operator says of them.

Importing this module loads no torch. Whether a LoRA fits a model is checked where it is read
(`generation.models.adapters.reading`).
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import LoraError, ModelError, any_of
from ...values.inversion import Inversion
from ...values.lora import LORA_NAME_LENGTH, Lora
from ..files import PICKLES, SAFETENSORS
from ..hashing import file_sha256

log = logging.getLogger(__name__)

_FILES_MOST: Final = 10_000
_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedLora:
    """A LoRA as the operator lists it.

    `triggers` are words that a prompt needs for it. `weight` is the weight of a request that says
    none.
    """

    name: str
    path: Path
    triggers: tuple[str, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class LoraLibrary:
    """The LoRAs in a folder and those that are listed; a listed one comes before a file.

    The folder is read at each call, so a file that was put there can be used at once. The name of a
    file is its name without the suffix; capital letters do not matter. `kind` is what the files are
    called in sentences: LoRA, or embedding.
    """

    folder: Path | None = None
    listed: tuple[ListedLora, ...] = ()
    kind: str = "LoRA"

    def all(self) -> Mapping[str, ListedLora]:
        """Return the LoRAs by their names in small letters, sorted.

        Raises:
            LoraError: the folder cannot be read.
        """
        found = {path.stem: ListedLora(name=path.stem, path=path) for path in self._files()}
        named = {lora.name: lora for lora in found.values()} | {x.name: x for x in self.listed}
        return {name.casefold(): named[name] for name in sorted(named, key=str.casefold)}

    def named(self, name: str) -> ListedLora:
        """Return the LoRA called `name`.

        Raises:
            LoraError: there is none.
        """
        return self.named_in(self.all(), name)

    def named_in(self, known: Mapping[str, ListedLora], name: str) -> ListedLora:
        """Do the same as `named` for what `all` returned, so that the folder is read once."""
        found = known.get(name.strip().casefold())
        if found is None:
            raise LoraError(_unknown(name, known, self))
        return found

    def file(self, lora: Lora | Inversion) -> tuple[Path, str]:
        """Return the file of a LoRA, and the hash of the file.

        A LoRA with a hash is looked for by its name first, and then in all files.

        Raises:
            LoraError: there is no such LoRA, or its file has changed, or cannot be read.
        """
        if lora.sha256 is None:
            path = self.named(lora.name).path
            return path, _hash(path)
        known = self.all()
        first = known.get(lora.name.casefold())
        others = [each.path for each in known.values() if each is not first]
        for path in [*([] if first is None else [first.path]), *others]:
            if _hash(path) == lora.sha256:
                return path, lora.sha256
        if first is None:
            raise LoraError(
                f"The {self.kind} {lora.name} of this picture is gone; put its file back, the one "
                f"with the SHA-256 {lora.sha256[:12]}…."
            )
        raise LoraError(
            f"The {self.kind} {lora.name} has changed since this picture was made; put the file "
            f"back that has the SHA-256 {lora.sha256[:12]}…."
        )

    def _files(self) -> Iterator[Path]:
        """Yield the files of the folder and of the folders in it, sorted, the last with a name."""
        if self.folder is None:
            return
        try:
            paths = [path for way in ("*/*", "*") for path in sorted(self.folder.glob(way))]
            found = [p for p in paths if p.suffix.lower() in SAFETENSORS and p.is_file()]
        except OSError as error:
            log.warning("The folder %s cannot be read: %s", self.folder, error)
            raise LoraError(
                f"The folder of {self.kind}s cannot be read ({error.strerror}); the operator has "
                "to let the bot's user read it."
            ) from error
        yield from found[:_FILES_MOST]


NO_LORAS: Final = LoraLibrary()
"""The library of an operator without LoRAs."""
NO_INVERSIONS: Final = LoraLibrary(kind="embedding")
"""The library of an operator without textual inversions."""


def check_source(path: Path) -> None:
    """Check that a file may be a LoRA, by its name and its kind.

    Raises:
        LoraError: there is no such file, or it is a pickle.
    """
    if path.suffix.lower() in PICKLES:
        raise LoraError(
            f"{path} is a pickle: loading one can run code that somebody hid in it, so it is "
            "refused; use a .safetensors file."
        )
    if path.suffix.lower() not in SAFETENSORS or not path.is_file():
        raise LoraError(f"There is no .safetensors file {path}; correct its path.")


def _hash(path: Path) -> str:
    try:
        return file_sha256(path)
    except ModelError as error:
        raise without_folder(error, path) from error


def without_folder(error: ModelError, path: Path) -> LoraError:
    """Return an error about a file for everybody: only the log says in which folder the file is."""
    log.warning("%s", error)
    text = str(error)
    for shown in (path, path.resolve()):
        text = text.replace(str(shown), path.name)
    return LoraError(text)


def _unknown(name: str, known: Mapping[str, ListedLora], library: LoraLibrary) -> str:
    shown, kind = name.strip()[:LORA_NAME_LENGTH], library.kind
    if not known:
        todo = "set" if library.folder is None else "put one into"
        return (
            f"There is no {kind} {shown!r}, and no other one; the operator can {todo} "
            f"{kind.lower()}_folder."
        )
    near = difflib.get_close_matches(shown.casefold(), known, n=_NAMED)
    names = [known[key].name for key in near or list(known)[:_NAMED]]
    return f"There is no {kind} {shown!r}; use {any_of(names)}."
