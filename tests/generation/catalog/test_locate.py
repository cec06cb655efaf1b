from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from generation.catalog.hashing import file_sha256, weights_sha256
from generation.catalog.locate import locate, starter_folder
from generation.catalog.profile import profile
from generation.errors import ModelError

from ..hub import Client, Hub

Edit = Callable[[str, dict[str, Any]], None]

UNET = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS = (
    "text_encoder/model.safetensors",
    UNET,
    "vae/diffusion_pytorch_model.safetensors",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The starter's configs with a few bytes for weights, which nothing here opens."""
    made = tmp_path / "rabbit"
    shutil.copytree(starter_folder(), made, ignore=shutil.ignore_patterns("*.safetensors"))
    for name in WEIGHTS:
        (made / name).write_bytes(name.encode() * 1000)
    return made


@pytest.fixture
def edit(folder: Path) -> Edit:
    def change(name: str, values: dict[str, Any]) -> None:
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(config | values))

    return change


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        locate(str(folder))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_the_starter_says_what_it_is() -> None:
    starter = locate("starter")
    assert (starter.name, starter.native_size, starter.size_multiple) == ("starter", 128, 8)
    assert (starter.token_limit, starter.prompt_limit) == (56, 23)
    assert starter.prediction_type == "v_prediction"
    assert (starter.default_steps, starter.default_guidance_scale) == (25, 2.5)
    assert starter.default_strength == 0.9
    assert starter.scheduler_config["beta_schedule"] == "scaled_linear"


def test_a_folder_is_named_by_its_last_part(folder: Path) -> None:
    assert locate(str(folder)).name == "rabbit"
    assert locate(str(folder)).folder == folder


def test_locating_loads_no_networks_and_no_hub_client() -> None:
    code = (
        "import sys; from generation.catalog.locate import locate;"
        "from generation.catalog.hashing import weights_sha256;"
        "weights_sha256(locate('starter').folder);"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'huggingface_hub')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_model_without_defaults_gets_the_usual_ones(folder: Path) -> None:
    (folder / "defaults.json").unlink()
    found = locate(str(folder))
    assert (found.default_steps, found.default_guidance_scale) == (30, 7.5)
    assert found.default_strength == 0.6


def test_sizes_follow_the_networks(folder: Path, edit: Edit) -> None:
    edit("vae/config.json", {"block_out_channels": [128, 256, 512, 512, 512]})
    edit("unet/config.json", {"sample_size": [96, 64]})
    found = locate(str(folder))
    assert found.size_multiple == 16
    assert found.native_size == 64 * 16


@pytest.mark.parametrize(
    ("tokenizer", "positions", "limit"), [(77, 32, 32), (20, 77, 20), (int(1e30), 77, 77)]
)
def test_the_shorter_of_two_limits_holds(
    folder: Path, edit: Edit, tokenizer: int, positions: int, limit: int
) -> None:
    more = {"model_max_length": tokenizer, "prompt_tokens": None}
    edit("tokenizer/tokenizer_config.json", more)
    edit("text_encoder/config.json", {"max_position_embeddings": positions})
    found = locate(str(folder))
    assert (found.token_limit, found.prompt_limit) == (limit, limit)


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "text_encoder/config.json",
        "unet/config.json",
        "vae/config.json",
        *WEIGHTS,
    ],
)
def test_a_missing_file_is_named_with_its_folder(folder: Path, name: str) -> None:
    (folder / name).unlink()
    sentence = refusal(folder)
    assert name in sentence
    assert str(folder) in sentence
    assert "download it again" in sentence


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder", "unet", "vae", "scheduler"])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    assert f"{part}/" in refusal(folder)


def test_a_tokenizer_may_come_as_vocabulary_and_merges(folder: Path) -> None:
    (folder / "tokenizer/tokenizer.json").unlink()
    (folder / "tokenizer/vocab.json").write_text("{}")
    assert "merges.txt" in refusal(folder)
    (folder / "tokenizer/merges.txt").write_text("")
    assert locate(str(folder)).token_limit == 56


@pytest.mark.parametrize("pickle", ["diffusion_pytorch_model.bin", "model.CKPT", "weights.pth"])
def test_weights_that_are_only_a_pickle_are_refused(folder: Path, pickle: str) -> None:
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / "unet" / pickle)
    sentence = refusal(folder)
    assert f"unet/{pickle}" in sentence
    assert "can run code" in sentence
    assert "safetensors" in sentence


def test_a_pickle_beside_safetensors_is_ignored(folder: Path) -> None:
    before = weights_sha256(folder)
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    assert locate(str(folder)).name == "rabbit"
    assert weights_sha256(folder) == before


@pytest.mark.parametrize("name", ["v1-5-pruned.ckpt", "some/where/model.pt", "x.bin", "x.pth"])
def test_a_pickle_file_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ModelError, match="can run code"):
        locate(name)


def test_half_precision_files_do_if_there_are_no_others(folder: Path) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert locate(str(folder)).name == "rabbit"


@pytest.mark.parametrize(("variant", "dotted"), [("", ""), (".fp16", ".fp16")])
def test_weights_may_be_split(folder: Path, variant: str, dotted: str) -> None:
    unet = folder / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    (unet / f"diffusion_pytorch_model.safetensors.index{dotted}.json").write_text("{}")
    assert "has 0 of the" in refusal(folder)
    for shard in ("00001-of-00002", "00002-of-00002"):
        name = f"diffusion_pytorch_model{variant}-{shard}.safetensors"
        (unet / name).write_bytes(b"x")
    assert locate(str(folder)).name == "rabbit"
    (unet / f"diffusion_pytorch_model{variant}-00001-of-00002.safetensors").unlink()
    assert "has 1 of the 2 files" in refusal(folder)


@pytest.mark.parametrize(
    "pipeline", ["StableDiffusionXLPipeline", "StableDiffusionInpaintPipeline", "FluxPipeline"]
)
def test_a_model_for_another_pipeline_is_refused(folder: Path, edit: Edit, pipeline: str) -> None:
    edit("model_index.json", {"_class_name": pipeline})
    sentence = refusal(folder)
    assert pipeline in sentence
    assert "Stable Diffusion 1 or 2" in sentence


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "AutoencoderTiny"),
        ("model_index.json", {"unet": [None, None]}, "has nothing as its unet"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"out_channels": 7}, "out_channels = 7"),
        ("unet/config.json", {"sample_size": None}, "sample_size = None"),
        ("unet/config.json", {"cross_attention_dim": 768}, "the text encoder's 192"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim = 256"),
        ("vae/config.json", {"block_out_channels": []}, "block_out_channels"),
        ("vae/config.json", {"block_out_channels": "many"}, "block_out_channels"),
        ("text_encoder/config.json", {"max_position_embeddings": -1}, "max_position_embeddings"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "long"}, "model_max_length"),
        ("tokenizer/tokenizer_config.json", {"prompt_tokens": 57}, "whole number from 3 to 56"),
        ("tokenizer/tokenizer_config.json", {"prompt_tokens": 2}, "prompt_tokens = 2"),
        ("tokenizer/tokenizer_config.json", {"prompt_tokens": "few"}, "prompt_tokens = 'few'"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "v_prediction"),
        ("defaults.json", {"steps": 0}, "steps = 0"),
        ("defaults.json", {"guidance_scale": 0.5}, "guidance_scale = 0.5"),
        ("defaults.json", {"max_size": "large"}, "max_size = 'large'"),
        ("defaults.json", {"max_size": 4}, "a whole number from 32 to 2048"),
        ("defaults.json", {"max_size": 10_000}, "max_size = 10000"),
        ("emoji.json", {"🦉": 3}, "🦉 = 3 instead of the name of an emoji"),
        ("emoji.json", {"a": "b"}, "a = 'b' instead of the name of an emoji"),
        ("defaults.json", {"strength": 0.01}, "strength = 0.01 instead of a number from 0.05 to 1"),
        ("defaults.json", {"strength": "much"}, "strength = 'much'"),
    ],
)
def test_a_model_that_the_engine_cannot_run_is_refused(
    folder: Path, edit: Edit, name: str, values: dict[str, Any], said: str
) -> None:
    edit(name, values)
    assert said in refusal(folder)


def test_how_large_its_pictures_may_be_and_the_names_of_emoji_are_in_files_of_ours(
    folder: Path, edit: Edit
) -> None:
    found = locate(str(folder))
    digest = weights_sha256(folder)
    assert found.emoji["🦉"] == "owl"
    assert found.default_max_size == found.native_size
    edit("defaults.json", {"max_size": 96})
    edit("emoji.json", {"🦉": "cat"})
    found = locate(str(folder))
    assert (found.default_max_size, found.emoji["🦉"]) == (96, "cat")
    # They are no part of what a recipe makes.
    assert weights_sha256(folder) == digest
    (folder / "defaults.json").unlink()
    (folder / "emoji.json").unlink()
    found = locate(str(folder))
    assert (found.default_max_size, found.emoji) == (2 * found.native_size, {})


def test_a_unet_that_does_not_say_how_many_channels_it_takes_takes_four(folder: Path) -> None:
    path = folder / "unet/config.json"
    config = json.loads(path.read_text())
    del config["in_channels"]
    path.write_text(json.dumps(config))
    assert "takes 4 channels where the latents have 8" in refusal(folder)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "defaults.json"])
def test_broken_json_is_named(folder: Path, name: str, text: str) -> None:
    (folder / name).write_bytes(text.encode("latin-1"))
    assert str(folder / name) in refusal(folder)


@pytest.mark.parametrize("name", ["no-such-model", "./no/such", "", "a/b/c", "../x", "a b/c"])
def test_an_unknown_name_says_what_would_do(name: str) -> None:
    with pytest.raises(ModelError, match=r"use 'starter', a folder, "):
        locate(name)


@pytest.mark.parametrize("name", ["x" * 300, "\0", "~nobody-of-this-name/x", f"{'x' * 300}.sft"])
def test_what_can_be_no_path_is_a_sentence(name: str) -> None:
    with pytest.raises(ModelError, match=r"^There is no .*\.$"):
        locate(name)


@pytest.mark.parametrize("name", ["x.onnx", "x", "x.safetensors.download", "owner/name"])
def test_a_file_of_another_kind_is_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ModelError, match="is a file of a kind that is not supported"):
        locate(name)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    assert "model_index.json" in refusal(tmp_path)
    with pytest.raises(ModelError, match="no folder"):
        profile(tmp_path / "gone", "gone")


def test_the_hash_follows_what_pictures_depend_on(folder: Path, edit: Edit) -> None:
    first = weights_sha256(folder)
    (folder / "README.md").write_text("other words")
    edit("defaults.json", {"steps": 3})
    assert weights_sha256(folder) == first
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    assert weights_sha256(copy) == first
    seen = {first}
    for name in WEIGHTS:
        (folder / name).write_bytes(b"changed")
        seen.add(weights_sha256(folder))
    edit("scheduler/scheduler_config.json", {"beta_end": 0.02})
    seen.add(weights_sha256(folder))
    assert len(seen) == 5


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub.running() as running:
        yield running


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "home")


def test_a_hub_model_is_downloaded_once(hub: Hub, client: Client, folder: Path) -> None:
    hub.add_folder("owner/rabbit", folder)
    first = client.locate("owner/rabbit")
    assert first.name == "owner/rabbit"
    assert first.sha256 == weights_sha256(folder)
    done, total, files_done, files, percent = first.progress[-1]
    assert (done, files_done, percent) == (total, files, 100)
    served = hub.models["owner/rabbit"]
    assert total == sum(len(served[name]) for name in hub.downloads())
    assert [p[0] for p in first.progress] == sorted(p[0] for p in first.progress)
    hub.requests.clear()
    again = client.locate("owner/rabbit")
    assert again.folder == first.folder
    assert hub.downloads() == []


def test_only_what_the_model_needs_is_downloaded(hub: Hub, client: Client, folder: Path) -> None:
    for name in (
        "v1-5-pruned.safetensors",
        "v1-5-pruned.ckpt",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/model.onnx",
        "text_encoder/flax_model.msgpack",
        "feature_extractor/preprocessor_config.json",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not needed")
    hub.add_folder("owner/rabbit", folder)
    assert client.locate("owner/rabbit").name == "owner/rabbit"
    assert sorted(hub.downloads()) == sorted(
        [
            "defaults.json",
            "emoji.json",
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
            "unet/config.json",
            "vae/config.json",
            *WEIGHTS,
        ]
    )


def test_a_transfer_that_is_cut_off_goes_on_where_it_stopped(hub: Hub, client: Client) -> None:
    unet = "unet/diffusion_pytorch_model.safetensors"
    hub.add_folder("owner/starter", starter_folder())
    hub.cuts[unet] = 15_000_000
    found = client.locate("owner/starter")
    assert found.sha256 == weights_sha256(starter_folder())
    ranges = [
        seen.range for seen in hub.requests if seen.method == "GET" and seen.path.endswith(unet)
    ]
    assert ranges[0] is None
    start = int(str(ranges[1]).removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 15_000_000
    assert found.progress[-1][4] == 100
    assert len(ranges) == 2


def test_finished_files_are_kept_when_a_download_is_given_up(
    hub: Hub, client: Client, folder: Path
) -> None:
    unet = "unet/diffusion_pytorch_model.safetensors"
    hub.add_folder("owner/rabbit", folder)
    hub.broken.add(unet)
    assert "status 500" in client.locate("owner/rabbit").error
    finished = set(hub.downloads()) - {unet}
    assert finished
    hub.broken.clear()
    hub.requests.clear()
    assert client.locate("owner/rabbit").name == "owner/rabbit"
    assert unet in hub.downloads()
    assert not finished & set(hub.downloads())


def test_what_a_killed_download_left_is_removed_and_what_another_writes_is_not(
    hub: Hub, client: Client, folder: Path
) -> None:
    hub.add_folder("owner/rabbit", folder)
    hub.stalls.add(UNET)
    blob = file_sha256(folder / UNET)
    with client.locating("owner/rabbit", f"hub/*/blobs/{blob}.*.incomplete") as left:
        assert "not complete" in client.locate("owner/rabbit", HF_HUB_OFFLINE="1").error
        assert left.exists()
    assert left.exists()
    hub.stalls.clear()
    assert client.locate("owner/rabbit").sha256 == weights_sha256(folder)
    assert not left.exists()


def test_without_the_hub_a_complete_model_is_taken_from_the_cache(
    client: Client, hub: Hub, folder: Path
) -> None:
    hub.add_folder("owner/rabbit", folder)
    before = client.locate("owner/rabbit")
    for environment in (
        {"HF_ENDPOINT": "http://127.0.0.1:9"},
        {"HF_HUB_OFFLINE": "1"},
    ):
        found = client.locate("owner/rabbit", **environment)
        assert found.folder == before.folder
        [said] = found.said
        assert "on this machine is used" in said
        assert "The hub does not answer" in said


def test_a_complete_model_outlives_a_hub_that_refuses_it(
    client: Client, hub: Hub, folder: Path
) -> None:
    hub.add_folder("owner/rabbit", folder)
    before = client.locate("owner/rabbit")
    for hub.status in (401, 403, 404, 503):
        found = client.locate("owner/rabbit")
        assert found.folder == before.folder
        [said] = found.said
        assert "on this machine is used" in said
        assert f"status {hub.status}" in said
    hub.status = None
    hub.models.clear()
    found = client.locate("owner/rabbit")
    assert found.folder == before.folder
    [said] = found.said
    assert "no model owner/rabbit on the hub" in said


def retrain(hub: Hub, name: str, commit: str) -> None:
    """Publish a version of the model with another UNet."""
    hub.commit = commit
    hub.models[name] = {**hub.models[name], UNET: commit.encode()}


def test_a_download_that_fails_leaves_the_newest_complete_version_in_use(
    client: Client, hub: Hub, folder: Path
) -> None:
    hub.add_folder("owner/rabbit", folder)
    client.locate("owner/rabbit")
    retrain(hub, "owner/rabbit", "a" * 40)
    second = client.locate("owner/rabbit")
    retrain(hub, "owner/rabbit", "5" * 40)
    hub.broken.add(UNET)
    found = client.locate("owner/rabbit")
    assert (found.folder, found.sha256) == (second.folder, second.sha256)
    [said] = found.said
    assert "status 500" in said
    assert client.locate("owner/rabbit", HF_HUB_OFFLINE="1").folder == second.folder
    hub.broken.clear()
    assert str(client.locate("owner/rabbit").folder).endswith(hub.commit)


def test_a_new_version_that_does_not_fit_leaves_the_complete_one_in_use(
    client: Client, hub: Hub, folder: Path
) -> None:
    hub.add_folder("owner/rabbit", folder)
    before = client.locate("owner/rabbit")
    retrain(hub, "owner/rabbit", "f" * 40)
    hub.sizes[UNET] = 10**18
    found = client.locate("owner/rabbit")
    assert (found.folder, found.sha256) == (before.folder, before.sha256)
    [said] = found.said
    assert "needs another 1000000000.0 GB" in said


def test_what_only_another_branch_names_is_another_model(
    client: Client, hub: Hub, folder: Path
) -> None:
    hub.add_folder("owner/rabbit", folder)
    found = client.locate("owner/rabbit").folder
    assert found is not None
    refs = found.parents[1] / "refs"
    (refs / "main").rename(refs / "fp16")
    error = client.locate("owner/rabbit", HF_HUB_OFFLINE="1").error
    assert "not complete on this machine" in error


def test_without_the_hub_an_incomplete_model_is_no_model(
    client: Client, hub: Hub, folder: Path
) -> None:
    hub.add_folder("owner/rabbit", folder)
    found = client.locate("owner/rabbit").folder
    assert found is not None
    (found / "unet/diffusion_pytorch_model.safetensors").unlink()
    error = client.locate("owner/rabbit", HF_HUB_OFFLINE="1").error
    assert "not complete on this machine" in error


@pytest.mark.parametrize(
    "environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}]
)
def test_without_the_hub_and_the_cache_the_connection_is_named(
    client: Client, environment: dict[str, str]
) -> None:
    error = client.locate("owner/rabbit", **environment).error
    assert "check the connection" in error


def test_an_unknown_model_is_a_matter_of_spelling(client: Client) -> None:
    error = client.locate("owner/rabit").error
    assert "check the spelling" in error
    assert "HF_TOKEN" in error


def test_a_gated_model_asks_for_its_licence(hub: Hub, client: Client, folder: Path) -> None:
    hub.add_folder("owner/rabbit", folder)
    hub.gated["owner/rabbit"] = "hf_right"
    for environment in ({}, {"HF_TOKEN": "hf_wrong"}):
        error = client.locate("owner/rabbit", **environment).error
        assert "licence" in error
        assert "HF_TOKEN" in error
    assert client.locate("owner/rabbit", HF_TOKEN="hf_right").name == "owner/rabbit"


@pytest.mark.parametrize(("status", "said"), [(401, "HF_TOKEN"), (500, "status 500")])
def test_a_hub_out_of_order_is_named(hub: Hub, client: Client, status: int, said: str) -> None:
    hub.status = status
    assert said in client.locate("owner/rabbit").error


def test_a_hub_model_of_pickles_is_refused_before_a_byte_is_fetched(
    hub: Hub, client: Client, folder: Path
) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))
    hub.add_folder("owner/rabbit", folder)
    assert "can run code" in client.locate("owner/rabbit").error
    assert hub.downloads() == []


def test_a_hub_model_for_another_engine_is_refused_before_its_weights_are_fetched(
    hub: Hub, client: Client, folder: Path, edit: Edit
) -> None:
    edit("model_index.json", {"_class_name": "StableDiffusionXLPipeline"})
    hub.add_folder("owner/rabbit", folder)
    assert "StableDiffusionXLPipeline" in client.locate("owner/rabbit").error
    assert "model_index.json" in hub.downloads()
    assert not set(WEIGHTS) & set(hub.downloads())


def test_a_disk_that_is_too_small_is_named_before_the_weights_are_fetched(
    hub: Hub, client: Client, folder: Path
) -> None:
    hub.add_folder("owner/rabbit", folder)
    hub.sizes["unet/diffusion_pytorch_model.safetensors"] = 10**18
    error = client.locate("owner/rabbit").error
    assert "needs another 1000000000.0 GB" in error
    assert "HF_HOME" in error
    assert not set(WEIGHTS) & set(hub.downloads())


def test_a_new_version_needs_no_room_for_weights_that_are_here(
    hub: Hub, client: Client, folder: Path
) -> None:
    hub.add_folder("owner/rabbit", folder)
    before = client.locate("owner/rabbit")
    hub.requests.clear()
    hub.commit = "f" * 40
    hub.models["owner/rabbit"] = {**hub.models["owner/rabbit"], "README.md": b"other words"}
    hub.sizes.update(dict.fromkeys(WEIGHTS, 10**18))
    found = client.locate("owner/rabbit")
    assert found.said == []
    assert found.folder is not None
    assert found.folder.name == hub.commit
    assert found.sha256 == before.sha256
    assert hub.downloads() == []


def test_a_cache_that_cannot_be_written_is_named(
    hub: Hub, client: Client, folder: Path, tmp_path: Path
) -> None:
    hub.add_folder("owner/rabbit", folder)
    (tmp_path / "file").touch()
    error = client.locate("owner/rabbit", HF_HOME=str(tmp_path / "file" / "home")).error
    assert "cannot be saved" in error
    assert "HF_HOME" in error


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user for a moment")
def test_a_folder_whose_files_another_user_may_not_look_at_is_a_sentence(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        model = Path(place) / "model"
        shutil.copytree(folder, model)
        model.chmod(0o744)
        os.seteuid(65_534)
        try:
            with pytest.raises(ModelError, match=r"cannot be read .*; let the bot's user read"):
                locate(str(model))
        finally:
            os.seteuid(0)
