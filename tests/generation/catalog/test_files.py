"""What is loaded is what is hashed, and nothing of it can run code or lie elsewhere."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from generation.catalog.hashing import weights_sha256
from generation.errors import ModelError
from generation.models.families import STABLE_DIFFUSION
from generation.models.loading import load
from generation.models.locate import locate, profile_of
from generation.models.stable_diffusion import StableDiffusion
from generation.schedulers.sampler import Sampler

from ..tiny import tiny_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
UNET_INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"
TEXT = "text_encoder/model.safetensors"
TEXT_INDEX = "text_encoder/model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "saved"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


@pytest.fixture(scope="module")
def tiny() -> StableDiffusionPipeline:
    return tiny_pipeline()


def loaded(folder: Path) -> StableDiffusion:
    return load(profile_of(folder, "tiny"), device="cpu")


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        loaded(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def edit(folder: Path, name: str, values: dict[str, Any]) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | values))


def split(folder: Path, name: str, to: str = "", **changed: torch.Tensor) -> Path:
    """Move the tensors of `name` to one shard, or to the file `to`, that an index lists."""
    file = folder / name
    shard = file.with_name(f"{file.stem}-00001-of-00001.safetensors")
    tensors = load_file(file)
    save_file(tensors | changed, shard, metadata={"format": "pt"})
    file.unlink()
    listing = {"metadata": {}, "weight_map": dict.fromkeys(tensors, to or shard.name)}
    file.with_name(f"{file.name}.index.json").write_text(json.dumps(listing))
    return shard


def by_hand(folder: Path, without: Callable[[str], bool] = lambda name: False) -> str:
    """The hash as versions before this file computed it."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.glob("**/*") if p.is_file())
    lines = [
        f"{name}\0{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n"
        for name in names
        if not without(name)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_ordinary_layouts_keep_the_hash_that_recipes_hold(
    folder: Path, tiny: StableDiffusionPipeline
) -> None:
    assert weights_sha256(folder, STABLE_DIFFUSION.layout) == by_hand(folder)
    tiny.unet.save_pretrained(folder / "unet", variant="fp16")
    hashed = weights_sha256(folder, STABLE_DIFFUSION.layout)
    assert hashed == by_hand(folder, lambda name: "fp16" in name)
    (folder / UNET).unlink()
    assert weights_sha256(folder, STABLE_DIFFUSION.layout) == by_hand(folder)
    (folder / TEXT).unlink()
    tiny.text_encoder.save_pretrained(folder / "text_encoder", max_shard_size="50KB")
    assert len(list((folder / "text_encoder").iterdir())) > 3
    assert loaded(folder).weights_sha256 == by_hand(folder)


@pytest.mark.parametrize("name", [UNET, TEXT])
def test_an_index_that_names_a_pickle_is_refused(folder: Path, name: str) -> None:
    split(folder, name, to="evil.bin")
    torch.save({}, (folder / name).with_name("evil.bin"))
    assert "names the file 'evil.bin', which is none of the .safetensors" in refusal(folder)


@pytest.mark.parametrize("way", ["../../outside.safetensors", "/tmp/outside.safetensors"])
def test_an_index_that_names_a_file_outside_the_folder_is_refused(folder: Path, way: str) -> None:
    shutil.copy(split(folder, UNET, to=way), folder.parent / "outside.safetensors")
    assert f"names the file {way!r}" in refusal(folder)


def test_a_whole_file_beside_an_index_is_what_is_loaded_and_hashed(folder: Path) -> None:
    before = weights_sha256(folder, STABLE_DIFFUSION.layout)
    whole = load_file(folder / UNET)
    shutil.copy(folder / UNET, folder / "kept")
    shard = split(folder, UNET)
    shutil.move(folder / "kept", folder / UNET)
    for value in (0.0, 1.0):
        save_file({k: torch.full_like(v, value) for k, v in whole.items()}, shard)
        parts = loaded(folder)
        assert parts.weights_sha256 == weights_sha256(folder, STABLE_DIFFUSION.layout) == before
        assert all(torch.equal(v, whole[k]) for k, v in parts.unet.state_dict().items())
    # An index of shards that are gone is as much beside the point.
    shard.unlink()
    assert loaded(folder).weights_sha256 == before


def test_a_tensor_is_in_one_file_and_in_the_one_that_the_index_says(
    folder: Path, tiny: StableDiffusionPipeline
) -> None:
    (folder / UNET).unlink()
    tiny.unet.save_pretrained(folder / "unet", max_shard_size="100KB")
    first, second = sorted((folder / "unet").glob("*-of-*.safetensors"))[:2]
    assert loaded(folder).unet is not None
    original = load_file(second)
    save_file(original | {next(iter(load_file(first))): torch.zeros(1)}, second)
    assert "does not look for there" in refusal(folder)
    save_file(dict(list(original.items())[1:]), second)
    assert "which is in none of its files" in refusal(folder)
    listing = (folder / UNET_INDEX).read_text()
    (folder / UNET_INDEX).write_text(listing.replace('"weight_map": {', '"weight_map": {"a": 1, '))
    assert "has no weight_map of names" in refusal(folder)


def test_a_tensor_under_an_old_and_a_new_name_is_refused(folder: Path) -> None:
    tensors = load_file(folder / TEXT)
    name = min(tensors).removeprefix("text_model.")
    both = {name: tensors[min(tensors)], f"text_model.{name}": tensors[min(tensors)].clone()}
    save_file(tensors | both, folder / TEXT)
    assert "a second time" in refusal(folder)


@pytest.mark.parametrize("name", ["vae/config.json", TEXT, "tokenizer/tokenizer.json"])
def test_a_link_that_leads_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    outside = folder.parent / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(ModelError, match="as a link that leads out of the folder"):
        locate(str(folder))


def test_links_inside_the_folder_and_inside_the_hubs_cache_are_followed(folder: Path) -> None:
    digest = weights_sha256(folder, STABLE_DIFFUSION.layout)
    (folder / UNET).rename(folder / "moved")
    (folder / UNET).symlink_to("../moved")
    assert weights_sha256(folder, STABLE_DIFFUSION.layout) == digest
    store = folder.parent / "models--owner--tiny"
    snapshot = store / "snapshots/0123"
    (store / "blobs").mkdir(parents=True)
    shutil.copytree(folder, snapshot)
    (snapshot / UNET).unlink()
    shutil.copy(folder / "moved", store / "blobs/abcd")
    (snapshot / UNET).symlink_to("../../../blobs/abcd")
    assert loaded(snapshot).weights_sha256 == digest


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}, "sets auto_map"),
        ("text_encoder/config.json", {"trust_remote_code": True}, "sets trust_remote_code"),
        ("text_encoder/config.json", {"_attn_implementation": "o/evil"}, "_attn_implementation"),
        ("text_encoder/config.json", {"attn_implementation": "o/evil"}, "attn_implementation"),
        ("text_encoder/config.json", {"quantization_config": {"a": 1}}, "quantization_config"),
        ("unet/config.json", {"quantization_config": {"a": 1}}, "quantization_config"),
        ("vae/config.json", {"quantization_config": {"a": 1}}, "quantization_config"),
        ("scheduler/scheduler_config.json", {"auto_map": {"a": "b"}}, "sets auto_map"),
        ("model_index.json", {"custom_pipeline": "owner/evil"}, "sets custom_pipeline"),
        ("model_index.json", {"unet": ["evil", "UNet2DConditionModel"]}, "its unet from evil"),
        ("model_index.json", {"vae": ["transformers", "AutoencoderKL"]}, "from transformers"),
        ("model_index.json", {"scheduler": ["evil", "DDIMScheduler"]}, "its scheduler from evil"),
        ("model_index.json", {"_class_name": ["evil", "X"]}, "is made for ['evil', 'X']"),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["e.T", None]}}, "auto"),
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "EvilTokenizer"}, "EvilTokenizer"),
    ],
)
def test_a_key_that_makes_a_library_import_or_download_is_refused(
    folder: Path, name: str, values: dict[str, Any], said: str
) -> None:
    edit(folder, name, values)
    assert said in refusal(folder)


def test_what_only_describes_a_network_does_no_harm(folder: Path) -> None:
    edit(folder, "text_encoder/config.json", {"trust_remote_code": False, "auto_map": {}})
    edit(
        folder, "text_encoder/config.json", {"_attn_implementation": "eager", "_name_or_path": "/"}
    )
    edit(folder, "unet/config.json", {"_name_or_path": "owner/other", "quantization_config": None})
    parts = loaded(folder)
    # How attention is computed is not the model's to choose: other ways have other last bits.
    assert parts.text_encoder.config._attn_implementation == "sdpa"


def test_how_text_is_split_is_clips_own_way_whatever_a_file_says(folder: Path) -> None:
    plain = loaded(folder).tokenizer("Aaaa aaab").input_ids
    name = "tokenizer/tokenizer.json"
    regex = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "a"}
    edit(folder, name, {"normalizer": regex, "pre_tokenizer": {"type": "Whitespace"}})
    edit(folder, name, {"padding": {"strategy": {"Fixed": 2**40}}, "truncation": None})
    assert loaded(folder).tokenizer("Aaaa aaab").input_ids == plain


def test_a_file_that_changes_while_it_is_loaded_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from generation.models import stable_diffusion  # noqa: PLC0415

    original = stable_diffusion.load_tokenizer

    def meanwhile(*arguments: Any) -> Any:
        edit(folder, "vae/config.json", {"more": 1})
        return original(*arguments)

    monkeypatch.setattr(stable_diffusion, "load_tokenizer", meanwhile)
    assert "changed while they were read" in refusal(folder)


def test_a_folder_may_hold_any_one_variant(folder: Path, tiny: StableDiffusionPipeline) -> None:
    for variant in ("bf16", "non_ema", "pruned"):
        for path in list(folder.glob("*/*.safetensors")):
            stem = path.name.split(".")[0]
            path.rename(path.with_name(f"{stem}.{variant}.safetensors"))
        assert weights_sha256(folder, STABLE_DIFFUSION.layout) == by_hand(folder)
    parts = loaded(folder)
    for part in ("text_encoder", "unet", "vae"):
        saved, found = getattr(tiny, part).state_dict(), getattr(parts, part).state_dict()
        assert all(torch.equal(saved[key], found[key]) for key in saved)


@pytest.mark.parametrize("index", ["safetensors.index.fp16.json", "fp16.safetensors.index.json"])
@pytest.mark.parametrize("name", ["{stem}.fp16-{number}", "{stem}-{number}.fp16"])
def test_shards_of_a_variant_are_found_under_both_orders_of_their_names(
    folder: Path, tiny: StableDiffusionPipeline, index: str, name: str
) -> None:
    shard = split(folder, UNET)
    stem = "diffusion_pytorch_model"
    other = name.format(stem=stem, number="00001-of-00001") + ".safetensors"
    shard.rename(shard.with_name(other))
    listing = (folder / UNET_INDEX).read_text().replace(shard.name, other)
    (folder / UNET_INDEX).unlink()
    (folder / "unet" / f"{stem}.{index}").write_text(listing)
    saved, found = tiny.unet.state_dict(), loaded(folder).unet.state_dict()
    assert all(torch.equal(saved[key], found[key]) for key in saved)


def test_older_names_in_a_folder_are_read(folder: Path, tiny: StableDiffusionPipeline) -> None:
    text = load_file(folder / TEXT)
    plain = {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    older = {f"text_model.{name}": tensor for name, tensor in plain.items()}
    older["text_model.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(older, folder / TEXT)
    vae = folder / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(vae)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name in [name for name in tensors if ".attentions." in name]:
        for new, old in names.items():
            if f".{new}." in name:
                tensor = tensors.pop(name)
                as_conv = tensor[..., None, None] if name.endswith("weight") else tensor
                tensors[name.replace(f".{new}.", f".{old}.")] = as_conv.contiguous()
    assert any(".query." in name for name in tensors)
    save_file(tensors, vae)
    parts = loaded(folder)
    for part in ("text_encoder", "vae"):
        saved, found = getattr(tiny, part).state_dict(), getattr(parts, part).state_dict()
        assert all(torch.equal(saved[key], found[key]) for key in saved)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_that_is_not_finite_is_named_at_load(
    folder: Path, dtype: torch.dtype, value: float
) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / UNET).items()}
    tensors["conv_out.bias"][1] = value
    save_file(tensors, folder / UNET)
    assert "numbers in the tensor 'conv_out.bias' that are not finite" in refusal(folder)


def test_zero_terminal_snr_with_epsilon_is_refused_and_the_operator_may_overrule(
    folder: Path,
) -> None:
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    edit(folder, "scheduler/scheduler_config.json", zero)
    assert 'set prediction_type = "v_prediction" in the configuration' in refusal(folder)
    found = profile_of(folder, "tiny", prediction_type="v_prediction")
    assert found.prediction_type == "v_prediction"
    assert load(found, device="cpu").scheduler_config["prediction_type"] == "v_prediction"


# 1,000 numbers in a file whose last one takes what is left of the image away.
TO_NOISE = [0.001 + n * 1e-5 for n in range(999)] + [1.0]


def test_zero_terminal_snr_is_seen_in_the_betas_themselves(folder: Path) -> None:
    betas = {"trained_betas": TO_NOISE, "timestep_spacing": "trailing"}
    edit(folder, "scheduler/scheduler_config.json", betas)
    sentence = refusal(folder)
    assert "starts from noise alone (alphas_cumprod ends at 0)" in sentence
    assert 'set prediction_type = "v_prediction" in the configuration' in sentence
    parts = load(profile_of(folder, "tiny", prediction_type="v_prediction"), device="cpu")
    assert len(parts.profile.schedulers) > 2
    for name in {"lms", *parts.profile.schedulers}:
        latents = torch.ones(1, 4, 2, 2)
        draws = torch.Generator().manual_seed(3)
        sampler = Sampler(name, parts.scheduler_config, steps=8, draws=draws)
        latents = sampler.start_from_noise(latents)
        while not sampler.done:
            latents = sampler.step(sampler.scale(latents) * 0.5, latents)
            assert latents.isfinite().all()
        assert latents.abs().max() < 10


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("betas", "reason"),
    [
        ({"trained_betas": [*TO_NOISE[:-1], 1.5]}, "its betas are not all from 0 to 1"),
        ({"trained_betas": [*TO_NOISE[:-2], 1.0, 1.0]}, "nothing of an image before the last"),
        ({"beta_schedule": "linear", "beta_end": 1.0}, "nothing of an image before the last"),
    ],
)
def test_betas_that_no_sampler_can_follow_are_refused(
    folder: Path, betas: dict[str, Any], reason: str, prediction_type: str
) -> None:
    edit(folder, "scheduler/scheduler_config.json", betas | {"prediction_type": prediction_type})
    assert reason in refusal(folder)
