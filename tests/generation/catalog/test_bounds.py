"""Numbers and names from a model's files, which may ask for any amount of memory and time."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generation.catalog.files import read_config
from generation.catalog.headers import read_header
from generation.catalog.json_reader import DEPTH, as_object, read_object
from generation.errors import ModelError
from generation.models.loading import load
from generation.models.locate import profile_of, starter_folder
from generation.models.text.tokenizing import load_tokenizer
from generation.values.spelling import spell_emoji

from ..tiny import tiny_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "saved"
    tiny_pipeline().save_pretrained(folder)
    for name in ("defaults.json", "emoji.json"):
        shutil.copy(starter_folder() / name, folder / name)
    values = json.loads((folder / "defaults.json").read_text()) | {"max_size": 32}
    (folder / "defaults.json").write_text(json.dumps(values))
    profile_of(folder, "tiny")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


@contextlib.contextmanager
def within(mebibytes: int) -> Iterator[None]:
    """Fail if Python's own objects take more than so much memory."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / MEBIBYTE
    finally:
        tracemalloc.stop()
    assert peak < mebibytes


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(profile_of(folder, "tiny"), device="cpu")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert len(sentence) < 600
    return sentence


def edit(folder: Path, name: str, values: dict[str, Any]) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("text_encoder", {"vocab_size": 10**7}, "vocab_size = 10000000 instead of a number of at"),
        ("text_encoder", {"vocab_size": 10**6}, "of another shape"),
        ("text_encoder", {"num_hidden_layers": 10**5}, "num_hidden_layers = 100000"),
        ("text_encoder", {"max_position_embeddings": 10**5}, "max_position_embeddings = 100000"),
        ("text_encoder", {"hidden_size": 10**6}, "the text encoder's 1000000"),
        ("text_encoder", {"intermediate_size": 10**6}, "of another shape"),
        ("text_encoder", {"hidden_size": 10**39}, "hidden_size ="),
        ("unet", {"sample_size": 1}, "sample_size = 1"),
        ("unet", {"sample_size": 40_000}, "sample_size = 40000"),
        ("unet", {"layers_per_block": 10**5}, "layers_per_block = 100000"),
        ("unet", {"layers_per_block": [100, 100]}, "instead of fewer layers"),
        ("unet", {"transformer_layers_per_block": [[128, 1], 1]}, "instead of fewer layers"),
        ("unet", {"reverse_transformer_layers_per_block": [10**6]}, "at most 128"),
        ("unet", {"reverse_transformer_layers_per_block": [[128], 1]}, "instead of fewer layers"),
        ("unet", {"block_out_channels": [8] * 20_000}, "block_out_channels = [8, 8, 8"),
        ("unet", {"time_embedding_dim": 10**6}, "of another shape"),
        ("unet", {"conv_in_kernel": 10**5}, "of another shape"),
        ("vae", {"block_out_channels": [4] * 20_000}, "block_out_channels = [4, 4, 4"),
        ("vae", {"block_out_channels": [4] * 17}, "at most 16 numbers"),
        ("vae", {"layers_per_block": 500}, "layers_per_block = 500"),
        ("vae", {"scaling_factor": 1e300}, "scaling_factor = 1e+300"),
        ("vae", {"scaling_factor": 0}, "scaling_factor = 0 instead of a number from 0.0001"),
        ("vae", {"scaling_factor": "x"}, "scaling_factor = 'x' instead of a number"),
        ("vae", {"scaling_factor": None}, "scaling_factor = None instead of a number"),
        ("unet", {"downsample_padding": 6_000}, "downsample_padding = 6000 instead of a number"),
    ],
)
def test_a_networks_number_is_bounded_before_anything_is_built(
    folder: Path, name: str, values: dict[str, Any], said: str
) -> None:
    edit(folder, f"{name}/config.json", values)
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}, "at most 10,000"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 2e8}, "at most 10,000"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1] * 10_001}, "10,000 values"),
        ("defaults.json", {"guidance_scale": 1000}, "guidance_scale = 1000"),
        ("defaults.json", {"guidance_scale": True}, "guidance_scale = True"),
        ("defaults.json", {"steps": 10_000}, "steps = 10000"),
        ("defaults.json", {"strength": True}, "strength = True"),
        ("emoji.json", {"🦉": "x" * 81}, "a name of at most 80 characters"),
        ("emoji.json", {"🦉" * 33: "owls"}, "the name of an emoji"),
        ("emoji.json", {chr(0x10000 + n): "x" for n in range(10_001)}, "10,000 are the most"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": True}, "model_max_length = True"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": -5}, "model_max_length = -5"),
    ],
)
def test_what_a_file_says_of_pictures_and_prompts_is_bounded(
    folder: Path, name: str, values: dict[str, Any], said: str
) -> None:
    edit(folder, name, values)
    with pytest.raises(ModelError, match=r"\.$") as caught:
        profile_of(folder, "tiny")
    assert said in str(caught.value)


def test_a_name_of_an_emoji_cannot_fill_the_memory() -> None:
    with within(8):
        told = spell_emoji("🦉" * 90, {"🦉": "x" * 3_000_000})
    assert len(told) < 90 * 82


def test_a_token_that_the_text_encoder_does_not_know_is_found_at_load(folder: Path) -> None:
    name = "tokenizer/tokenizer.json"
    added = json.loads((folder / name).read_text())["added_tokens"]
    more = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    new = {"id": 4096, "content": "<rabbit>", "special": False} | more
    edit(folder, name, {"added_tokens": [*added, new]})
    assert "it has a token 4096, and the text encoder knows 4096" in refusal(folder)


CONFIGS = ("model_index.json", "unet/config.json", "tokenizer/tokenizer.json", "emoji.json")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "nested more than 32 deep"),
        ('{"a":' * 200_000, "nested more than 32 deep"),
        ('{"sample_size": ' + "9" * 5_000 + "}", "a number of 5000 digits"),
        ('{"sample_size": -' + "9" * 5_000 + "}", "a number of 5001 digits"),
        ('{"guidance_scale": NaN}', "it holds NaN"),
        ('{"guidance_scale": -Infinity}', "it holds -Infinity"),
        ('{"guidance_scale": 1e999}', "it holds the number 1e999"),
        (r'{"a": "\ud83e"}', "half of a character"),
        ('{"a": "' + "\\" * 3 + '"}', "cannot be read as JSON"),
        ('"' * 50_001, "cannot be read as JSON"),
        ('"' + '\\"' * 50_000, "cannot be read as JSON"),
    ],
)
def test_json_that_no_model_needs_is_a_sentence(
    folder: Path, name: str, text: str, said: str
) -> None:
    (folder / name).write_text(text)
    sentence = refusal(folder)
    assert sentence.startswith(str(folder / name))
    assert said in sentence


@pytest.mark.parametrize("name", ["unet/config.json", "tokenizer/tokenizer.json"])
def test_a_config_of_gigabytes_is_not_read(folder: Path, name: str) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(8 * 2**30)
    with within(40), pytest.raises(ModelError, match="is larger than"):
        read_config(folder, name)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_vocabulary_of_gigabytes_is_not_read(folder: Path, name: str) -> None:
    tokenizer = folder / "tokenizer"
    model = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tokenizer / "merges.txt").write_text("\n".join(map(" ".join, model["merges"])))
    with (tokenizer / name).open("r+b") as file:
        file.truncate(8 * 2**30)
    with within(40), pytest.raises(ModelError, match="is larger than 16 MiB"):
        load_tokenizer(folder, ("tokenizer/vocab.json", "tokenizer/merges.txt"), 4_096)


def test_a_byte_order_mark_is_passed_over(folder: Path) -> None:
    for path in folder.glob("**/*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(profile_of(folder, "tiny"), device="cpu").tokenizer("red apple").input_ids


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(), JSON), st.booleans(), st.sampled_from(["", "\ufeff"]))
def test_the_reader_returns_what_json_says(value: dict[str, Any], ascii_: bool, mark: str) -> None:
    data = (mark + json.dumps(value, ensure_ascii=ascii_)).encode()
    assert as_object(data, Path("x.json")) == value


@given(st.binary(max_size=200) | st.text('{}[]":,\\u0d8e19-', max_size=80).map(str.encode))
def test_whatever_the_bytes_are_the_reader_answers_or_refuses(data: bytes) -> None:
    with contextlib.suppress(ModelError):
        assert isinstance(as_object(data, Path("x.json")), dict)


@given(st.integers(1, 2 * DEPTH), st.text("[]{}\\", max_size=9))
def test_brackets_in_texts_do_not_count(depth: int, text: str) -> None:
    data = json.dumps({text: 1})
    for _ in range(depth - 1):
        data = f'{{"a": {data}}}'
    if depth > DEPTH:
        with pytest.raises(ModelError, match="nested"):
            as_object(data.encode(), Path("x.json"))
    else:
        assert as_object(data.encode(), Path("x.json")) == json.loads(data)


def damaged(folder: Path, change: Callable[[dict[str, Any], str], None]) -> None:
    data = (folder / UNET).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header, min(header.keys() - {"__metadata__"}))
    text = json.dumps(header).encode()
    (folder / UNET).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        lambda header, name: header[name].update(data_offsets=[0, 2**62]),
        lambda header, name: header[name].update(data_offsets=[-1, 1]),
        lambda header, name: header[name].update(shape=[2**40, 2**40]),
        lambda header, name: header[name].update(shape=[2**62, 4]),
        lambda header, name: header[name].update(shape=[1] * 9),
        lambda header, name: header[name].update(shape=[True]),
        lambda header, name: header[name].update(shape="8"),
        lambda header, name: header[name].update(dtype="F4"),
        lambda header, name: header[name].update(dtype=["F32"]),
        lambda header, name: header[name].pop("dtype"),
        lambda header, name: header.update({name: None}),
        lambda header, name: header.update({"twin": header[name]}),
        lambda header, name: header.pop(name),
        lambda header, name: header.update(__metadata__={"a": 1}),
        lambda header, name: header.update(__metadata__=[]),
        lambda header, name: header.update({str(n): {"data_offsets": 0} for n in range(20_001)}),
    ],
)
def test_a_header_that_contradicts_its_file_is_refused(
    folder: Path, change: Callable[[dict[str, Any], str], None]
) -> None:
    damaged(folder, change)
    with within(40), pytest.raises(ModelError, match=r"cannot be loaded \(.*\); ") as caught:
        read_header(folder / UNET)
    assert str(caught.value).startswith(str(folder / UNET))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 99_000_000, 0])
def test_the_length_of_a_header_is_no_reason_to_take_memory(folder: Path, length: int) -> None:
    data = (folder / UNET).read_bytes()
    with (folder / UNET).open("wb") as file:
        file.write(struct.pack("<Q", length) + data[8:])
        file.truncate(100_000_000)
    with within(20), pytest.raises(ModelError, match="diffusion_pytorch_model"):
        read_header(folder / UNET)


def test_a_tensor_that_is_named_twice_is_refused(folder: Path) -> None:
    data = (folder / UNET).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    text = data[8 : 8 + length].strip()
    name = min(json.loads(text).keys() - {"__metadata__"})
    text = text[:-1] + b"," + json.dumps({name: json.loads(text)[name]}).encode()[1:]
    (folder / UNET).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    assert f"it says {name!r} twice" in refusal(folder)


@given(st.data())
def test_whatever_the_header_is_the_reader_answers_or_refuses(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = (saved / UNET).read_bytes()[:4_000]
    at = data.draw(st.integers(0, len(whole)))
    new = data.draw(
        st.binary(max_size=20) | st.text('0123456789,:"[]{}', max_size=9).map(str.encode)
    )
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    file.write_bytes(whole[:at] + new + whole[at + len(new) :])
    with pytest.raises(ModelError, match="damaged"):
        read_header(file)


def test_a_list_of_a_models_files_may_be_longer_than_a_config(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"weight_map": {"a" * 1_100_000: "b"}}))
    with pytest.raises(ModelError, match="is larger than 1 MiB"):
        read_object(tmp_path / "x.json")
    assert read_object(tmp_path / "x.json", most=2 * MEBIBYTE)
