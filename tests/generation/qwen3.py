"""A Qwen3 that is tiny, in the files of a model's folder: the text encoder and the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

# The part of Qwen3's own template that a single message of a user meets.
TEMPLATE: Final = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
_WORDS: Final = ("user", "assistant", "Ġcat", "Ġapple")


def save_tokenizer(folder: Path) -> None:
    """Save a tokenizer of single bytes and a few words, in the files that Qwen3 has.

    Its special tokens, its settings and its template are Qwen3's.
    """
    merges = _merges()
    entries = [*_letters(), *dict.fromkeys(first + second for first, second in merges)]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    added = {len(entries) + number: token for number, token in enumerate(SPECIAL)}
    folder.mkdir(parents=True)
    _write(folder / "vocab.json", vocabulary)
    text = "#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in merges)
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    _write(folder / "tokenizer_config.json", _settings(added))
    # The library writes the fourth file, with the vocabulary, the merges and the added tokens.
    whole = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    whole.save(str(folder / "tokenizer.json"))


def _letters() -> list[str]:
    """Return the 256 bytes as GPT-2's byte-level BPE writes them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + other) for other in range(68)]


def _merges() -> list[tuple[str, str]]:
    steps = [(word[:end], word[end]) for word in _WORDS for end in range(1, len(word))]
    return list(dict.fromkeys(steps))


def _settings(added: dict[int, str]) -> dict[str, Any]:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(number): {"content": token, "special": token.startswith("<|"), **plain}
            for number, token in added.items()
        },
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")


def small_qwen3(*, layers: int = 3, width: int = 32) -> Qwen3ForCausalLM:
    """Return an untrained Qwen3 with the head for words, as the files of its release have it."""
    config = Qwen3Config(
        vocab_size=len(_letters()) + len(_merges()) + len(SPECIAL) + 3,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)
