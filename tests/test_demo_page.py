"""The demo's page, used as a person uses it: with a keyboard and a mouse, in a real browser."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from playwright.sync_api import TimeoutError as NeverSeen

from .demo_process import DemoProcess

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
MESSAGES = "article.channel-message"
# A slow machine that runs other tests beside this one takes long for 25 steps.
PATIENCE_MS = 90_000.0

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to drive the page")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    with DemoProcess(tmp_path_factory.mktemp("demo")) as running:
        yield running
        assert running.stop(signal.SIGINT) == 0
        assert running.errors.read_text() == ""
        assert running.left_behind() == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, demo: DemoProcess) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page.goto(demo.url)
    settle(page)
    yield page
    page.close()


def settle(page: Page) -> None:
    """Wait until the page has told the server its size: until then it drops what a person does.

    That too may come just when a picture is delivered, and be dropped: a person loads it again.
    """
    updated = page.get_by_text("Viewport updated")
    for _ in range(3):
        with suppress(NeverSeen):
            updated.wait_for(timeout=PATIENCE_MS / 2)
            return
        page.reload()
    updated.wait_for()


def begin(page: Page, command: str) -> None:
    """Type a slash command, and take it from the picker."""
    page.locator("textarea:visible").click()
    page.keyboard.type(command)
    page.locator("[role=option]").first.wait_for()
    page.keyboard.press("Enter")
    page.locator(".command-chip").wait_for()


def imagine(page: Page, prompt: str) -> Locator:
    """Ask for a picture, and return its message when the picture can be seen."""
    before = page.locator(MESSAGES).count()
    begin(page, "/imagine")
    page.keyboard.type(prompt)
    expect_answer(page, before, lambda: page.keyboard.press("Enter"))
    return shown(page, before)


def expect_answer(page: Page, index: int, act: Callable[[], None]) -> None:
    """Do something until message `index` comes of it.

    The page drops what was aimed at buttons that move just then, as they do when a picture is
    delivered; a person clicks, or presses Enter, again.
    """
    for _ in range(3):
        act()
        with suppress(NeverSeen):
            page.locator(MESSAGES).nth(index).wait_for(timeout=PATIENCE_MS / 2)
            return
    raise AssertionError(f"nothing came of it: there is no message {index}")


# Looked up again each time: the page puts new elements in the place of old ones as it follows.
DRAWN = """([messages, index]) => {
    const image = document.querySelectorAll(messages)[index]?.querySelector('img:not([alt=""])');
    image?.scrollIntoView();
    return image && image.naturalWidth > 0;
}"""


def shown(page: Page, index: int) -> Locator:
    """Return message `index` once a picture is really drawn in it."""
    page.wait_for_function(DRAWN, arg=[MESSAGES, index])
    return page.locator(MESSAGES).nth(index)


def press(page: Page, message: Locator, button: str) -> Locator:
    """Press a button below a message, and return the message that comes of it."""
    before = page.locator(MESSAGES).count()
    expect_answer(page, before, message.get_by_role("button", name=button).first.click)
    return shown(page, before)


def test_a_typed_prompt_becomes_a_picture_and_the_die_varies_it(page: Page) -> None:
    message = imagine(page, "rabbit face")
    expect(message).to_contain_text("rabbit face — @alice")
    expect(message).to_contain_text("25 steps")
    expect(press(page, message, "🎲")).to_contain_text("strength 0.9")


def test_another_person_joins_a_reaction_and_presses_a_button(page: Page) -> None:
    before = page.locator(MESSAGES).count()
    message = imagine(page, "red apple")
    page.get_by_label("Viewing as").select_option(label="bob")
    reaction = message.locator(".reaction-chip")
    reaction.click()
    expect(reaction).to_contain_text("2")
    expect(shown(page, before + 1)).to_contain_text("red apple — @bob")
    expect(press(page, message, "🔁")).to_contain_text("red apple — @bob")


def test_what_is_typed_while_a_picture_is_made_is_kept(page: Page) -> None:
    before = page.locator(MESSAGES).count()
    begin(page, "/imagine")
    page.keyboard.type("green apple")
    expect_answer(page, before, lambda: page.keyboard.press("Enter"))
    begin(page, "/imagine")
    page.keyboard.type("fox")
    shown(page, before)
    expect(page.get_by_label("prompt, required")).to_have_value("fox")
    expect_answer(page, before + 1, lambda: page.keyboard.press("Enter"))
    expect(shown(page, before + 1)).to_contain_text("fox")
