"""What the configs of Z-Image say, what is refused, and what its transformer is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift

from generation.errors import ModelError
from generation.models.locate import locate
from generation.models.networks.devices import choose_dtype
from generation.models.z_image import ZImage
from generation.values.request import Told

from ..z_image import TURBO_SHIFT, ZImagePipelines, edit

TRANSFORMER = "transformer/config.json"
TEXT_ENCODER = "text_encoder/config.json"
VAE = "vae/config.json"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture
def folder(z_image_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(z_image_folder, tmp_path / "z-image"))


class TestProfile:
    def test_it_says_what_z_image_needs(self, z_image_folder: Path) -> None:
        profile = locate(str(z_image_folder))
        assert profile.family == "Z-Image"
        assert profile.native_size == 64
        assert profile.size_multiple == 16
        assert profile.token_limit == profile.prompt_limit == 512
        assert profile.prediction_type == "flow"
        assert profile.default_scheduler in profile.schedulers
        assert "ddim" not in profile.schedulers
        assert profile.is_guided

    def test_the_base_model_has_more_steps_and_guidance(self, z_image_folder: Path) -> None:
        profile = locate(str(z_image_folder))
        assert (profile.default_steps, profile.default_guidance_scale) == (30, 5.0)

    def test_turbo_has_eight_steps_without_guidance(self, folder: Path) -> None:
        edit(folder / SCHEDULER, shift=TURBO_SHIFT)
        profile = locate(str(folder))
        assert (profile.default_steps, profile.default_guidance_scale) == (8, 1.0)

    def test_the_operators_defaults_come_first(self, folder: Path) -> None:
        (folder / "defaults.json").write_text('{"steps": 12, "guidance_scale": 2.0}')
        profile = locate(str(folder))
        assert (profile.default_steps, profile.default_guidance_scale) == (12, 2.0)

    def test_on_a_gpu_it_computes_in_bfloat16(self, z_image_folder: Path) -> None:
        """In float16 the numbers of its transformer overflow."""
        half = locate(str(z_image_folder)).half
        assert choose_dtype(None, torch.device("cuda"), half) == torch.bfloat16
        assert choose_dtype(None, torch.device("cpu"), half) == torch.float32
        assert choose_dtype("float16", torch.device("cuda"), half) == torch.float16


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "changes", "reason"),
        [
            (TRANSFORMER, {"all_patch_size": [4]}, "all_patch_size"),
            (TRANSFORMER, {"all_f_patch_size": [2]}, "all_f_patch_size"),
            (TRANSFORMER, {"siglip_feat_dim": 1152}, "siglip_feat_dim"),
            (TRANSFORMER, {"cap_feat_dim": 48}, "the text encoder's 32"),
            (TRANSFORMER, {"in_channels": 33}, "33 channels where the latents have 16"),
            (TRANSFORMER, {"axes_lens": [513, 512, 512]}, "axes_lens"),
            (TRANSFORMER, {"axes_lens": [1536, 512, 127]}, "axes_lens"),
            (TRANSFORMER, {"axes_lens": [1536, 512]}, "axes_lens"),
            (TRANSFORMER, {"axes_lens": [1536, 512, 900_000]}, "axes_lens"),
            (TRANSFORMER, {"axes_lens": None}, "axes_lens"),
            (TRANSFORMER, {"n_layers": 100_000}, "n_layers"),
            (TRANSFORMER, {"n_refiner_layers": 4_000}, "n_refiner_layers"),
            (TRANSFORMER, {"norm_eps": None}, "norm_eps"),
            (TRANSFORMER, {"rope_theta": []}, "rope_theta"),
            (TRANSFORMER, {"t_scale": "1000"}, "t_scale"),
            (TEXT_ENCODER, {"num_hidden_layers": 0}, "num_hidden_layers"),
            (TEXT_ENCODER, {"rms_norm_eps": "x"}, "rms_norm_eps"),
            (VAE, {"shift_factor": "0.1"}, "shift_factor"),
            (VAE, {"scaling_factor": 0}, "scaling_factor"),
            (VAE, {"sample_size": 72}, "sample_size"),
            (SCHEDULER, {"shift": "3"}, "shift"),
            (SCHEDULER, {"shift": 0.0}, "shift"),
        ],
        ids=str,
    )
    def test_a_config_that_the_engine_cannot_run_is_refused_in_a_sentence(
        self, folder: Path, name: str, changes: dict[str, Any], reason: str
    ) -> None:
        edit(folder / name, **changes)
        with pytest.raises(ModelError, match=reason) as refused:
            locate(str(folder))
        assert str(folder / name) in str(refused.value)

    def test_another_text_encoder_is_refused(self, folder: Path) -> None:
        edit(folder / "model_index.json", text_encoder=["transformers", "T5EncoderModel"])
        with pytest.raises(ModelError, match="T5EncoderModel as its text_encoder instead of Qwen3"):
            locate(str(folder))


class TestWhatTheTransformerIsTold:
    def test_texts_are_the_pipelines_with_zeros_up_to_a_multiple_of_32_tokens(
        self, z_image: ZImage, z_image_pipelines: ZImagePipelines
    ) -> None:
        texts = ["a cat", "", "an apple, " * 9, "a cat " * 300]
        ids = [z_image.tokenize(Told(text)).ids for text in texts]
        lengths = []
        with torch.inference_mode():
            for text, told in zip(texts, z_image.encode(ids), strict=True):
                [expected] = z_image_pipelines.text.encode_prompt(
                    text, do_classifier_free_guidance=False
                )[0]
                states, count = told.tensors["text"], told.tensors["tokens"]
                lengths.append(states.shape[1])
                assert count.tolist() == [[len(expected)]]
                torch.testing.assert_close(states[0, : len(expected)], expected)
                assert not states[0, len(expected) :].any()
        assert lengths == [32, 32, 64, 512]

    @pytest.mark.parametrize("config", [{}, {"base_shift": 0.2, "max_image_seq_len": 1024}])
    def test_the_schedule_of_a_size_is_the_pipelines(
        self, z_image: ZImage, config: dict[str, Any]
    ) -> None:
        other = ZImage(**{**vars(z_image), "scheduler_config": config})
        tokens = (1024 // 16) * (512 // 16)
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        defaults = (256, 4096, 0.5, 1.15)
        values = [config.get(name, value) for name, value in zip(names, defaults, strict=True)]
        schedule = other.schedule(1024, 512, 4)
        assert schedule["mu"] == calculate_shift(tokens, *values)
        assert schedule["sigmas"] == [1.0, 0.75, 0.5, 0.25]

    def test_latents_stay_in_float32_whatever_the_weights_are(self, z_image: ZImage) -> None:
        assert ZImage(**{**vars(z_image), "dtype": torch.bfloat16}).latents_dtype == torch.float32


def test_the_scale_of_guidance_is_that_of_other_families(z_image: ZImage) -> None:
    """The pipeline counts it from 0; here 1 is the conditional prediction alone."""
    without, with_text = torch.randn(2, 1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(z_image.guide(without, with_text, 1.0), with_text)
    torch.testing.assert_close(
        z_image.guide(without, with_text, 4.0), without + 4.0 * (with_text - without)
    )
