"""Everything that can go wrong in generation, each with a sentence for the person.

    GenerationError
    ├── InvalidRequest       a value of the request is out of range or makes no sense
    │   └── InvalidSource    the image to start from cannot be used
    ├── QueueFull            the queue takes no more jobs at the moment
    │   ├── MemberQueueFull  it takes no more of this person's
    │   └── GroupQueueFull   it takes no more of this server's
    ├── ModelError           the model cannot be found, read or trusted
    │   └── ModelNotHere     it has to be downloaded or converted first
    ├── EngineFailed         the engine broke while it made a picture
    │   ├── OutOfMemory      it does not fit into the memory of the device
    │   ├── NotFinite        its numbers overflowed
    │   └── SetAside         it broke the engine more than once
    ├── EngineLost           the engine stopped, or hangs; its jobs are done by the next one
    └── MetadataError        a file holds no recipe, or one that cannot be read

`str(error)` is always one sentence that says what is wrong and what to do.
"""

from __future__ import annotations

from typing import Any, Self


class GenerationError(Exception):
    """The root of this package's errors; its text is fit for the person who asked."""

    def __reduce__(self) -> tuple[Any, ...]:
        # They cross from the engine's process; Exception's own way calls __init__ with the text.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    kind: type[GenerationError], args: tuple[Any, ...], fields: dict[str, Any]
) -> GenerationError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


def brief(error: Exception) -> str:
    """Return the kind of an error and the first line of its text."""
    text = str(error)
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no details'}"


class InvalidRequest(GenerationError):
    """A request that cannot be carried out; `field` names the value at fault."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


class InvalidSource(InvalidRequest):
    """An image that cannot be the start of another."""

    def __init__(self, sentence: str) -> None:
        super().__init__("image", sentence)


class QueueFull(GenerationError):
    """The queue already holds `limit` waiting jobs, which is as many as it takes."""

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


class ModelNotHere(ModelError):
    """The model is not on this machine yet: it has to be downloaded or converted first."""


class EngineFailed(GenerationError):
    """The engine could not finish a picture."""

    @classmethod
    def at_load(cls, error: Exception) -> Self:
        """Return the failure for an error that nobody foresaw while a model was loaded."""
        return cls(f"The model could not be loaded ({brief(error)}); see the log.")


class OutOfMemory(EngineFailed):
    """A picture does not fit into the memory of the device, alone and in tiles."""

    def __init__(self) -> None:
        super().__init__("There is not enough memory for this picture; ask for a smaller size.")


class NotFinite(EngineFailed):
    """A picture's numbers overflowed, in float32 too."""

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


class EngineLost(GenerationError):
    """The engine stopped or does not answer; nothing that it was making is left of it."""


class MetadataError(GenerationError):
    """A picture file without a readable recipe."""
