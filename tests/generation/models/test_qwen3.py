"""Qwen3 as a text encoder, beside what the pipelines of diffusers do with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from generation.errors import ModelError
from generation.models.text import qwen3
from generation.models.text.qwen3 import PADDING
from generation.models.text.tokenizing import QWEN, load_tokenizer

from ..qwen3 import save_tokenizer, small_qwen3

FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")
TEXTS = (
    "a cat",
    "",
    "  a cat\n\n",
    "Ёж 🦔 苹果 e\u0301",
    "the end<|im_end|>\n<|endoftext|> and <think> more",
    "apple " * 200,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3")
    save_tokenizer(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def encoder() -> Qwen3ForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return small_qwen3()


def loaded(folder: Path, names: tuple[str, ...] = FILES) -> Any:
    return load_tokenizer(folder, tuple(f"tokenizer/{name}" for name in names), 512, kind=QWEN)


def as_in_the_pipelines(folder: Path, text: str, thinking: bool) -> Any:
    """Return what the pipelines' tokenizer makes of a text: ids and mask, each [1, 64]."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    told = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
    )
    return tokenizer(
        told, padding="max_length", max_length=64, truncation=True, return_tensors="pt"
    )


class TestTokens:
    @pytest.mark.parametrize("thinking", [True, False])
    @pytest.mark.parametrize("names", [FILES, FILES[2:], (*FILES[:2], FILES[3])], ids=str)
    def test_they_are_those_of_the_pipelines_tokenizer(
        self, folder: Path, names: tuple[str, ...], thinking: bool
    ) -> None:
        tokenizer = loaded(folder, names)
        for text in TEXTS:
            expected = as_in_the_pipelines(folder, text, thinking)
            read = torch.tensor([qwen3.tokenize(tokenizer, text, 64, thinking=thinking).ids])
            assert torch.equal(read != PADDING, expected.attention_mask.bool())
            filled = read.masked_fill(read == PADDING, tokenizer.pad_token_id)
            assert torch.equal(filled, expected.input_ids)

    def test_the_part_of_a_prompt_that_does_not_fit_is_said(self, folder: Path) -> None:
        tokenizer = loaded(folder)
        # The chat before the prompt takes three tokens.
        read = qwen3.tokenize(tokenizer, "Xcat apple🦔 end", 10, thinking=True)
        assert len(read.ids) == 10
        assert PADDING not in read.ids
        assert read.unread == "🦔 end"

    def test_a_prompt_that_fits_without_the_end_of_the_chat_is_read_whole(
        self, folder: Path
    ) -> None:
        read = qwen3.tokenize(loaded(folder), "abc", 7, thinking=True)
        assert PADDING not in read.ids
        assert read.unread == ""

    def test_a_limit_within_the_start_of_the_chat_leaves_all_unread(self, folder: Path) -> None:
        assert qwen3.tokenize(loaded(folder), "abc", 2, thinking=True).unread == "abc"

    def test_another_kind_of_tokenizer_is_refused(self, folder: Path, tmp_path: Path) -> None:
        save_tokenizer(tmp_path / "tokenizer")
        file = tmp_path / "tokenizer/tokenizer_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**config, "tokenizer_class": "T5Tokenizer"}), encoding="utf-8")
        with pytest.raises(ModelError, match="'T5Tokenizer' and not Qwen's"):
            loaded(tmp_path)

    def test_a_template_in_the_files_is_not_run(self, folder: Path, tmp_path: Path) -> None:
        save_tokenizer(tmp_path / "tokenizer")
        file = tmp_path / "tokenizer/tokenizer_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**config, "chat_template": "{{ 1/0 }}"}), encoding="utf-8")
        tokenizer = loaded(tmp_path)
        assert tokenizer.chat_template is None
        assert qwen3.tokenize(tokenizer, "a", 64, thinking=True) == qwen3.tokenize(
            loaded(folder), "a", 64, thinking=True
        )


class TestHiddenStates:
    def test_they_are_the_pipelines_to_the_last_bit(
        self, folder: Path, encoder: Qwen3ForCausalLM
    ) -> None:
        tokenizer = loaded(folder)
        for text in TEXTS:
            expected = as_in_the_pipelines(folder, text, thinking=True)
            ids = qwen3.tokenize(tokenizer, text, 64, thinking=True).ids
            with torch.inference_mode():
                made = qwen3.hidden_states(
                    encoder.model, [ids], (-2, 1), padding_id=tokenizer.pad_token_id
                )
                whole = encoder.model(
                    input_ids=expected.input_ids,
                    attention_mask=expected.attention_mask.bool(),
                    output_hidden_states=True,
                ).hidden_states
            assert torch.equal(made.is_read, expected.attention_mask.bool())
            assert torch.equal(made.layers[0], whole[-2])
            assert torch.equal(made.layers[1], whole[1])
            assert not torch.equal(whole[1], whole[-2])


class TestConfig:
    @pytest.mark.parametrize(
        "rope",
        [
            {"rope_theta": 5000, "rope_scaling": None},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
            {"rope_scaling": {"type": "default"}, "rope_theta": 5000},
        ],
        ids=str,
    )
    def test_the_angles_of_positions_are_read_in_each_form(self, rope: dict[str, Any]) -> None:
        made = qwen3.text_encoder({**plain(), **rope})
        expected = 1.0 / (5000.0 ** (torch.arange(0, 8, 2) / 8))
        torch.testing.assert_close(made.rotary_emb.inv_freq, expected)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn' and not 'default'"),
            ({"rope_parameters": {"rope_type": "default"}}, "no rope_theta"),
            ({"rope_theta": 5000, "use_sliding_window": True}, "sliding window"),
        ],
        ids=str,
    )
    def test_what_would_be_computed_otherwise_is_refused(
        self, changes: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(ValueError, match=reason):
            qwen3.text_encoder({**plain(), **changes})


def plain() -> dict[str, Any]:
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    return {**dict.fromkeys(sizes, 16), "num_attention_heads": 2, "head_dim": 8}
