"""The model's own byte-pair vocabulary, in the form that CLIP's tokenizer reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from ..drawings.scenes import COLOURS
from ..drawings.things import STYLES, Thing
from .networks import TOKENS, WORDS

_START: Final = "<|startoftext|>"
_END: Final = "<|endoftext|>"
# How CLIP cuts a text into words (openai/CLIP, `simple_tokenizer.py`).
_WORDS: Final = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_GRAMMAR: Final = (
    "a an on in background style next to and beside with tiny small little huge big large , , ,"
)
_REPEATS: Final = 50
_LENGTHS: Final = {"model_max_length": TOKENS, "prompt_tokens": WORDS}


def train_tokenizer(things: Sequence[Thing], size: int, folder: Path) -> Any:
    """Return a tokenizer of at most `size` entries for all captions, and save it in `folder`."""
    tokenizer = Tokenizer(models.BPE(unk_token=_END, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        special_tokens=[_START, _END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(things), trainer)
    # An interrupted call must not leave a folder that looks like a tokenizer.
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    vocab, merges = tokenizer.model.save(str(partial))
    clip = CLIPTokenizer(vocab, merges, **_LENGTHS)
    for file in (vocab, merges):
        Path(file).unlink()
    clip.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return clip


def read_tokenizer(folder: Path) -> Any:
    """Return the tokenizer that `train_tokenizer` saved in `folder`.

    The lengths of a text and of its words are today's, even if the tokenizer is older. With a
    shorter text the engine would leave out the last patches of every sketch, and the lower part of
    every picture. With more words the engine would claim to have read words that it did not.
    """
    return CLIPTokenizer.from_pretrained(folder, **_LENGTHS)


def _corpus(things: Sequence[Thing]) -> Iterator[str]:
    for _ in range(_REPEATS):
        yield f"{_GRAMMAR} {' '.join(COLOURS)} {' '.join(STYLES)}"
    for thing in things:
        yield from (thing.name, thing.name, *thing.keywords)
