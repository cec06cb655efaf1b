"""The licence of a hub model, as its card states it."""

from __future__ import annotations

from typing import Final

from huggingface_hub import HfApi, errors

_ANSWER_SECONDS: Final = 15.0
_HTTPError: Final = errors.HTTPError  # type: ignore[attr-defined]  # has no __all__
_SHOWN: Final = 100


def licence_on_hub(name: str, token: str | None = None) -> str | None:
    """Return the licence in the card of a hub model; None if it is not stated or not to be had."""
    try:
        card = HfApi().model_info(name, timeout=_ANSWER_SECONDS, token=token).card_data
    # The download that follows says what is wrong with the hub or the name.
    except (_HTTPError, OSError, RuntimeError, ValueError):
        return None
    if card is None:
        return None
    named = card.get("license_name") or card.get("license")
    return str(named)[:_SHOWN] if named else None
