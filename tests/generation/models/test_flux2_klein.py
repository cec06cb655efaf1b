"""What the configs of FLUX.2 klein say, what is refused, and what its transformer is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from safetensors.torch import load_file, save_file

from generation.errors import ModelError
from generation.models.flux2_klein import Flux2Klein
from generation.models.loading import load
from generation.models.locate import locate
from generation.values.request import REFERENCES_MAX, Told

from ..flux2_klein import Flux2KleinPipelines, edit

INDEX = "model_index.json"
TRANSFORMER = "transformer/config.json"
TEXT_ENCODER = "text_encoder/config.json"
VAE = "vae/config.json"


@pytest.fixture
def folder(klein_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(klein_folder, tmp_path / "klein"))


class TestProfile:
    def test_it_says_what_klein_needs(self, klein_folder: Path) -> None:
        profile = locate(str(klein_folder))
        assert profile.family == "FLUX.2 klein"
        assert (profile.native_size, profile.size_multiple) == (64, 16)
        assert profile.token_limit == profile.prompt_limit == 512
        assert profile.prediction_type == "flow"
        assert profile.default_scheduler in profile.schedulers
        assert "ddim" not in profile.schedulers
        assert profile.most_references == REFERENCES_MAX

    def test_the_distilled_model_has_four_steps_without_guidance(self, folder: Path) -> None:
        profile = locate(str(folder))
        assert (profile.default_steps, profile.default_guidance_scale) == (4, 1.0)
        assert not profile.is_guided

    def test_the_base_model_has_fifty_with_guidance(self, folder: Path) -> None:
        edit(folder / INDEX, is_distilled=False)
        profile = locate(str(folder))
        assert (profile.default_steps, profile.default_guidance_scale) == (50, 4.0)
        assert profile.is_guided
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        del index["is_distilled"]
        (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
        assert locate(str(folder)) == profile


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "changes", "reason"),
        [
            (TRANSFORMER, {"guidance_embeds": True}, "guidance_embeds"),
            (TRANSFORMER, {"in_channels": 64}, "the 16 channels of a patch"),
            (TRANSFORMER, {"out_channels": 64}, "the 16 channels of a patch"),
            (TRANSFORMER, {"patch_size": 2}, "patch_size"),
            (TRANSFORMER, {"joint_attention_dim": 64}, "96, as the text encoder has it"),
            (TRANSFORMER, {"num_layers": 100_000}, "num_layers"),
            (TRANSFORMER, {"num_single_layers": 100_000}, "num_single_layers"),
            (TEXT_ENCODER, {"num_hidden_layers": 26}, "at least 27"),
            (VAE, {"patch_size": [1, 1]}, "patch_size"),
            (VAE, {"sample_size": 8}, "sample_size"),
            (VAE, {"sample_size": "64"}, "sample_size"),
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

    def test_flux2_with_another_text_encoder_is_refused(self, folder: Path) -> None:
        edit(folder / INDEX, text_encoder=["transformers", "Mistral3ForConditionalGeneration"])
        with pytest.raises(ModelError, match="instead of Qwen3"):
            locate(str(folder))


class TestWhatTheTransformerIsTold:
    def test_texts_are_the_pipelines_whatever_is_encoded_beside_them(
        self, klein: Flux2Klein, klein_pipelines: Flux2KleinPipelines
    ) -> None:
        texts = ["a cat", "", "an apple, " * 9, "a cat " * 600]
        ids = [klein.tokenize(Told(text)).ids for text in texts]
        with torch.inference_mode():
            together = klein.encode(ids)
            for text, own, told in zip(texts, ids, together, strict=True):
                expected = klein_pipelines.text.encode_prompt(text)[0]
                assert told.shape == (("text", (512, 96)),)
                torch.testing.assert_close(told.tensors["text"], expected)
                [alone] = klein.encode([own])
                assert torch.equal(alone.tensors["text"], told.tensors["text"])

    def test_the_layers_that_nobody_reads_take_no_memory(self, klein: Flux2Klein) -> None:
        assert len(klein.text_encoder.layers) == 27

    @pytest.mark.parametrize("size", [(64, 64), (1024, 1024), (1024, 1104), (2048, 2048)])
    @pytest.mark.parametrize("steps", [1, 4, 50])
    def test_the_schedule_is_shifted_as_in_the_pipeline(
        self, klein: Flux2Klein, size: tuple[int, int], steps: int
    ) -> None:
        width, height = size
        tokens = (width // 16) * (height // 16)
        told = klein.schedule(width, height, steps)
        assert told["mu"] == pytest.approx(compute_empirical_mu(tokens, steps), rel=1e-12)
        assert len(told["sigmas"]) == steps


class TestAutoencoder:
    def test_a_file_without_the_number_of_batches_is_read(
        self, folder: Path, klein: Flux2Klein
    ) -> None:
        """That number only counts in training, and converted files may lack it."""
        file = folder / "vae/diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        del tensors["bn.num_batches_tracked"]
        save_file(tensors, file)
        model = load(locate(str(folder)), device="cpu", dtype="float32")
        latents = torch.randn(klein.latent_shape(64, 64), generator=torch.Generator())
        with torch.inference_mode():
            assert torch.equal(model.decode(latents), klein.decode(latents))

    def test_a_picture_in_tiles_is_near_the_whole_one(self, klein: Flux2Klein) -> None:
        latents = torch.randn(klein.latent_shape(128, 96), generator=torch.Generator())
        with torch.inference_mode():
            whole = klein.decode(latents)
            tiled = klein.decode_in_tiles(latents, 2 * klein.tile_multiple)
            assert torch.equal(klein.decode(latents), whole)
        assert tiled.shape == whole.shape == (1, 3, 96, 128)
        assert not torch.equal(tiled, whole)
        # A tile at another place would have nothing in common with that part of the picture.
        assert torch.corrcoef(torch.stack([tiled.flatten(), whole.flatten()]))[0, 1] > 0.6
