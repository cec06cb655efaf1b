"""The tokenizer of a model, from its vocabulary, its merges and a few settings.

transformers searches a folder and compiles the regular expressions that it finds in
`tokenizer.json`. So transformers gets a folder that holds only what was chosen. How text is split
is written in the class in the library. A template for chats, which is a program, is left out too.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from transformers import CLIPTokenizer, Qwen2Tokenizer, T5Tokenizer

from ...catalog.files import read_config
from ...catalog.json_reader import LIST_BYTES, read_bytes
from ...errors import ModelError

_CONFIG_KEYS: Final = frozenset(
    {
        "added_tokens_decoder",
        "additional_special_tokens",
        "bos_token",
        "clean_up_tokenization_spaces",
        "eos_token",
        "extra_special_tokens",
        "model_max_length",
        "pad_token",
        "split_special_tokens",
        "truncation_side",
        "unk_token",
    }
)
_ADDED_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class TokenizerKind:
    """A class of tokenizers; `names` are the names that a config may call the class by.

    `model` is the kind of the vocabulary in `tokenizer.json`, and `lists` its lists.
    """

    label: str
    made_by: Any
    names: frozenset[str]
    model: str = "BPE"
    lists: tuple[str, ...] = ("vocab", "merges")


CLIP: Final = TokenizerKind(
    "CLIP", CLIPTokenizer, frozenset({"CLIPTokenizer", "CLIPTokenizerFast"})
)
# Qwen3 has the tokenizer of Qwen2, with more added tokens.
QWEN: Final = TokenizerKind(
    "Qwen", Qwen2Tokenizer, frozenset({"Qwen2Tokenizer", "Qwen2TokenizerFast"})
)
T5: Final = TokenizerKind(
    "T5",
    T5Tokenizer,
    frozenset({"T5Tokenizer", "T5TokenizerFast"}),
    model="Unigram",
    lists=("vocab",),
)


def load_tokenizer(
    folder: Path,
    files: tuple[str, ...],
    vocab_size: int,
    *,
    part: str = "tokenizer",
    kind: TokenizerKind = CLIP,
) -> Any:
    """Return the tokenizer in the folder `part` of a model, from those of `files` that lie there.

    Raises:
        ModelError: a file is broken or for another kind of tokenizer, or a token is not among the
            `vocab_size` tokens of the text encoder.
    """
    home = folder / part
    names = [Path(name).name for name in files if name.startswith(f"{part}/")]
    with tempfile.TemporaryDirectory(prefix="imagine-bot-tokenizer-") as made:
        for name in names:
            _write(Path(made) / name, _cleaned(folder, part, name, kind))
        try:
            with panics_as_errors():
                tokenizer = kind.made_by.from_pretrained(made, local_files_only=True)
                largest = max(tokenizer.get_vocab().values())
        # The Rust tokenizers raise bare Exceptions, so no narrower class can be named.
        except Exception as error:
            raise _broken(home, str(error).replace(made, str(folder))) from error
    if largest >= vocab_size:
        raise _broken(home, f"it has a token {largest}, and the text encoder knows {vocab_size}")
    return tokenizer


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise ValueError where Rust panics inside: the library's own class is no Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(str(error)) from error


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise ModelError(
            f"{file.parent.parent} takes no file of the tokenizer ({error.strerror}); make room "
            "there, or set TMPDIR to another folder."
        ) from error


def _cleaned(folder: Path, part: str, name: str, kind: TokenizerKind) -> bytes:
    path = folder / part / name
    if not name.endswith(".json"):
        return read_bytes(path, most=LIST_BYTES)
    values = read_config(folder, f"{part}/{name}")
    if name == "tokenizer.json":
        values = _vocabulary(path, values, kind)
    if name == "tokenizer_config.json":
        named = str(values.get("tokenizer_class", min(kind.names)))
        if named not in kind.names:
            raise _broken(path, f"tokenizer_class is {named[:80]!r} and not {kind.label}'s")
        values = {key: value for key, value in values.items() if key in _CONFIG_KEYS}
    if len(str(values.get("added_tokens_decoder", ""))) > LIST_BYTES:
        raise _broken(path, "it adds too many tokens")
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def _vocabulary(path: Path, values: Mapping[str, Any], kind: TokenizerKind) -> dict[str, Any]:
    """Return a `tokenizer.json` with the vocabulary, the merges and the added tokens alone.

    A table of characters to replace before a text is split is kept too.
    """
    model, added = values.get("model"), values.get("added_tokens", [])
    if not isinstance(model, dict) or model.get("type", kind.model) != kind.model:
        raise _broken(path, f"it holds no {kind.model} model")
    if not isinstance(added, list) or len(added) > _ADDED_MOST:
        raise _broken(path, f"it adds no list of at most {_ADDED_MOST:,} tokens")
    empty = {"vocab": {}, "merges": []} if kind.model == "BPE" else {"vocab": [], "unk_id": 2}
    kept = {key: model[key] for key in kind.lists if key in model}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": _table(values.get("normalizer")) if kind.model == "Unigram" else None,
        "model": {"type": kind.model} | empty | kept,
    }


def _table(normalizer: Any) -> dict[str, Any] | None:
    """Return the normalizer that replaces characters by a table, if it is among those of a file."""
    inner = normalizer.get("normalizers") if isinstance(normalizer, dict) else None
    for one in inner if isinstance(inner, list) else [normalizer]:
        if isinstance(one, dict) and one.get("type") == "Precompiled":
            return {key: one.get(key) for key in ("type", "precompiled_charsmap")}
    return None


def _broken(path: Path, why: str) -> ModelError:
    reason = " ".join(why.split())[:160].rstrip(".")
    return ModelError(
        f"{path} cannot be loaded ({reason}); download the model again or choose another."
    )
