"""PNG files put together by hand, so that they can say what no library would write."""

from __future__ import annotations

import random
import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
Chunk = tuple[bytes, bytes]


def split(png: bytes) -> list[Chunk]:
    """Return the chunks of a file as (type, data)."""
    found, start = [], len(SIGNATURE)
    while start < len(png):
        (length,) = struct.unpack_from(">I", png, start)
        kind = png[start + 4 : start + 8]
        found.append((kind, png[start + 8 : start + 8 + length]))
        start += 12 + length
    return found


def join(chunks: list[Chunk]) -> bytes:
    """Return a file of the chunks, each with the checksum that belongs to it."""
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def text(keyword: str, value: str, *, compressed: bool = False) -> Chunk:
    """Return an iTXt chunk."""
    data = zlib.compress(value.encode()) if compressed else value.encode()
    return b"iTXt", keyword.encode() + bytes([0, compressed, 0, 0, 0]) + data


def picture(width: int, height: int, rows: bytes, *, depth: int = 8, colors: int = 2) -> bytes:
    """Return a file of `rows`, whose scanlines start with their filter byte.

    `colors` is 0 for grey, 2 for RGB, 3 for a palette, 4 and 6 for grey and RGB with alpha.
    """
    header = struct.pack(">IIBBBBB", width, height, depth, colors, 0, 0, 0)
    return join([(b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")])


def white(width: int, height: int) -> bytes:
    """Return a white picture of one bit a pixel: a small file however many pixels it has."""
    return picture(width, height, (b"\0" + b"\xff" * -(-width // 8)) * height, depth=1, colors=0)


# Kinds that a reader of PNG files takes apart.
KINDS = (
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tEXt"),
    *(b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"iCCP", b"cICP", b"bKGD"),
)


def mutated(png: bytes, dice: random.Random) -> bytes:
    """Return the file with a few of its chunks changed, cut, lost, added or swapped.

    The checksums are right, so that a reader comes to see the rest.
    """
    chunks = split(png)
    for _ in range(dice.randint(1, 3)):
        if chunks:
            _mutate(chunks, dice)
    return join(chunks)


def _mutate(chunks: list[Chunk], dice: random.Random) -> None:
    place = dice.randrange(len(chunks))
    kind, data = chunks[place]
    match dice.choice(("change", "change", "cut", "lose", "add", "add", "swap")):
        case "change" if data:
            at = dice.randrange(len(data))
            chunks[place] = (kind, data[:at] + dice.randbytes(1) + data[at + 1 :])
        case "cut":
            chunks[place] = (kind, data[: dice.randint(0, len(data))])
        case "lose":
            del chunks[place]
        case "swap":
            dice.shuffle(chunks)
        case _:
            added = dice.choice(
                [
                    b"",
                    b"a\0\0",
                    b"a\0\1\0\0\0zz",
                    b"a\0\0" + zlib.compress(b"x" * 9)[:-3],
                    dice.randbytes(dice.randrange(30)),
                ]
            )
            chunks.insert(place, (dice.choice(KINDS), added))
