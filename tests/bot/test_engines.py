"""The description of an engine, which goes to the process that builds the engine."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bot.config import Settings
from bot.engines import decode_spec, encode_spec
from generation.catalog.profile import ModelProfile
from generation.models.locate import locate

TOKEN = "MTIz.secret.secret"
SETTINGS = Settings(
    token=TOKEN,
    device="cuda:1",
    dtype="bfloat16",
    compile=True,
    deterministic=True,
    log_level="DEBUG",
    model_memory_gb=12.5,
    role_weights={7: 2.0},
)


@pytest.fixture(scope="module")
def profile() -> ModelProfile:
    return locate("starter")


@pytest.fixture(scope="module")
def profiles(profile: ModelProfile) -> dict[str, ModelProfile]:
    return {"Z": profile, "A": dataclasses.replace(profile, native_size=64)}


def test_a_description_comes_back_as_it_was_without_a_secret(
    profiles: dict[str, ModelProfile],
) -> None:
    text = encode_spec(SETTINGS, profiles)
    settings, same = decode_spec(text)
    assert list(same.items()) == list(profiles.items())
    assert settings == Settings(
        device="cuda:1",
        dtype="bfloat16",
        compile=True,
        deterministic=True,
        log_level="DEBUG",
        model_memory_gb=12.5,
    )
    assert TOKEN not in text
    assert text.isascii()


def test_a_folder_may_have_a_name_that_is_no_text(profile: ModelProfile) -> None:
    odd = dataclasses.replace(profile, folder=Path(os.fsdecode(b"/models/\xff")))
    assert decode_spec(encode_spec(SETTINGS, {"odd": odd}))[1] == {"odd": odd}


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"settings": {"dtype": "float8"}}, "dtype"),
        ({"settings": {"devise": "cpu"}}, "devise"),
        ({"profiles": {"A": {"name": "starter"}}}, "missing required field"),
        ({"code": "import os"}, "unknown field `code`"),
    ],
)
def test_a_description_with_a_wrong_value_is_refused(
    profile: ModelProfile, changes: dict[str, Any], wrong: str
) -> None:
    text = json.dumps({**json.loads(encode_spec(SETTINGS, {"A": profile})), **changes})
    with pytest.raises(ValueError, match=wrong):
        decode_spec(text)
