from __future__ import annotations

import importlib.util
import re
import signal
import socket
import subprocess
import urllib.request
import webbrowser
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from bot.demo import page, serve
from generation.images.png import read_png

from ...demo_process import DemoProcess, command, environment


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(folder / "tmp"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_script_is_answered_with_three_pictures_that_are_kept(tmp_path: Path) -> None:
    done = run(tmp_path, "--once")
    assert done.stderr == ""
    assert done.returncode == 0
    assert "alice: /imagine prompt: rabbit face seed: 7" in done.stdout
    assert "alice: /vary image: 1-1 prompt: cat face" in done.stdout
    assert "bob: 🔁" in done.stdout
    paths = [Path(name) for name in re.findall(r"\S+\.png", done.stdout)]
    assert len(set(paths)) == 3
    assert {path.parent for path in paths} == set((tmp_path / "tmp").glob("imagine-bot-*"))
    recipes = []
    for path in paths:
        with Image.open(path) as image:
            image.load()
        recipes.append(read_png(path.read_bytes())[1])
    assert [recipe.prompt for recipe in recipes] == ["rabbit face", "cat face", "cat face"]
    assert [recipe.strength is None for recipe in recipes] == [True, False, False]
    for number, recipe in enumerate(recipes, start=1):
        assert re.search(rf"seed {recipe.seed} .* job {number}\n", done.stdout)


def test_the_page_is_served_until_a_signal_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with DemoProcess(tmp_path) as demo:
        address, _, key = demo.url.partition("#")
        assert len(key) > 20
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.status == 200
        assert demo.stop(signal.SIGTERM) == 0
        assert demo.errors.read_text() == ""
        assert demo.output.endswith("Stopped.\n")
        assert demo.left_behind() == []


def test_a_port_that_is_taken_is_named_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run(tmp_path, "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_the_extra_the_way_to_install_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert serve(0) == 1
    assert "pip install 'imagine-bot[demo]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("platform", "variables", "opened"),
    [
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("darwin", {}, True),
        ("linux", {}, False),
        ("linux", {"DISPLAY": ":0", "BROWSER": "none"}, False),
    ],
)
def test_a_browser_is_opened_only_where_there_is_a_window_for_it(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], opened: bool
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(webbrowser, "open", seen.append)
    monkeypatch.setattr(page, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(page.os, "environ", variables)
    page.open_browser("http://127.0.0.1:1/#key")
    assert seen == (["http://127.0.0.1:1/#key"] if opened else [])


def test_a_browser_that_does_not_start_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str) -> None:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "open", refuse)
    monkeypatch.setattr(page.os, "environ", {"DISPLAY": ":0"})
    page.open_browser("http://127.0.0.1:1/#key")
