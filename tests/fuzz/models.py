"""Changed folders of models: they load, or are refused in one sentence."""

from __future__ import annotations

import json
import random
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any, Final

from generation.errors import ModelError
from generation.models.loading import load
from generation.models.locate import profile_of, starter_folder

from ..generation.tiny import tiny_pipeline

_UNET: Final = "unet/diffusion_pytorch_model.safetensors"
_HOSTILE: Final[tuple[Any, ...]] = (
    *(None, True, False, "", "x", "o/evil", [], {}, [[]], {"a": {}}, "\ud800", "x" * 100_000),
    *(0, 1, -1, 2, 3, 17, 129, 10**6, 10**9, 2**31, 2**63, 10**30, 1e300, -1e300, 0.5),
    *([8] * 17, [8] * 70, [2**40, 2**40], [[1]], [None], ["evil", "Evil"], {"type": "BPE"}),
)
_KEYS: Final = ("auto_map", "quantization_config", "_attn_implementation", "vocab_size", "x")
_BYTES: Final = (b"[" * 5_000, b'{"a":' * 5_000, b"9" * 5_000, b"NaN", b"\x00", b"\xff", b'"', b"")


class Models:
    """A small saved model; each attempt loads a changed copy."""

    def __init__(self) -> None:
        self._root = tempfile.TemporaryDirectory(prefix="fuzz-models-")
        self._saved = Path(self._root.name) / "saved"
        tiny_pipeline().save_pretrained(self._saved)
        for name in ("defaults.json", "emoji.json"):
            shutil.copy(starter_folder() / name, self._saved)

    def close(self) -> None:
        """Remove the saved model."""
        self._root.cleanup()

    def attempt(self, rng: random.Random) -> str:
        """Load a changed copy; return the sentence of the refusal, or an empty text.

        Every other error fails the case.
        """
        folder = Path(self._root.name) / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._saved, folder)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            _change(rng, folder)
        try:
            load(profile_of(folder, "changed"), device="cpu")
        except ModelError as error:
            sentence = str(error)
            assert sentence.endswith("."), sentence
            assert "\n" not in sentence, sentence
            assert len(sentence) < 1_000, sentence
            return sentence
        return ""


def _change(rng: random.Random, folder: Path) -> None:
    path = rng.choice(sorted(path for path in folder.glob("**/*") if path.is_file()))
    if path.suffix == ".safetensors":
        _change_header(rng, path)
    elif path.suffix == ".json" and rng.random() < 0.8:
        try:
            values = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return
        path.write_text(json.dumps(_changed(rng, values)))
    else:
        path.write_bytes(_spliced(rng, path.read_bytes()))


def _changed(rng: random.Random, value: Any) -> Any:
    """Return a JSON value with one change."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice([*value, *(_KEYS if rng.random() < 0.2 else ())])
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: _changed(rng, value.get(key))}
    if isinstance(value, list) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return [*value[:at], _changed(rng, value[at]), *value[at + 1 :]]
    return rng.choice(_HOSTILE)


def _change_header(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0]
    text = data[8 : 8 + min(length, len(data))]
    way = rng.randrange(4)
    if way == 0:
        path.write_bytes(_spliced(rng, data))
    elif way == 1:
        length = rng.choice((0, 1, 2**31, 2**62, 2**64 - 1, length + 1, length - 1))
        path.write_bytes(struct.pack("<Q", length % 2**64) + data[8:])
    else:
        try:
            header = _changed(rng, json.loads(text))
        except (ValueError, RecursionError):
            return
        new = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + length :])


def _spliced(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    way = rng.randrange(3)
    if way == 0:
        return data[:at]
    new = rng.choice((*_BYTES, rng.randbytes(4)))
    return data[:at] + new + data[at + (len(new) if way == 1 else 0) :]
