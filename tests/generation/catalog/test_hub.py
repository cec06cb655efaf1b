"""Models from the hub: what is downloaded, what is kept, and what people are told."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from generation.catalog.hashing import file_sha256, weights_sha256
from generation.errors import ModelError
from generation.models.families import STABLE_DIFFUSION
from generation.models.locate import locate, starter_folder

from ..hub import Client, Hub
from .folders import UNET, WEIGHTS, Edit


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
    assert first.sha256 == weights_sha256(folder, STABLE_DIFFUSION.layout)
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
    assert found.sha256 == weights_sha256(starter_folder(), STABLE_DIFFUSION.layout)
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
    assert client.locate("owner/rabbit").sha256 == weights_sha256(folder, STABLE_DIFFUSION.layout)
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


def test_a_hub_model_of_pickles_is_refused_before_more_than_its_index_is_fetched(
    hub: Hub, client: Client, folder: Path
) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))
    hub.add_folder("owner/rabbit", folder)
    assert "can run code" in client.locate("owner/rabbit").error
    assert hub.downloads() == ["model_index.json"]


def test_a_hub_model_for_another_engine_is_refused_before_its_weights_are_fetched(
    hub: Hub, client: Client, folder: Path, edit: Edit
) -> None:
    edit("model_index.json", {"_class_name": "PixArtSigmaPipeline"})
    hub.add_folder("owner/rabbit", folder)
    assert "PixArtSigmaPipeline" in client.locate("owner/rabbit").error
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
