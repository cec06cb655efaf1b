"""The messages to and from the engine's process: what is sent arrives, and nonsense is refused."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generation import errors
from generation.errors import (
    EngineFailed,
    EngineLost,
    GenerationError,
    InvalidRequest,
    InvalidSource,
    LoraError,
    MetadataError,
    ModelError,
    ModelNotHere,
    ModelTooLarge,
    NotFinite,
    OutOfMemory,
    PictureRefused,
    QueueFull,
    SetAside,
)
from generation.values.inversion import Inversion
from generation.values.lora import Lora
from generation.values.pixels import Pixels, StoredPixels
from generation.values.recipe import GeneratedImage
from generation.values.request import GenerationRequest
from generation.workers import messages
from generation.workers.messages import (
    BadMessage,
    Begin,
    Begun,
    Failure,
    FailureKind,
    Finish,
    Finished,
    FinishedImage,
    ImageState,
    Load,
    Loaded,
    Lost,
    Measure,
    ModelLoaded,
    NewJob,
    Preview,
    Previewed,
    Raised,
    Refused,
    Release,
    Reply,
    Request,
    SignOfLife,
    Start,
    Step,
    Stepped,
    decode_reply,
    decode_request,
    encode,
    printable,
)

from ..examples import a_recipe, a_request, gradient
from ..process_engines import MEASURED

STATE = ImageState(1, 3, done=False, failure=None)
FAILED = ImageState(3, 3, done=True, failure=Failure.of(OutOfMemory()))
PICTURE = FinishedImage.of(GeneratedImage(index=1, pixels=gradient(), recipe=a_recipe()))
AN_EDIT = a_request(
    references=(gradient(), gradient(96, 64)),
    loras=(Lora("ink", 0.8), Lora("b", 1, "0" * 64)),
    inversions=(Inversion("cat-toy"),),
)
REQUESTS: tuple[Request, ...] = (
    Start(spec='{"model": "starter"}'),
    Measure(),
    Load(model="Z-Image"),
    Begin(jobs=(NewJob.of(a_request(count=2), (0, 1)), NewJob.of(AN_EDIT, (2,)))),
    Step(images=(1, 2), dropped=(0,)),
    Finish(images=(1,)),
    Preview(image=1),
    Release(dropped=(1, 2)),
)
REPLIES: tuple[Reply, ...] = (
    Loaded(MEASURED),
    ModelLoaded(MEASURED, None, ("starter", None), ("SDXL",), "ab" * 32),
    ModelLoaded(None, Failure.of(ModelError("There is no model.")), (), ()),
    Begun(((STATE, STATE), Failure.of(InvalidRequest("width", "The width is 72; use 64.")))),
    Stepped((STATE, FAILED)),
    Finished((PICTURE, None), (STATE, FAILED)),
    Previewed(gradient(8, 8)),
    Previewed(None),
    Refused(Failure.of(ModelError("There is no model."))),
    Raised("ValueError: no"),
    Lost("RuntimeError: CUDA error"),
    SignOfLife("loading"),
)


def name(value: object) -> str:
    return type(value).__name__


def test_every_kind_of_message_is_in_the_lists_of_this_test() -> None:
    assert {type(message) for message in REQUESTS} == set(get_args(Request))
    assert {type(message) for message in REPLIES} == set(get_args(Reply))


@pytest.mark.parametrize("request_", REQUESTS, ids=name)
def test_a_request_arrives_as_it_was_sent(request_: Request) -> None:
    assert decode_request(bytearray(encode(request_))) == request_


@pytest.mark.parametrize("reply", REPLIES, ids=name)
def test_a_reply_arrives_as_it_was_sent(reply: Reply) -> None:
    assert decode_reply(bytearray(encode(reply))) == reply


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"count": 4, "negative_prompt": "dark", "seed": 2**32 - 1, "guidance_scale": 1},
        {"source": gradient(), "strength": 0.5, "scheduler": "lms"},
        {"references": (gradient(), gradient(96, 64))},
        {"prompt": "🐇 café", "read_prompt": "rabbit cafe", "read_negative_prompt": ""},
    ],
)
def test_a_request_for_pictures_is_the_same_on_the_other_side(changes: dict[str, Any]) -> None:
    asked = a_request(**changes)
    sent = encode(Begin(jobs=(NewJob.of(asked, (5,)),)))
    [job] = begun(sent).jobs
    assert job.images == (5,)
    assert job.request() == asked
    # Equal numbers may be written in two ways, and the recipe keeps the way of the request.
    assert repr(job.request()) == repr(asked)


def begun(data: bytes) -> Begin:
    request = decode_request(data)
    assert isinstance(request, Begin)
    return request


def test_every_field_of_a_request_for_pictures_crosses() -> None:
    fields = {field.name for field in dataclasses.fields(GenerationRequest)}
    assert {field.name for field in msgspec.structs.fields(NewJob)} == fields | {"images"}


def test_a_request_without_its_pixels_is_not_sent() -> None:
    stored = StoredPixels(64, 64)
    with pytest.raises(TypeError):
        NewJob.of(a_request(source=stored, strength=0.5), (1,))
    with pytest.raises(TypeError):
        NewJob.of(a_request(references=(gradient(), stored)), (1,))


def test_a_picture_is_the_same_on_the_other_side() -> None:
    recipe = a_recipe(
        guidance_scale=7,
        strength=0.1 + 0.2,
        scheduler_settings={"trained_betas": None, "betas": [0.1, 1e-9], "order": 4},
        read_prompt="rabbit",
        threads=2,
    )
    image = GeneratedImage(index=3, pixels=gradient(), recipe=recipe)
    reply = decode_reply(encode(Finished((FinishedImage.of(image),), (STATE,))))
    assert isinstance(reply, Finished)
    [picture] = reply.pictures
    assert picture is not None
    assert picture.image() == image
    assert picture.image().recipe.to_json() == recipe.to_json()


FAILURES: tuple[GenerationError, ...] = (
    GenerationError("Something is wrong."),
    InvalidRequest("width", "The width is 72; use 64."),
    InvalidSource("The file is no picture."),
    LoraError("There is no such LoRA."),
    ModelError("There is no model."),
    ModelNotHere("The model is not here yet."),
    ModelTooLarge("The model does not fit."),
    EngineFailed("It broke."),
    OutOfMemory(),
    NotFinite(),
    SetAside(),
    PictureRefused("The picture may not be shown."),
    EngineLost("It is gone."),
    MetadataError("There is no recipe."),
)


def test_every_error_crosses_but_those_of_the_queue() -> None:
    known = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, GenerationError) and not issubclass(kind, QueueFull)
    }
    assert {type(error) for error in FAILURES} == known
    assert {kind.__name__ for kind in known} == set(get_args(FailureKind))
    assert set(messages._FAILURES) == set(get_args(FailureKind))


@pytest.mark.parametrize("error", FAILURES, ids=name)
def test_an_error_keeps_its_kind_its_sentence_and_its_fields(error: GenerationError) -> None:
    reply = decode_reply(encode(Refused(Failure.of(error))))
    assert isinstance(reply, Refused)
    back = reply.failure.error()
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_an_error_of_another_kind_arrives_as_its_nearest_base() -> None:
    class OutOfPaint(EngineFailed):
        pass

    back = Failure.of(OutOfPaint("There is no paint left.")).error()
    assert type(back) is EngineFailed
    assert str(back) == "There is no paint left."


def test_a_file_name_that_is_no_text_does_not_stop_an_error() -> None:
    error = ModelError("There is no file \udcff.bin; check the folder.")
    reply = decode_reply(encode(Refused(Failure.of(error))))
    assert isinstance(reply, Refused)
    assert str(reply.failure.error()) == r"There is no file \udcff.bin; check the folder."
    assert printable("plain 🐇") == "plain 🐇"


def packed(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


NONSENSE = {
    "nothing": b"",
    "no message": b"\xc1",
    "half a message": encode(Stepped((STATE,)))[:-1],
    "more than a message": encode(Stepped((STATE,))) + b"\x00",
    "an unknown kind": packed(type="Explode"),
    "a request": encode(Step(images=(1,))),
    "a missing field": packed(type="Stepped"),
    "an unknown field": packed(type="Raised", error="no", code="import os"),
    "a list where an object belongs": packed(type="Stepped", images=[[1, 3]]),
    "an unknown sign": packed(type="SignOfLife", sign="asleep"),
    "an unknown error": packed(type="Refused", failure={"kind": "SystemExit", "sentence": "no"}),
    "a text that is no text": b"\x82\xa4type\xa6Raised\xa5error\xa1\xff",
    "lists in lists without an end": b"\x82\xa1a" + b"\x91" * 100_000,
    "a length that is a lie": b"\x82\xa4type\xa7Stepped\xa6images\xdd\xff\xff\xff\xff",
    "pixels that do not fit their size": packed(
        type="Previewed", pixels={"width": 8, "height": 8, "rgb": b"\x00"}
    ),
}


@pytest.mark.parametrize("data", NONSENSE.values(), ids=NONSENSE)
def test_what_is_no_reply_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        decode_reply(data)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_reply_is_refused_or_is_another_reply(data: st.DataObject) -> None:
    sent = bytearray(encode(data.draw(st.sampled_from(REPLIES))))
    for _ in range(data.draw(st.integers(1, 4))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    try:
        reply = decode_reply(sent)
    except BadMessage:
        return
    assert isinstance(reply, get_args(Reply))


def test_what_is_no_request_is_refused() -> None:
    for reply in REPLIES:
        with pytest.raises(BadMessage):
            decode_request(encode(reply))


def test_messages_cannot_be_changed() -> None:
    for message in (*REQUESTS, *REPLIES, STATE, PICTURE):
        field = msgspec.structs.fields(message)[0].name
        with pytest.raises(AttributeError):
            setattr(message, field, None)


def test_pixels_are_bytes_on_the_other_side() -> None:
    reply = decode_reply(bytearray(encode(Previewed(Pixels(1, 1, b"abc")))))
    assert isinstance(reply, Previewed)
    assert reply.pixels is not None
    assert type(reply.pixels.rgb) is bytes
