"""Small facts and checks of which a row in `generation.models.families` is made.

A fact gets the configs of a model. It returns fields of `Description`, or nothing where it only
checks. `described` puts facts together; a later fact overrules an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import le
from typing import Any, Final, TypeAlias

from ...catalog.configs import Configs
from ...catalog.files import INDEX
from ...catalog.profile import Description
from ...errors import ModelError
from ...values.request import SIZE_MAX, SIZE_MIN

Fact: TypeAlias = Callable[[Configs], Mapping[str, Any]]
"""Returns fields of `Description`, or raises ModelError."""
Size: TypeAlias = Callable[[Configs], int]
"""Returns a whole number from 1 up, or raises ModelError."""
Test: TypeAlias = Callable[[Configs], bool]

# With a model smaller than half the smallest picture, not even the largest size would be allowed.
_NATIVE_LEAST: Final = SIZE_MIN // 2
# Stable Diffusion 1 has 0.18215, and all others are near 1.
_SCALING: Final = (1e-4, 1e4)
_SHIFT_MOST: Final = 1e6
# For each position there is a row of angles.
_POSITIONS_MOST: Final = 16_384
_SAME: Final = object()


def described(*facts: Fact) -> Callable[[Configs], Description]:
    """Return what describes a model by all `facts`, which are read in their order."""

    def describe(configs: Configs) -> Description:
        found: dict[str, Any] = {}
        for fact in facts:
            found.update(fact(configs))
        return Description(**found)

    return describe


def given(**fields: Any) -> Fact:
    """Return the fact that every model of the family has these `fields` of `Description`."""
    return lambda _: fields


def where(test: Test, *facts: Fact) -> Fact:
    """Return `facts` for a model that passes the test, and nothing for others."""

    def fact(configs: Configs) -> Mapping[str, Any]:
        met = facts if test(configs) else ()
        return {key: value for one in met for key, value in one(configs).items()}

    return fact


def index_says(key: str) -> Test:
    """Return whether `model_index.json` has a true value for `key`."""
    return lambda configs: bool(configs.other(INDEX).values.get(key, False))


def has(part: str) -> Test:
    """Return whether the model has an optional part."""
    return lambda configs: configs.has_part(part)


def sets(part: str, key: str) -> Test:
    """Return whether the config of a network has a value for `key` that is not empty."""
    return lambda configs: configs.network(part).values.get(key) not in (None, [])


def size(part: str, key: str, fallback: int | None = None, *, times: int = 1) -> Size:
    """Return a number in the config of a network, times a factor."""
    return lambda configs: times * configs.network(part).size(key, fallback)


def only(
    part: str, keys: str | Sequence[str], value: Any, said: str, *, absent: Any = _SAME
) -> Fact:
    """Return a check that the config of a network has `value` at all of `keys`.

    An absent key counts as `absent`, or as the value. `said` names the value in a sentence.
    """
    absent = value if absent is _SAME else absent

    def check(configs: Configs) -> Mapping[str, Any]:
        config = configs.network(part)
        for key in [keys] if isinstance(keys, str) else keys:
            if config.values.get(key, absent) != value:
                raise config.wrong(key, said)
        return {}

    return check


def fits(
    part: str,
    key: str,
    sizes: Sequence[Size],
    said: str,
    *,
    absent: int | None = None,
    may_be_null: bool = False,
    is_listed: bool = False,
) -> Fact:
    """Return a check that a number in the config of a network is the sum of `sizes`.

    An absent key counts as `absent`; with `may_be_null` an absent number fits, and so does null.
    With `is_listed` there may be a list of equal numbers. `said` has a place for the sum.
    """

    def check(configs: Configs) -> Mapping[str, Any]:
        config = configs.network(part)
        if may_be_null and config.values.get(key) is None:
            return {}
        found = config.sizes(key) if is_listed else [config.size(key, absent)]
        if set(found) != {wanted := sum(one(configs) for one in sizes)}:
            raise config.wrong(key, said.format(wanted))
        return {}

    return check


def number(part: str, key: str, absent: float, least: float, most: float) -> Fact:
    """Return a check that a number in the config of a network is from `least` to `most`."""

    def check(configs: Configs) -> Mapping[str, Any]:
        configs.network(part).number(key, absent, least, most)
        return {}

    return check


def at_least(part: str, key: str, least: int, *, absent: int | None = None) -> Fact:
    """Return a check that a number in the config of a network is `least` or more."""

    def check(configs: Configs) -> Mapping[str, Any]:
        config = configs.network(part)
        if config.size(key, absent) < least:
            raise config.wrong(key, f"at least {least}")
        return {}

    return check


def channels(part: str, absent: int) -> Fact:
    """Return a check that a network takes and returns the latents, and that they have a scale.

    Where its config is silent the network takes and returns `absent` channels.
    """

    def check(configs: Configs) -> Mapping[str, Any]:
        network, vae = configs.network(part), configs.network("vae")
        count = vae.size("latent_channels", 4)
        # Latents are multiplied by it and divided.
        vae.number("scaling_factor", 0.18215, *_SCALING)
        if vae.values.get("shift_factor") is not None:
            vae.number("shift_factor", 0.0, -_SHIFT_MOST, _SHIFT_MOST)
        if (taken := network.size("in_channels", absent)) != count:
            raise ModelError(
                f"{network.path} takes {taken} channels where the latents have {count}, as a model "
                "for inpainting does; choose a text-to-image model."
            )
        if network.size("out_channels", absent) != count:
            raise network.wrong("out_channels", f"the {count} channels of the latents")
        return {}

    return check


def size_multiple(*, patch: int = 1, least: int = 1) -> Fact:
    """Return of how many pixels an edge is a multiple, if the network sees patches of latents."""
    return lambda configs: {"size_multiple": max(least, patch * pixels_per_latent(configs))}


def native_size(
    part: str, *, in_latents: bool = False, patch: int | None = None, absent: int | None = None
) -> Fact:
    """Return the edge of the model's own pictures from `sample_size` in the config of a network.

    It is a number of pixels, or with `in_latents` of latents. With a `patch` the edge has to be a
    multiple of so many latents. An absent number counts as `absent`.
    """

    def fact(configs: Configs) -> Mapping[str, Any]:
        config, pixels = configs.network(part), pixels_per_latent(configs)
        is_absent = absent is not None and "sample_size" not in config.values
        edge = absent if is_absent else min(config.sizes("sample_size"))
        edge = int(edge or 0) * (pixels if in_latents else 1)
        multiple = pixels * patch if patch else 1
        if not _NATIVE_LEAST <= edge <= SIZE_MAX or edge % multiple:
            asked = f"one for pictures of {SIZE_MIN} to {SIZE_MAX} pixels"
            also = f", a multiple of {multiple}" if patch else ""
            raise config.wrong("sample_size", asked + also)
        return {"native_size": edge}

    return fact


def pixels_per_latent(configs: Configs) -> int:
    """Return how many pixels one latent of the autoencoder stands for along an edge."""
    return int(2 ** (len(configs.network("vae").sizes("block_out_channels")) - 1))


def positions(part: str, key: str, *, tokens: int, patch: int) -> Fact:
    """Return a check that a network has positions for `tokens` of text and the largest picture.

    They are listed for the text, for rows and for columns of patches.
    """

    def check(configs: Configs) -> Mapping[str, Any]:
        config, edge = configs.network(part), patch * pixels_per_latent(configs)
        least = (tokens, SIZE_MAX // edge, SIZE_MAX // edge)
        lengths = config.sizes(key)
        enough = len(lengths) == len(least) and all(map(le, least, lengths))
        if not enough or max(lengths) > _POSITIONS_MOST:
            raise config.wrong(
                key, f"from {', '.join(map(str, least))} to {_POSITIONS_MOST:,} positions"
            )
        return {}

    return check
