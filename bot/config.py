"""The settings: from defaults, a TOML file and the environment, validated before the start."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from generation.catalog.memory.savings import Offload, Quantize
from generation.values.request import STEPS_MAX

from .errors import BotError, ConfigError
from .listing import (
    Guidance,
    ListedLora,
    ListedModel,
    PredictionType,
    Size,
    Steps,
    Tile,
    short_name,
)
from .token import looks_like_token, take_token

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

DEFAULT_FILE: Final = Path("config.toml")
_ENV_PREFIX: Final = "IMAGINE_BOT_"
_ENVIRONMENT: Final = "the environment"
# These may be set for all models, and for a single one.
_OF_MEMORY: Final = ("quantize", "offload", "vae_tile", "vae_slicing")
_TOKEN_KEYS: Final = frozenset({"token", "token_file"})
_SHOWN: Final = 100
_FILE_BYTES: Final = 2**20


def _without_nul(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path, which holds no NUL character")
    return path


_Path = Annotated[Path, AfterValidator(_without_nul)]


_LISTS: Final[Mapping[str, type[BaseModel]]] = {"models": ListedModel, "loras": ListedLora}


class UnknownModel(BotError):
    """No listed model has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"There is no model {name!r} in the list; use {' or '.join(known)}.")


class Settings(BaseSettings):
    """Everything that an operator can set; `config.example.toml` explains each key.

    The command line counts first, then the environment (`DISCORD_TOKEN`, or `IMAGINE_BOT_` and the
    key in upper case), then the TOML file; see `load_settings`.
    """

    model_config = SettingsConfigDict(env_prefix=_ENV_PREFIX, extra="forbid", frozen=True)

    token: SecretStr | None = None
    token_file: _Path | None = None
    data: _Path = Path("data")
    min_free_mb: Annotated[int, Field(ge=0)] = 200
    model: Annotated[str, Field(min_length=1)] = "starter"
    models: tuple[ListedModel, ...] = ()
    model_memory_gb: Annotated[float, Field(gt=0, le=4_096, allow_inf_nan=False)] | None = None
    device: str | None = None
    dtype: Literal["float16", "bfloat16", "float32"] | None = None
    prediction_type: PredictionType | None = None
    base: Annotated[str, Field(min_length=1)] | None = None
    vae: Annotated[str, Field(min_length=1)] | None = None
    quantize: Quantize | None = None
    offload: Offload = "none"
    vae_tile: Tile | None = None
    vae_slicing: bool = False
    deterministic: bool = False
    compile: bool = False
    step_timeout: Annotated[float, Field(ge=5, le=86_400, allow_inf_nan=False)] = 120.0
    load_timeout: Annotated[float, Field(ge=30, le=86_400, allow_inf_nan=False)] = 1_800.0
    lora_folder: _Path | None = None
    embedding_folder: _Path | None = None
    loras: tuple[ListedLora, ...] = ()
    steps: Steps | None = None
    guidance_scale: Guidance | None = None
    max_steps: Steps = STEPS_MAX
    max_size: Size | None = None
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
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use no source of pydantic's own: `read_settings` reads each source for its faults."""
        return (init_settings,)

    @property
    def listed(self) -> tuple[ListedModel, ...]:
        """Return the models of the operator: `models`, or else the one that `model` names."""
        if not self.models:
            return (self._single(self.model, self.base, self.vae),)
        return tuple(model.model_copy(update=self._memory_of(model)) for model in self.models)

    @property
    def default_model(self) -> ListedModel:
        """Return the model of requests that name none: `model`, or else the first of `models`."""
        return self._find(self.model) or self.listed[0]

    def named(self, name: str | None, base: str | None = None) -> ListedModel:
        """Return the listed model called `name`, or else one that is not listed, at that place.

        None stands for the default model. `base` is that of a model that is not listed.

        Raises:
            UnknownModel: the name is empty.
        """
        if name is None:
            return self.default_model
        if not name:
            raise UnknownModel(name, (listed.name for listed in self.listed))
        return self._find(name) or self._single(name, base)

    def of_one(self, name: str | None) -> Settings:
        """Return these settings with one model alone, and with its own defaults; as `named`."""
        listed = self.named(name)
        own = {
            "model": listed.location,
            "models": (),
            "prediction_type": listed.prediction_type,
            "base": listed.base,
            "vae": listed.vae,
            **self._memory_of(listed),
            "steps": listed.steps or self.steps,
            "guidance_scale": listed.guidance_scale or self.guidance_scale,
        }
        return self.model_copy(update=own)

    def only(self, names: Iterable[str]) -> tuple[ListedModel, ...]:
        """Return the listed models with these names; all of them if there are no names.

        Raises:
            UnknownModel: no listed model has one of the names.
        """
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            if self._find(name) is None:
                raise UnknownModel(name, (listed.name for listed in self.listed))
        return tuple(filter(None, map(self._find, wanted))) if wanted else self.listed

    def _find(self, name: str) -> ListedModel | None:
        folded = name.casefold()
        return next((listed for listed in self.listed if listed.name.casefold() == folded), None)

    def _single(self, source: str, base: str | None, vae: str | None = None) -> ListedModel:
        return ListedModel(
            name=short_name(source),
            source=source,
            prediction_type=self.prediction_type,
            base=base,
            vae=vae,
            **{key: getattr(self, key) for key in _OF_MEMORY},
        )

    def _memory_of(self, model: ListedModel) -> dict[str, Any]:
        """Return the settings of memory for a listed model: its own, or else those for all."""
        own = model.model_fields_set
        return {key: getattr(model if key in own else self, key) for key in _OF_MEMORY}


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read: the settings without wrong values, and a sentence for each fault.

    `token_in` is the file that holds the token; None if no file holds it.
    """

    settings: Settings
    faults: tuple[str, ...]
    token_in: Path | None = None


def load_settings(config: Path | None = None, **given: Any) -> Settings:
    """Return the settings from `config` (or ./config.toml if there is one) and the environment.

    `given` holds the options of the command line; None means that an option was not given. The
    token is removed from the environment.

    Raises:
        ConfigError: a file cannot be read, or keys or values are wrong; with a sentence for each.
    """
    reading = read_settings(config, **given)
    if reading.faults:
        raise ConfigError(*reading.faults)
    return reading.settings


def read_settings(config: Path | None = None, **given: Any) -> Reading:
    """Return the same as `load_settings`, with the faults instead of an error."""
    file = config if config is not None else DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    faults: list[str] = []
    sources = (
        ({} if file is None else _from_file(file, faults), str(file)),
        (_from_environment(faults), _ENVIRONMENT),
        ({key: value for key, value in given.items() if value is not None}, "the command line"),
    )
    merged: dict[str, Any] = {}
    token_in: Path | None = None
    for values, where in sources:
        right = _right(values, where, faults)
        if _TOKEN_KEYS & right.keys():
            # A token or token file of a later source replaces both keys of an earlier one.
            merged = {key: value for key, value in merged.items() if key not in _TOKEN_KEYS}
            token_in = file if where == str(file) and "token" in right else right.get("token_file")
        merged |= right
    settings = Settings(**merged)
    faults.extend(_contradictions(settings))
    return Reading(settings, tuple(faults), token_in)


def _right(values: Mapping[str, Any], where: str, faults: list[str]) -> dict[str, Any]:
    """Return the valid settings among `values`; add a sentence to `faults` for each other."""
    try:
        return Settings(**values).model_dump(exclude_unset=True)
    except ValidationError as error:
        found = error.errors()
    faults.extend(dict.fromkeys(_explain(fault, where) for fault in found))
    wrong = {str(fault["loc"][0]) for fault in found}
    valid = {key: value for key, value in values.items() if key not in wrong}
    of_models = [fault["loc"] for fault in found if fault["loc"][0] == "models"]
    if of_models and all(len(place) > 1 for place in of_models):
        # The other models of the list can still be checked.
        places = {place[1] for place in of_models}
        listed = enumerate(values["models"])
        valid["models"] = [model for place, model in listed if place not in places]
    return Settings(**valid).model_dump(exclude_unset=True)


def _contradictions(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each two settings that contradict each other."""
    if settings.steps is not None and settings.steps > settings.max_steps:
        yield (
            f"steps is {settings.steps} and max_steps {settings.max_steps}, so a request without "
            "steps would be refused; set steps to at most max_steps."
        )
    if settings.models:
        yield from _contradictions_of_models(settings)


def _contradictions_of_models(settings: Settings) -> Iterator[str]:
    names = [model.name for model in settings.models]
    is_chosen = "model" in settings.model_fields_set
    if is_chosen and settings.default_model.name.casefold() != settings.model.casefold():
        yield (
            f"model is {settings.model!r}, which is none of [[models]]; set it to "
            f"{' or '.join(names)}."
        )
    if settings.prediction_type is not None:
        yield "prediction_type is set beside [[models]]; set it in the model that needs it."
    if settings.base is not None:
        yield "base is set beside [[models]]; set it in the model that needs it."
    if settings.vae is not None:
        yield "vae is set beside [[models]]; set it in the model that needs it."
    for name, count in Counter(name.casefold() for name in names).items():
        if count > 1:
            yield f"{count} of [[models]] are called {name!r}; give each a name of its own."
    for model in settings.models:
        if model.steps is not None and model.steps > settings.max_steps:
            yield (
                f"the model {model.name} has steps {model.steps} and max_steps is "
                f"{settings.max_steps}; set its steps to at most max_steps."
            )


def _from_environment(faults: list[str]) -> dict[str, Any]:
    """Return what the environment sets; remove the token, since child processes get a copy."""
    # A misspelled variable would be ignored silently.
    known = {f"{_ENV_PREFIX}{key.upper()}" for key in Settings.model_fields}
    faults.extend(
        _unknown(_ENVIRONMENT, name, known)
        for name in sorted(os.environ)
        if name.upper().startswith(_ENV_PREFIX) and name.upper() not in known
    )
    source = EnvSettingsSource(Settings)
    found: dict[str, Any] = {}
    for key, field in Settings.model_fields.items():
        text, _, is_complex = source.get_field_value(field, key)
        if text is None or key == "token":
            continue
        try:
            found[key] = source.prepare_field_value(key, field, text, is_complex)
        except ValueError:
            faults.append(
                f"{_ENVIRONMENT} sets {_ENV_PREFIX}{key.upper()} to {_shown(key, text)}; it should "
                "be JSON, as config.example.toml shows."
            )
    return found | take_token(os.environ)


def _unknown(where: str, key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "config.example.toml lists all keys."
    return f"{where} has an unknown key {key!r}; {hint}"


def _from_file(file: Path, faults: list[str]) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            data = opened.read(_FILE_BYTES + 1)
        if len(data) > _FILE_BYTES:
            faults.append(f"{file} is larger than any config; name another file with --config.")
            return {}
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        faults.append(f"{file} is not UTF-8 text; save it as UTF-8.")
    except (ValueError, RecursionError) as error:
        faults.append(f"{file} is not valid TOML: {error}; correct that line.")
    except OSError as error:
        faults.append(
            f"{file} cannot be read ({error.strerror}); copy config.example.toml to it, or name "
            "another file with --config."
        )
    return {}


def _explain(fault: ErrorDetails, where: str) -> str:
    """Return one sentence about one fault."""
    if fault["loc"][-1:] == ("[key]",):
        return f"{where} sets {fault['loc'][0]} for {fault['input']!r}; use ids, which are numbers."
    key = ".".join(str(part) for part in fault["loc"]) or "?"
    listed = _LISTS.get(str(fault["loc"][0])) if fault["loc"] else None
    if listed is not None and len(fault["loc"]) > 1:
        name, place, *rest = fault["loc"]
        key = ".".join(map(str, rest)) or "an entry"
        where = f"{where}, in number {int(place) + 1} of [[{name}]],"
        if fault["type"] == "missing":
            return f"{where} has no {key}; add one."
        if fault["type"] == "extra_forbidden":
            return _unknown(where, key, listed.model_fields)
    if fault["type"] == "extra_forbidden":
        return _unknown(where, key, Settings.model_fields)
    said = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = said.partition(", unable")[0]
    if fault["type"] == "string_too_short":
        message = "some text, or be left out"
    value = _shown(key, fault["input"])
    if where == _ENVIRONMENT and key in Settings.model_fields:
        key = f"{_ENV_PREFIX}{key.upper()}"
    return f"{where} sets {key} to {value}; it should be {message}."


def _shown(key: str, value: object) -> str:
    """Return `value` for a message: without secrets, and shortened."""
    text = repr(value)
    if "token" in key.lower() or "token" in text.lower() or looks_like_token(text):
        return "a secret"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
