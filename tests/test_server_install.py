"""What a server installs and how it runs the bot: the files that an operator copies."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bot.cli.run import CONFIG_FAULT
from bot.token import CREDENTIAL

ROOT = Path(__file__).parents[1]
TEST_TOOLS = {"hypothesis", "mypy", "playwright", "pytest", "ruff", "simcord", "import-linter"}


def pins(name: str) -> dict[str, str]:
    """Return the releases that a file of requirements names, each with the rest of its entry."""
    text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = dict(line.split("==", 1) for line in lines)
    return {canonicalize_name(key): value for key, value in found.items()}


@pytest.fixture(scope="module")
def server() -> dict[str, str]:
    return pins("requirements.txt")


def test_every_file_that_a_server_installs_is_known_by_its_hash(server: dict[str, str]) -> None:
    for name, entry in server.items():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name


def test_a_server_gets_the_releases_that_are_tested(server: dict[str, str]) -> None:
    tested = pins("constraints.txt")
    for name in server.keys() & tested.keys():
        assert server[name].split()[0] == tested[name], f"{name}: make requirements.txt again"


def test_a_server_gets_all_that_the_bot_needs_and_no_test_tools(server: dict[str, str]) -> None:
    assert needed_by("imagine-bot", set()) <= server.keys()
    assert "hatchling" in server
    assert not TEST_TOOLS & server.keys()


def needed_by(name: str, seen: set[str]) -> set[str]:
    """Return what a distribution needs here without its extras, and all that this needs."""
    try:
        wanted = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        return seen
    for requirement in wanted:
        key = canonicalize_name(requirement.name)
        is_wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if is_wanted and key not in seen:
            seen.add(key)
            needed_by(key, seen)
    return seen


@pytest.fixture(scope="module")
def unit() -> str:
    """The unit for systemd in the README."""
    found = re.search(r"```ini\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_unit_agrees_with_the_code(unit: str) -> None:
    assert f"RestartPreventExitStatus={CONFIG_FAULT}\n" in unit
    assert f"LoadCredential={CREDENTIAL}:" in unit
    assert "DISCORD_TOKEN" not in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_the_unit_is_right_and_hardened(unit: str, tmp_path: Path) -> None:
    file = tmp_path / "imagine-bot.service"
    file.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", unit))
    verified = analyze("verify", str(file))
    said = [line for line in verified.stderr.splitlines() if str(file) in line]
    # Those came with systemd 254.
    assert all("RestartSteps" in line or "RestartMaxDelaySec" in line for line in said), said
    # 10 is a service without any protection; this unit has about 2.
    hardened = analyze("security", "--offline=true", "--threshold=25", str(file))
    if "unrecognized option" not in hardened.stderr:
        assert hardened.returncode == 0, hardened.stdout


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
