"""The demo's page, used as a person uses it: with a keyboard and a mouse, in a real browser."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

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
PATIENCE_MS = 20_000.0

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
    # Until the page has told the server its size, it drops what a person does.
    page.get_by_text("Viewport updated").wait_for()
    yield page
    page.close()


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
    page.keyboard.press("Enter")
    return shown(page, before)


def shown(page: Page, index: int) -> Locator:
    """Return message `index` once a picture is really drawn in it."""
    message = page.locator(MESSAGES).nth(index)
    image = message.get_by_role("img").first
    image.wait_for()
    image.scroll_into_view_if_needed()
    page.wait_for_function("image => image.naturalWidth > 0", arg=image.element_handle())
    return message


def test_a_typed_prompt_becomes_a_picture_and_the_die_varies_it(page: Page) -> None:
    before = page.locator(MESSAGES).count()
    message = imagine(page, "rabbit face")
    expect(message).to_contain_text("rabbit face — @alice")
    expect(message).to_contain_text("25 steps")
    message.get_by_role("button", name="🎲").click()
    variation = shown(page, before + 1)
    expect(variation).to_contain_text("strength 0.6")


def test_another_person_joins_a_reaction_and_presses_a_button(page: Page) -> None:
    before = page.locator(MESSAGES).count()
    message = imagine(page, "red apple")
    page.get_by_label("Viewing as").select_option(label="bob")
    reaction = message.locator(".reaction-chip")
    reaction.click()
    expect(reaction).to_contain_text("2")
    expect(shown(page, before + 1)).to_contain_text("red apple — @bob")
    message.get_by_role("button", name="🔁").first.click()
    expect(shown(page, before + 2)).to_contain_text("red apple — @bob")


def test_what_is_typed_while_a_picture_is_made_is_kept(page: Page) -> None:
    before = page.locator(MESSAGES).count()
    begin(page, "/imagine")
    page.keyboard.type("green apple")
    page.keyboard.press("Enter")
    page.locator(MESSAGES).nth(before).wait_for()
    begin(page, "/imagine")
    page.keyboard.type("fox")
    shown(page, before)
    expect(page.get_by_label("prompt, required")).to_have_value("fox")
    page.keyboard.press("Enter")
    expect(shown(page, before + 1)).to_contain_text("fox")
