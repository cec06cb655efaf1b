"""Limits for files from outside: their size, and the time and memory to read them."""

from typing import Final

SOURCE_BYTES_MAX: Final = 25 * 2**20
# For formats whose decoder needs all pixels at once.
SOURCE_PIXELS_MAX: Final = 40_000_000
# A JPEG is decoded at a half, a quarter or an eighth; today's largest phones have 200 million.
JPEG_PIXELS_MAX: Final = 210_000_000
# Phones write 48 million pixels as HEIC, whose decoder cannot reduce them. AVIF is alike.
HEIF_PIXELS_MAX: Final = 52_000_000
# A JPEG of more than SOURCE_PIXELS_MAX is reduced to at most so many pixels.
REDUCED_PIXELS_MAX: Final = 17_000_000

CPU_SECONDS: Final = 10
# Much more than the time of the CPU, since the machine may be busy.
WALL_SECONDS: Final = 30
# 48 million pixels of HEIC take 370 MB, 200 million of a progressive JPEG a gigabyte.
MEMORY_BYTES: Final = 1_250 * 2**20
# Profiles of printers have up to 3 MB; Exif data of a JPEG 64 KiB.
PROFILE_BYTES_MAX: Final = 4 * 2**20
EXIF_BYTES_MAX: Final = 2**20
TEXT_BYTES_MAX: Final = 2**18
