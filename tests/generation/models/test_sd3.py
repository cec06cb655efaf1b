"""What the files of Stable Diffusion 3.5 say, what is refused, and what its transformer is told."""

from __future__ import annotations

import base64
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5EncoderModel

from generation.errors import ModelError
from generation.models.loading import load
from generation.models.locate import layout_of, locate
from generation.models.stable_diffusion_3 import StableDiffusion3
from generation.models.text import t5
from generation.values.request import Told

from ..sd3 import SD3Pipelines, edit

TRANSFORMER = "transformer/config.json"
T5 = "text_encoder_3"


@pytest.fixture
def folder(sd3_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sd3_folder, tmp_path / "sd3"))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(locate(str(folder)), device="cpu")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


class TestProfile:
    def test_it_says_what_the_model_needs(self, sd3: StableDiffusion3) -> None:
        found = sd3.profile
        assert found.family == "Stable Diffusion 3"
        assert (found.native_size, found.size_multiple) == (64, 16)
        assert (found.token_limit, found.prompt_limit) == (256, 256)
        assert found.prediction_type == "flow"
        assert found.schedulers == ("euler", "heun")
        assert found.is_guided
        assert found.half == "bfloat16"

    @pytest.mark.parametrize(
        ("changes", "steps", "guidance_scale"),
        [
            ({}, 40, 4.5),
            ({"dual_attention_layers": []}, 28, 3.5),
            ({"dual_attention_layers": [], "qk_norm": None}, 28, 7.0),
        ],
        ids=["3.5 medium", "3.5 large", "3 medium"],
    )
    def test_the_transformer_says_which_version_it_is(
        self, folder: Path, changes: dict[str, Any], steps: int, guidance_scale: float
    ) -> None:
        edit(folder / TRANSFORMER, **changes)
        found = locate(str(folder))
        assert (found.default_steps, found.default_guidance_scale) == (steps, guidance_scale)

    def test_the_pipeline_for_image_to_image_is_the_same_model(self, folder: Path) -> None:
        edit(folder / "model_index.json", _class_name="StableDiffusion3Img2ImgPipeline")
        assert locate(str(folder)).family == "Stable Diffusion 3"


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "changes", "reason"),
        [
            (TRANSFORMER, {"patch_size": 4}, "patch_size"),
            (TRANSFORMER, {"in_channels": 33}, "33 channels where the latents have 16"),
            (TRANSFORMER, {"joint_attention_dim": 64}, "the 48 of text_encoder_3"),
            (TRANSFORMER, {"pooled_projection_dim": 30}, "the text encoders' 32"),
            (TRANSFORMER, {"pos_embed_max_size": 127}, "at least 128"),
            (TRANSFORMER, {"sample_size": 9}, "sample_size"),
            (TRANSFORMER, {"num_layers": 100_000}, "num_layers"),
            ("vae/config.json", {"shift_factor": "0.1"}, "shift_factor"),
            ("text_encoder_3/config.json", {"d_model": "48"}, "d_model"),
            ("text_encoder_3/config.json", {"feed_forward_proj": "x-y-z"}, "no text_encoder_3"),
            ("scheduler/scheduler_config.json", {"shift": "3"}, "shift"),
        ],
        ids=str,
    )
    def test_a_config_that_the_engine_cannot_run_is_refused_in_a_sentence(
        self, folder: Path, name: str, changes: dict[str, Any], reason: str
    ) -> None:
        edit(folder / name, **changes)
        with pytest.raises(ModelError, match=reason):
            raise ModelError(refusal(folder))

    def test_a_scheduler_of_diffusion_is_refused(self, folder: Path) -> None:
        file = folder / "scheduler/scheduler_config.json"
        file.write_text('{"_class_name": "DDIMScheduler"}', encoding="utf-8")
        assert "instead of a scheduler for flow matching" in refusal(folder)

    @pytest.mark.parametrize(
        "part",
        ["text_encoder", "text_encoder_2", T5, "transformer", "vae", "tokenizer_2", "tokenizer_3"],
    )
    def test_a_part_that_is_named_and_not_there_is_missing(self, folder: Path, part: str) -> None:
        shutil.rmtree(folder / part)
        assert f"has no {part}/" in refusal(folder)

    def test_t5_without_its_tokenizer_is_refused(self, folder: Path) -> None:
        edit(folder / "model_index.json", tokenizer_3=[None, None])
        assert "has its text_encoder_3 without the tokenizer_3;" in refusal(folder)

    def test_a_tokenizer_of_another_kind_is_refused(self, folder: Path) -> None:
        shutil.copy(folder / "tokenizer/tokenizer.json", folder / "tokenizer_3/tokenizer.json")
        assert "it holds no Unigram model" in refusal(folder)

    @pytest.mark.parametrize("table", ["AAAA", "no base64", 7, None])
    def test_a_broken_table_of_characters_is_refused_in_a_sentence(
        self, folder: Path, table: object
    ) -> None:
        normalizer = {"type": "Precompiled", "precompiled_charsmap": table}
        edit(folder / "tokenizer_3/tokenizer.json", normalizer=normalizer)
        assert "tokenizer_3 cannot be loaded" in refusal(folder)

    def test_a_table_that_leads_nowhere_is_a_sentence_at_the_prompt(self, folder: Path) -> None:
        # One unit, whose offset lies behind the end of the table.
        units = struct.pack("<I", 1 << 30)
        table = base64.b64encode(struct.pack("<I", len(units)) + units + b"a\0").decode()
        normalizer = {"type": "Precompiled", "precompiled_charsmap": table}
        edit(folder / "tokenizer_3/tokenizer.json", normalizer=normalizer)
        model = load(locate(str(folder)), device="cpu")
        with pytest.raises(ModelError, match="its table of characters is broken"):
            model.tokenize(Told("a cat"))


class TestWithoutT5:
    @pytest.mark.parametrize("entry", [[None, None], None], ids=["null", "absent"])
    def test_model_index_decides_and_files_beside_it_do_not_count(
        self, folder: Path, entry: list[None] | None
    ) -> None:
        index = folder / "model_index.json"
        kept = json.loads(index.read_text())
        del kept[T5], kept["tokenizer_3"]
        more = {} if entry is None else {T5: entry, "tokenizer_3": entry}
        index.write_text(json.dumps(kept | more))
        assert T5 not in layout_of(folder).parts
        found = load(locate(str(folder)), device="cpu")
        assert isinstance(found, StableDiffusion3)
        assert found.text_encoder_3 is None
        assert found.profile.prompt_limit == 77
        digest = found.weights_sha256
        shutil.rmtree(folder / T5)
        shutil.rmtree(folder / "tokenizer_3")
        assert load(locate(str(folder)), device="cpu").weights_sha256 == digest


class TestWhatTheTransformerIsTold:
    def test_texts_are_the_pipelines(
        self, sd3: StableDiffusion3, sd3_pipelines: SD3Pipelines
    ) -> None:
        texts = ["a cat", "", "an apple, " * 30, "café Ёж"]
        ids = [sd3.tokenize(Told(text)).ids for text in texts]
        with torch.inference_mode():
            for text, told in zip(texts, sd3.encode(ids), strict=True):
                states, _, pooled, _ = sd3_pipelines.text.encode_prompt(
                    text, None, None, do_classifier_free_guidance=False
                )
                assert torch.equal(told.tensors["text"], states)
                assert torch.equal(told.tensors["pooled"], pooled)

    def test_what_t5_does_not_read_is_unread(self, sd3: StableDiffusion3) -> None:
        assert not sd3.tokenize(Told("a cat " * 50)).unread
        found = sd3.tokenize(Told("a cat " * 150))
        assert found.unread.startswith(("a cat", "cat"))
        assert len(found.ids) == 77 + 77 + 256

    def test_in_float16_the_layers_of_t5_that_overflow_stay_in_float32(
        self, sd3_folder: Path
    ) -> None:
        plain = T5EncoderModel.from_pretrained(sd3_folder / T5, dtype=torch.float16)
        expected = {name: weight.dtype for name, weight in plain.named_parameters()}
        config = json.loads((sd3_folder / f"{T5}/config.json").read_text())
        encoder = t5.text_encoder(config).half()
        t5.keep_from_overflow(encoder)
        assert {name: weight.dtype for name, weight in encoder.named_parameters()} == expected
        assert torch.float32 in expected.values()
