"""Reads the JSON files of a model, with bounds on bytes, depth and numbers.

A model comes from a stranger. A few kilobytes of brackets exhaust the interpreter's stack, a number
of a million digits takes minutes to read, and NaN passes every comparison. No model needs these.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, Final

from ..errors import ModelError

CONFIG_BYTES: Final = 2**20
# The index of a model in many shards and a vocabulary of CLIP take about a megabyte each.
LIST_BYTES: Final = 16 * 2**20
DEPTH: Final = 32
# A tokenizer without a limit writes 10**30 as a whole number.
_DIGITS: Final = 40
_STRING_OR_BRACKET: Final = re.compile(
    rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL
)


class _Refused(ValueError):
    """A text that is refused; the message is the part of a sentence that says why."""


def read_object(path: Path, *, most: int = CONFIG_BYTES, unique: bool = False) -> dict[str, Any]:
    """Return the JSON object in a file of a model, of at most `most` bytes.

    With `unique` an object may not have a key twice.

    Raises:
        ModelError: the file cannot be read, is too large, or holds something else.
    """
    return as_object(read_bytes(path, most=most), path, unique=unique)


def read_bytes(path: Path, *, most: int) -> bytes:
    """Return the bytes of a file of a model.

    Raises:
        ModelError: the file cannot be read or is larger than `most` bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}); check that the file may be read, or "
            "download the model again."
        ) from error
    if len(data) > most:
        raise ModelError(
            f"{path} is larger than {most / 2**20:g} MiB, which no model needs there; download the "
            "model again or choose another one."
        )
    return data


def as_object(data: bytes, where: Path, *, unique: bool = False) -> dict[str, Any]:
    """Return the JSON object in `data`; `where` names the file in errors.

    Raises:
        ModelError: `data` is no JSON object, or exceeds a bound.
    """
    try:
        value = _parsed(data, unique=unique)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{where} cannot be read as JSON ({error}); download the model again."
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{where} holds no JSON object; download the model again.")
    return value


def _parsed(data: bytes, *, unique: bool) -> Any:
    _check_depth(data)
    # Editors on Windows write a byte order mark first.
    text = data.decode("utf-8-sig")
    value = json.loads(
        text,
        parse_int=_whole,
        parse_float=_finite,
        parse_constant=_constant,
        object_pairs_hook=_unique if unique else None,
    )
    if "\\u" in text:
        _check_text(value)
    return value


def _check_depth(data: bytes) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(data):
        first = data[match.start()]
        if first in b"[{":
            depth += 1
        elif first in b"]}":
            depth -= 1
        if depth > DEPTH:
            raise _Refused(f"it is nested more than {DEPTH} deep")


def _check_text(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _Refused("it holds half of a character") from error


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise _Refused(f"it holds a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _Refused(f"it holds the number {digits[:_DIGITS]}, which is too large")
    return value


def _constant(name: str) -> float:
    raise _Refused(f"it holds {name}, which is no number in JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise _Refused(f"it says {twice[:80]!r} twice")
    return found
