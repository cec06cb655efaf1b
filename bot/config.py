"""Settings from defaults, a TOML file and the environment, checked before anything starts."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from generation.request import GUIDANCE_MAX, GUIDANCE_MIN, SIZE_MAX, SIZE_MIN, STEPS_MAX, STEPS_MIN

from .errors import ConfigError

DEFAULT_FILE: Final = Path("config.toml")
_ENV_PREFIX: Final = "IMAGINE_BOT_"
_ENVIRONMENT: Final = "the environment"
_VARIABLE: Final = "DISCORD_TOKEN"


class Settings(BaseSettings):
    """Everything that an operator can set; `config.example.toml` explains each key.

    A value is taken from the first of: the command line, the environment
    (`DISCORD_TOKEN`, else `IMAGINE_BOT_` and the key in upper case), the TOML file.
    """

    model_config = SettingsConfigDict(env_prefix=_ENV_PREFIX, extra="forbid", frozen=True)

    token: SecretStr | None = None
    data: Path = Path("data")
    min_free_mb: Annotated[int, Field(ge=0)] = 200
    model: Annotated[str, Field(min_length=1)] = "starter"
    device: str | None = None
    dtype: Literal["float16", "bfloat16", "float32"] | None = None
    deterministic: bool = False
    compile: bool = False
    step_timeout: Annotated[float, Field(ge=5, le=86_400, allow_inf_nan=False)] = 120.0
    load_timeout: Annotated[float, Field(ge=30, le=86_400, allow_inf_nan=False)] = 1_800.0
    steps: Annotated[int, Field(ge=STEPS_MIN, le=STEPS_MAX)] | None = None
    guidance_scale: Annotated[float, Field(ge=GUIDANCE_MIN, le=GUIDANCE_MAX)] | None = None
    max_steps: Annotated[int, Field(ge=STEPS_MIN, le=STEPS_MAX)] = STEPS_MAX
    max_size: Annotated[int, Field(ge=SIZE_MIN, le=SIZE_MAX)] | None = None
    queue_limit: Annotated[int, Field(ge=1, le=1_000)] = 100
    member_limit: Annotated[int, Field(ge=1, le=1_000)] = 10
    guild_limit: Annotated[int, Field(ge=1, le=1_000)] | None = None
    role_weights: dict[int, Annotated[float, Field(gt=0, le=1_000)]] = Field(default_factory=dict)
    progress_seconds: Annotated[float, Field(ge=0.2, le=60)] = 2.0
    previews: bool = True
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic passes it by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave out the sources that are not ours; the TOML file comes in by `load_settings`."""
        return (init_settings, env_settings)


def load_settings(config: Path | None = None, **given: Any) -> Settings:
    """Return the settings from `config` (or ./config.toml if there is one) and the environment.

    `given` holds what the command line says; None there means not said.

    Raises:
        ConfigError: a file cannot be read, or a key or value is wrong; one sentence.
    """
    _check_environment()
    said = {key: value for key, value in given.items() if value is not None}
    file = config if config is not None else DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    written = _read(file) if file is not None else {}
    try:
        from_environment = Settings().model_dump(exclude_unset=True)
    except ValidationError as error:
        raise ConfigError(_explain(error, _ENVIRONMENT)) from error
    # Not as an alias of the key: its name alone, TOKEN, would be read too, and whatever another
    # program keeps there would be sent to Discord.
    if token := os.environ.get(_VARIABLE):
        from_environment["token"] = token
    try:
        from_file = Settings.model_validate(written).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise ConfigError(_explain(error, str(file))) from error
    try:
        settings = Settings(**{**from_file, **from_environment, **said})
    except ValidationError as error:
        raise ConfigError(_explain(error, "the command line")) from error
    if settings.steps is not None and settings.steps > settings.max_steps:
        raise ConfigError(
            f"steps is {settings.steps} and max_steps {settings.max_steps}, so nobody who leaves "
            "the steps out could have a picture; set steps to at most max_steps."
        )
    return settings


def _check_environment() -> None:
    """Refuse a misspelled variable: it would be passed over in silence."""
    known = {f"{_ENV_PREFIX}{key.upper()}" for key in Settings.model_fields}
    for name in sorted(os.environ):
        if name.upper().startswith(_ENV_PREFIX) and name.upper() not in known:
            raise ConfigError(_unknown(_ENVIRONMENT, name, known))


def _unknown(where: str, key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "config.example.toml lists all keys."
    return f"{where} has an unknown key {key!r}; {hint}"


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}; mend that line.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text; save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read ({error.strerror}); copy config.example.toml to it, or name "
            "another file with --config."
        ) from error


def _explain(error: ValidationError, where: str) -> str:
    """Return one sentence about the first thing that is wrong."""
    first = error.errors()[0]
    if first["loc"][-1:] == ("[key]",):
        return f"{where} sets {first['loc'][0]} for {first['input']!r}; use ids, which are numbers."
    key = ".".join(str(part) for part in first["loc"]) or "?"
    if first["type"] == "extra_forbidden":
        return _unknown(where, key, Settings.model_fields)
    message = first["msg"].removeprefix("Input should be ").partition(", unable")[0]
    if first["type"] == "string_too_short":
        message = "some text, or be left out"
    if where == _ENVIRONMENT and key in Settings.model_fields:
        key = f"{_ENV_PREFIX}{key.upper()}"
    value = "a secret" if "token" in key.lower() else repr(first["input"])
    return f"{where} sets {key} to {value}; it should be {message}."
