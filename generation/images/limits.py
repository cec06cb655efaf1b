"""How large a file from outside may be, and what reading one may cost."""

from typing import Final

SOURCE_BYTES_MAX: Final = 25 * 2**20
# Of any format whose decoder needs all the pixels at once.
SOURCE_PIXELS_MAX: Final = 40_000_000
# A JPEG is decoded at a half, a quarter or an eighth; today's largest phones have 200 million.
JPEG_PIXELS_MAX: Final = 210_000_000
# Phones write 48 million pixels as HEIC, and its decoder knows no smaller size. AVIF is its kin.
HEIF_PIXELS_MAX: Final = 52_000_000
# What a JPEG of more than SOURCE_PIXELS_MAX is reduced to at most.
REDUCED_PIXELS_MAX: Final = 17_000_000

CPU_SECONDS: Final = 10
# The machine may be busy: much more than the time of the CPU.
WALL_SECONDS: Final = 30
# 48 million pixels of HEIC take 370 MB, 200 million of a progressive JPEG a gigabyte.
MEMORY_BYTES: Final = 1_250 * 2**20
# Profiles of printers have up to 3 MB; Exif data of a JPEG 64 KiB.
PROFILE_BYTES_MAX: Final = 4 * 2**20
EXIF_BYTES_MAX: Final = 2**20
TEXT_BYTES_MAX: Final = 2**18
