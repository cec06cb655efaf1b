"""Everything that can go wrong in generation, each with a sentence for the person.

    GenerationError
    ├── InvalidRequest       a value of the request is out of range or makes no sense
    │   ├── InvalidSource    the image to start from cannot be used
    │   └── LoraError        a LoRA cannot be found, read or used with the model
    ├── QueueFull            the queue takes no more jobs at the moment
    │   ├── MemberQueueFull  it takes no more of this person's
    │   └── GroupQueueFull   it takes no more of this server's
    ├── ModelError           the model cannot be found, read or trusted
    │   ├── ModelNotHere     it has to be downloaded or converted first
    │   └── ModelTooLarge    it does not fit into the memory of the device
    ├── EngineFailed         the engine broke while it made a picture
    │   ├── OutOfMemory      it does not fit into the memory of the device
    │   ├── NotFinite        its numbers overflowed
    │   └── SetAside         it broke the engine more than once
    ├── PictureRefused       a picture was made, and a stage after decoding refuses it
    ├── EngineLost           the engine stopped or hangs; its jobs run on the next one
    └── MetadataError        a file holds no recipe, or one that cannot be read

`str(error)` is always one sentence that says what is wrong and what to do.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Self


class GenerationError(Exception):
    """The base of this package's errors; the text can be shown to the person who asked."""


def brief(error: Exception) -> str:
    """Return the class name of an error and the first line of its text."""
    text = str(error)
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no details'}"


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of an error, at most 100 characters, without the full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return textwrap.shorten(text.split(". ")[0], 100, placeholder=" ...").rstrip(".")


def any_of(names: Sequence[str]) -> str:
    """Return names as a list for a sentence: `A, B or C`."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


class InvalidRequest(GenerationError):
    """A request with an invalid value; `field` names the value."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


class InvalidSource(InvalidRequest):
    """A source image that cannot be used."""

    def __init__(self, sentence: str) -> None:
        super().__init__("image", sentence)


class LoraError(InvalidRequest):
    """A LoRA that cannot be found, read or used with the model; the sentence names the LoRA."""

    def __init__(self, sentence: str) -> None:
        super().__init__("loras", sentence)


class QueueFull(GenerationError):
    """`limit` jobs are waiting already, which is all that the queue holds."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The queue is full ({limit} pictures are waiting); please try again in a minute."
        )
        self.limit = limit


class MemberQueueFull(QueueFull):
    """`limit` jobs of this person are waiting already."""

    def __init__(self, limit: int) -> None:
        GenerationError.__init__(
            self,
            f"{limit} of your pictures are waiting already; please try again when one is done.",
        )
        self.limit = limit


class GroupQueueFull(QueueFull):
    """`limit` jobs of this person's server, or of all direct messages, are waiting already."""

    def __init__(self, limit: int, *, direct: bool) -> None:
        sentence = (
            f"{limit} pictures that were asked for in direct messages are waiting already; please "
            "try again in a minute, or ask in a server."
            if direct
            else f"{limit} pictures of this server are waiting already; please try again in a "
            "minute."
        )
        GenerationError.__init__(self, sentence)
        self.limit = limit


class ModelError(GenerationError):
    """A model that cannot be loaded; the sentence names it and says what to do."""


class ModelTooLarge(ModelError):
    """The model does not fit into the memory of the device."""

    @classmethod
    def named(cls, name: str) -> Self:
        """Return the error for a model that does not even fit alone."""
        return cls(
            f"The model {name} does not fit into the memory of the device; use float16, or ask for "
            "a smaller model."
        )


class ModelNotHere(ModelError):
    """The model is not on this machine yet: it has to be downloaded or converted first."""


class EngineFailed(GenerationError):
    """The engine could not finish a picture."""

    @classmethod
    def at_load(cls, error: Exception) -> Self:
        """Return the failure for an unexpected error while a model was loaded."""
        return cls(f"The model could not be loaded ({brief(error)}); see the log.")


class OutOfMemory(EngineFailed):
    """A picture does not fit into the memory of the device, even alone and in tiles."""

    def __init__(self) -> None:
        super().__init__("There is not enough memory for this picture; ask for a smaller size.")


class NotFinite(EngineFailed):
    """A picture's numbers overflowed, even in float32."""

    def __init__(self) -> None:
        super().__init__(
            "The numbers of this picture overflowed; try another seed or a lower guidance scale."
        )


class SetAside(EngineFailed):
    """A job broke the engine more than once."""

    def __init__(self) -> None:
        super().__init__(
            "This picture broke the engine more than once, so it is set aside; try other settings, "
            "or ask the operator to look at the log."
        )


class PictureRefused(GenerationError):
    """A finished picture that may not be stored or shown; the sentence says why."""


class EngineLost(GenerationError):
    """The engine stopped or does not answer; its unfinished pictures are lost."""


class MetadataError(GenerationError):
    """A picture file without a readable recipe."""
