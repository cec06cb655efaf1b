"""Everything that can go wrong in generation, each with a sentence for the person.

    GenerationError
    ├── InvalidRequest       a value of the request is out of range or makes no sense
    │   └── InvalidSource    the image to start from cannot be used
    ├── QueueFull            the queue takes no more jobs at the moment
│   └── MemberQueueFull  it takes no more of this person's
    ├── ModelError           the model cannot be found, read or trusted
    ├── EngineFailed         the engine broke while it made a picture
    └── MetadataError        a file holds no recipe, or one that cannot be read

`str(error)` is always one sentence that says what is wrong and what to do.
"""

from __future__ import annotations


class GenerationError(Exception):
    """The root of this package's errors; its text is fit for the person who asked."""


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
    """The queue already holds `limit` waiting jobs."""

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


class ModelError(GenerationError):
    """A model that cannot be loaded; the sentence names it and the mend."""


class EngineFailed(GenerationError):
    """The engine could not finish a picture."""


class MetadataError(GenerationError):
    """A picture file without a readable recipe."""
