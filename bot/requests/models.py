"""The models that people may ask for: those of the operator's list that are on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from generation.catalog.profile import ModelProfile
from generation.errors import GenerationError, ModelNotHere
from generation.values.recipe import Recipe

from ..config import Settings
from ..engines import inversion_library, lora_library
from ..errors import BotError
from ..listing import ListedModel, locate_listed
from .builder import RequestBuilder
from .limits import OperatorLimits, overruled

log = logging.getLogger(__name__)


class NoSuchModel(BotError):
    """The bot has no model of this name, or does not have it any more."""


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A model that is here: how the operator lists it, its profile, and the requests to it."""

    listed: ListedModel
    profile: ModelProfile
    builder: RequestBuilder

    @property
    def name(self) -> str:
        """Return the name that people choose."""
        return self.listed.name


class ModelOffer:
    """The listed models that are here, the default first, and why the others are not.

    `missing` holds the error of each listed model that cannot be used, by its name.
    """

    def __init__(
        self,
        models: Mapping[str, OfferedModel],
        missing: Mapping[str, GenerationError],
        *,
        default: str,
    ) -> None:
        self.default = models[default]
        self.missing = missing
        self._models = models

    @classmethod
    def locate(
        cls,
        settings: Settings,
        locate_default: Callable[[ListedModel], ModelProfile] | None = None,
    ) -> Self:
        """Return the models of the operator's list.

        The default model is downloaded if it is not here, by `locate_default` if given. The others
        are only looked for: `imagine-bot models pull` brings them.

        Raises:
            ModelError: the default model cannot be found or used.
        """
        default = settings.default_model
        found = {default.name: (locate_default or _download)(default)}
        missing: dict[str, GenerationError] = {}
        for listed in settings.listed:
            if listed.name != default.name:
                try:
                    found[listed.name] = look_at(listed)
                except GenerationError as error:
                    missing[listed.name] = error
        models = {
            listed.name: offered(settings, listed, found[listed.name])
            for listed in (default, *settings.listed)
            if listed.name in found
        }
        return cls(models, missing, default=default.name)

    def __iter__(self) -> Iterator[OfferedModel]:
        return iter(self._models.values())

    @property
    def profiles(self) -> dict[str, ModelProfile]:
        """Return the profile of each model by its name, the default first."""
        return {name: model.profile for name, model in self._models.items()}

    @property
    def can_edit(self) -> bool:
        """Return whether a model can edit pictures by instruction."""
        return any(model.profile.most_references for model in self)

    def find(self, name: str) -> OfferedModel:
        """Return the model called `name`, in capitals or not.

        Raises:
            NoSuchModel: it is not listed, or not on this machine.
        """
        folded = name.casefold()
        for model in self:
            if model.name.casefold() == folded:
                return model
        for missing, error in self.missing.items():
            if missing.casefold() == folded:
                raise NoSuchModel(
                    f"The model {missing} is not on this machine; ask the operator to run "
                    f"imagine-bot models pull."
                    if isinstance(error, ModelNotHere)
                    else f"The model {missing} cannot be used at present; ask the operator to run "
                    "imagine-bot doctor."
                )
        raise NoSuchModel(f"There is no model {name[:80]!r} here; /models lists those that are.")

    def maker_of(
        self,
        model: str | None,
        recipe: Recipe | None = None,
        sha256_of: Callable[[str], str | None] = lambda _: None,
    ) -> OfferedModel:
        """Return the model that made a picture, or that a job asked for.

        `model` is the name in the job; None, in jobs from before there was a list, stands for a
        model that may be any in the list by now. The operator may have given the name to other
        weights, or the weights another name. So the hash in the `recipe` is compared first, then
        the name in the job, then the name in the recipe. `sha256_of` returns the hash of a model,
        if it is known. A job without a name whose recipe matches no model is for the default model.

        Raises:
            NoSuchModel: the model is not here any more.
        """
        usual = self.default.name if model is None else model
        same, alike = list[OfferedModel](), list[OfferedModel]()
        if recipe is not None:
            same = [offer for offer in self if sha256_of(offer.name) == recipe.model_sha256]
            alike = [offer for offer in self if offer.profile.name == recipe.model]
        if same:
            return _named_or_first(same, usual)
        if model is not None:
            with suppress(NoSuchModel):
                return self.find(model)
        if alike:
            return _named_or_first(alike, usual)
        if model is None:
            return self.default
        raise NoSuchModel(
            f"This picture was made by the model {model}, which is not here any more; use another "
            "one with /imagine."
        )


def _named_or_first(models: Sequence[OfferedModel], name: str) -> OfferedModel:
    return next((model for model in models if model.name == name), models[0])


def offered(settings: Settings, listed: ListedModel, profile: ModelProfile) -> OfferedModel:
    """Return a located model with its builder.

    Requests name their model only if the operator lists several: then the operator may replace one.
    """
    for sentence in overruled(settings, profile, listed):
        log.warning("%s", sentence)
    limits = OperatorLimits(settings, profile, listed)
    builder = RequestBuilder(
        limits,
        profile,
        listed.name if settings.models else None,
        library=lora_library(settings),
        inversions=inversion_library(settings),
    )
    return OfferedModel(listed, profile, builder)


def look_at(listed: ListedModel) -> ModelProfile:
    """Return the profile of a listed model; nothing is downloaded or converted.

    Raises:
        ModelNotHere: it has to be downloaded or converted first.
        ModelError: it cannot be used.
    """
    return locate_listed(listed, only_look=True)


def _download(listed: ListedModel) -> ModelProfile:
    return locate_listed(listed)
