"""The pipe to another process: no message blocks for ever, and a slow one is not given up."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from generation.workers.pipe import Pipe

LARGE = bytes(8 * 2**20)


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, socket.socket]]:
    """One end as a pipe, and the bare other end."""
    one, other = socket.socketpair()
    pipe = Pipe(one)
    yield pipe, other
    pipe.close()
    other.close()


def test_messages_arrive_as_they_were_sent_and_in_order() -> None:
    one, other = Pipe.pair()
    messages = [b"", b"call", LARGE, b"\x00" * 9]
    sending = threading.Thread(target=lambda: [one.send(message) for message in messages])
    sending.start()
    assert [other.receive(5.0) for _ in messages] == messages
    sending.join()
    one.close()
    with pytest.raises(EOFError):
        other.receive()
    other.close()


@pytest.mark.parametrize("read", [0, 1000])
def test_sending_to_an_end_that_stops_reading_times_out(
    ends: tuple[Pipe, socket.socket], read: int
) -> None:
    pipe, other = ends
    if read:
        threading.Timer(0.1, other.recv, [read]).start()
    with pytest.raises(TimeoutError):
        pipe.send(LARGE, 0.3)


@pytest.mark.parametrize("sent", [b"", struct.pack("!Q", 100)[:3], struct.pack("!Q", 100) + b"x"])
def test_a_message_that_does_not_come_whole_times_out(
    ends: tuple[Pipe, socket.socket], sent: bytes
) -> None:
    pipe, other = ends
    other.sendall(sent)
    with pytest.raises(TimeoutError):
        pipe.receive(0.2)


def test_a_pipe_that_closes_in_the_middle_of_a_message_is_noticed(
    ends: tuple[Pipe, socket.socket],
) -> None:
    pipe, other = ends
    other.sendall(struct.pack("!Q", 100) + b"x")
    other.close()
    with pytest.raises(EOFError):
        pipe.receive()


def test_a_message_that_arrives_slowly_is_received_whole() -> None:
    fast, slow = Pipe.pair()
    threading.Thread(target=lambda: fast.send(LARGE)).start()
    reading, start = slow._socket, time.monotonic()
    # Nothing of it may wait for longer than the timeout; the whole may.
    echoing, echoed = Pipe.pair()

    def trickle() -> None:
        left = 8 + len(LARGE)
        while left > 0:
            piece = reading.recv(2**21)
            left -= len(piece)
            echoed._socket.sendall(piece)
            time.sleep(0.02)

    threading.Thread(target=trickle).start()
    received = echoing.receive(0.3)
    assert time.monotonic() - start > 0.6
    assert received[-1000:] == LARGE[-1000:]
    for pipe in (fast, slow, echoing, echoed):
        pipe.close()
