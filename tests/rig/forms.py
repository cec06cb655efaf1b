"""Filling in a form as a person does: what one leaves alone keeps what stood there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simcord._modal import _modal_controls
from simcord.enums import ComponentType

from .errors import NotThere


def filled_in(modal: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return a value for each field by custom id; `values` may name fields by their label.

    Raises:
        NotThere: the form has no such field.
    """
    labels = dict(_labels(modal))
    fields = {field["custom_id"]: field for field in _modal_controls(modal)}
    known = {**labels, **{custom_id: custom_id for custom_id in fields}}
    if unknown := values.keys() - known.keys():
        raise NotThere("field", min(unknown), known)
    kept = {
        custom_id: field["value"]
        for custom_id, field in fields.items()
        if field["type"] == ComponentType.TEXT_INPUT and field.get("value")
    }
    return {**kept, **{known[name]: value for name, value in values.items()}}


def _labels(modal: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for part in modal.get("components") or []:
        if part.get("type") == ComponentType.LABEL:
            yield part["label"], part["component"]["custom_id"]
        for child in part.get("components") or []:
            if child.get("label"):
                yield child["label"], child["custom_id"]
