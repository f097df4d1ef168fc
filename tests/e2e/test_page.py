"""The page in a real browser, from a real watchdog, beside a real opencode server.

With UPDATE_SCREENSHOTS=1 the pictures in docs/images are made anew.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from playwright.async_api import Locator, Page, Route, expect

from tests.e2e.conftest import require
from tests.support.binaries import NEWEST
from tests.support.browser import Chromium, Scheme, Tab, chromium
from tests.support.opencode import HANGING_TOOL, STALLING_TOOL, Lab, Server, Session, free_port
from tests.support.prompts import QUESTION, sleep
from tests.support.scripted_model import call, script, task, use
from tests.support.waiting import SECONDS, wait_until
from tests.support.watchdog_run import Watchdog
from watchdog.cli.page import code_at
from watchdog.settings.addresses import parse_address

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN: Final = "a-token-that-only-these-tests-know-0123456789"  # noqa: S105
MARKUP: Final = '<img src=x onerror="document.body.remove()"><b>bold</b> & done'
IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
UPDATES: Final = bool(os.environ.get("UPDATE_SCREENSHOTS"))
LIMIT_SECONDS: Final = 90 if UPDATES else 300
"""Of a call: longer than any test here takes. In the pictures the bars are to show something."""
LEAST_CONTRAST: Final = 4.5
LOOKS: Final[tuple[tuple[str, int, Scheme], ...]] = (
    ("page-light", 1180, "light"),
    ("page-dark", 1180, "dark"),
    ("page-narrow", 400, "light"),
)

expect.set_options(timeout=SECONDS * 1000)


@dataclass
class Site:
    """A laboratory with a watchdog whose page is open to the browser."""

    lab: Lab
    server: Server
    browser: Chromium
    origin: str

    @asynccontextmanager
    async def open(self, *, width: int = 1180, scheme: Scheme = "light") -> AsyncIterator[Tab]:
        """The page, live. Whatever happens in it, the browser must have nothing to complain about."""
        async with self.browser.tab(width=width, scheme=scheme) as tab:
            await enter(tab.page, self.origin)
            yield tab
            assert await tab.complaints() == []

    async def hung(self, title: str) -> Session:
        """A session whose bash call runs for ten minutes."""
        session = await self.server.create_session(title=title)
        await session.prompt(script(use(sleep())))
        await session.wait_for_bash()
        return session


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One browser, one server and one watchdog for all tests of this module."""
    require(NEWEST)
    async with AsyncExitStack() as stack:
        browser = await stack.enter_async_context(chromium())
        lab = await stack.enter_async_context(Lab.open(tmp_path_factory.mktemp("page") / "home", version=NEWEST))
        server = await lab.serve()
        port, watchdog = (
            free_port(),
            Watchdog.for_lab(
                lab, server, control_token=TOKEN, tool_timeout=LIMIT_SECONDS, tool_timeouts={HANGING_TOOL: "20s"}
            ),
        )
        await stack.enter_async_context(watchdog.run("--control", f"127.0.0.1:{port}"))
        yield Site(lab=lab, server=server, browser=browser, origin=f"http://127.0.0.1:{port}")


async def enter(page: Page, origin: str) -> None:
    code = await code_at(parse_address(origin.removeprefix("http://")), TOKEN)
    await page.goto(f"{origin}/#code={code}")
    await expect(page.locator("#connection")).to_have_text("Live")


def card(page: Page, session: Session) -> Locator:
    return page.locator(f'[data-session="{session.id}"]')


def button(place: Locator, name: str) -> Locator:
    return place.get_by_role("button", name=name, exact=True)


def entries(page: Page, session: Session) -> Locator:
    return page.locator(".entry").filter(has_text=session.id)


async def test_a_hung_tool_appears_its_bar_fills_and_the_button_ends_it(site: Site) -> None:
    async with site.open() as tab:
        page, dialog = tab.page, tab.page.get_by_role("dialog")
        assert TOKEN not in page.url
        session = await site.hung(MARKUP)
        row = card(page, session)

        await expect(row.locator("h3")).to_have_text(MARKUP)
        await expect(row.locator(".chip")).to_have_text("Within its limit")
        assert await row.locator("h3 *").count() == 0
        await bar_fills(tab, row.get_by_role("meter"))

        await button(row, "Release…").click()
        for said in ("The bash call, running for", "The turn that is open in it.", "Healthy work may end."):
            await expect(dialog).to_contain_text(said)
        await button(dialog, "Cancel").click()
        await expect(dialog).to_be_hidden()
        assert (await session.status())["type"] == "busy"

        await button(row, "Release…").click()
        await dialog.get_by_role("textbox").fill("it hangs")
        await button(dialog, "End it").click()
        await expect(dialog).to_contain_text("Ended, and proven")
        await expect(dialog.locator(".steps")).to_contain_text("Abort")
        await button(dialog, "Close").click()

        await expect(row).to_have_count(0)
        await expect(page.locator("#sessions-empty")).to_contain_text("All quiet.")
        await session.wait_closed()
        [entry] = [entries(page, session)]
        await expect(entry).to_contain_text("by a person (“it hangs”)")
        await button_of(entry).click()
        await expect(entry).to_contain_text("An abort can't be undone.")


async def bar_fills(tab: Tab, bar: Locator) -> None:
    """It grows as its clock does, without a word from the watchdog, and nothing else on the page moves meanwhile."""
    await expect(bar).to_have_attribute("aria-valuemax", str(LIMIT_SECONDS))
    asked, seen = asyncio.Event(), asyncio.Event()

    async def keep_waiting(route: Route) -> None:
        asked.set()
        await seen.wait()
        await route.continue_()

    await tab.page.route("**/api/v1/sessions", keep_waiting)
    await asked.wait()
    first = await filled_seconds(bar)
    await tab.shift()

    async def grown() -> bool:
        return await filled_seconds(bar) >= first + 2

    await wait_until(grown, "two seconds more on the bar")
    # What is painted follows what is told, and moves nothing else.
    assert await filled_seconds(bar) <= float(await bar.get_attribute("aria-valuenow") or "") + 1
    assert await tab.shift() == 0
    seen.set()
    await tab.page.unroute_all(behavior="wait")


async def filled_seconds(bar: Locator) -> float:
    """How many seconds a bar shows, as it is painted."""
    right: float = await bar.locator("span").evaluate("node => node.getBoundingClientRect().right")
    box = await bar.bounding_box()
    assert box is not None
    return LIMIT_SECONDS * (right - box["x"]) / box["width"]


def button_of(entry: Locator) -> Locator:
    return entry.get_by_role("button", name="Details of intervention")


async def test_what_a_crash_left_is_shown_before_and_after_and_is_undone(site: Site) -> None:
    session = await site.hung("Left by a crash")
    async with site.open() as tab:
        page, dialog = tab.page, tab.page.get_by_role("dialog")
        row, entry = card(page, session), entries(page, session)
        await hold(page, session)
        site.server.kill9()
        await expect(page.locator("#notices")).to_contain_text(f"Degraded. {site.server.url}")
        await site.lab.wait_for_orphan_age(2)
        site.server = await site.server.restart()
        await expect(page.locator("#notices")).not_to_contain_text("Degraded.")

        await button(row, "Release…").click()
        await expect(dialog).to_contain_text("Its hold ends, too.")
        await button(dialog, "End it").click()
        await expect(dialog).to_contain_text("Ended, and proven")
        await button(dialog, "Close").click()
        await expect(row).to_have_count(0)

        await button_of(entry).click()
        await expect(entry.locator("pre.before .changed").filter(has_text='"status": "running"')).to_have_count(1)
        await expect(entry.locator("pre.after .changed").filter(has_text='"status": "error"')).to_have_count(1)

        await button(entry, "Undo…").click()
        await expect(dialog).to_contain_text("2 rows of session")
        await button(dialog, "Undo it").click()
        await expect(dialog).to_contain_text("Undone")
        await button(dialog, "Close").click()

        await expect(entry.locator(".chip").first).to_have_text("Undone")
        await expect(row.locator(".chip")).to_have_text("On hold")
        await expect(row).to_contain_text("bash running")
        await button(row, "End the hold").click()
        await expect(row).to_have_count(0)
        await expect(entries(page, session)).to_have_count(2)
    await session.on(site.server).finish_prompt("go on")


async def test_a_release_that_takes_longer_is_waited_for(site: Site) -> None:
    session = await site.server.create_session(title="On a server that stands still at the abort")
    await session.prompt(script(use(call(STALLING_TOOL))))
    await session.wait_for_call(STALLING_TOOL)
    async with site.open() as tab:
        page, row, dialog = tab.page, card(tab.page, session), tab.page.get_by_role("dialog")
        await button(row, "Release…").click()
        try:
            async with page.expect_response(lambda answer: answer.url.endswith("/release")) as answered:
                await button(dialog, "End it").click()
            assert (await answered.value).status == 202
            await expect(dialog).to_contain_text("It is being done.")
        finally:
            os.kill(site.server.pid, signal.SIGCONT)
        await expect(dialog).to_contain_text("Ended, and proven")
    await session.wait_closed()


async def test_with_the_keyboard_alone_a_session_is_explained_and_released(site: Site) -> None:
    session = await site.hung("By keyboard")
    async with site.open() as tab:
        page, row, dialog = tab.page, card(tab.page, session), tab.page.get_by_role("dialog")
        explain, release = button(row, "Explanation"), button(row, "Release…")
        await tab_to(page, explain)
        await page.keyboard.press("Enter")
        await expect(row).to_contain_text("Witnesses")
        await expect(explain).to_have_attribute("aria-expanded", "true")

        await tab_to(page, release)
        await page.keyboard.press("Enter")
        await expect(button(dialog, "Cancel")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await expect(release).to_be_focused()
        assert (await session.status())["type"] == "busy"

        await page.keyboard.press("Enter")
        await expect(button(dialog, "Cancel")).to_be_focused()
        await tab_to(page, button(dialog, "End it"))
        await page.keyboard.press("Enter")
        await expect(dialog).to_contain_text("Ended, and proven")
        await expect(button(dialog, "Close")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(row).to_have_count(0)
        await page.wait_for_function("document.activeElement !== document.body")
    await session.wait_closed()


async def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until something has the focus, and see that it shows."""
    for _ in range(80):
        await page.keyboard.press("Tab")
        if await wanted.evaluate("node => node === document.activeElement"):
            assert await wanted.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
            return
    raise AssertionError(f"no Tab leads to {wanted}")


async def test_everything_is_paused_and_resumed(site: Site) -> None:
    async with site.open() as tab:
        page, mandate = tab.page, tab.page.locator("#mandate")
        await expect(mandate).to_have_text("Acting")
        await button(page.locator("main"), "Pause everything…").click()
        await button(page.get_by_role("dialog"), "Pause").click()
        await expect(page.get_by_role("dialog")).to_contain_text("A person paused everything.")
        await button(page.get_by_role("dialog"), "Close").click()
        await expect(mandate).to_have_text("Paused")
        await expect(page.locator("#notices")).to_contain_text("Paused. A person paused everything.")
        await button(page.locator("main"), "Resume").click()
        await expect(mandate).to_have_text("Acting")
        await expect(page.locator("#notices")).to_be_empty()


async def test_without_a_token_it_says_how_to_get_in_and_with_a_wrong_one_too(site: Site) -> None:
    async with site.browser.tab() as tab:
        await tab.page.goto(site.origin)
        await expect(tab.page.locator("#welcome")).to_contain_text("opencode-watchdog page")
        await expect(tab.page.locator("#content")).to_be_hidden()
        assert await tab.complaints() == []

        await tab.page.goto(f"{site.origin}/#code=wrong")
        await expect(tab.page.locator("#refused")).to_contain_text("The link was used already")
        await expect(tab.page.locator("#content")).to_be_hidden()
        assert all("401" in error for error in await tab.complaints())

        await enter(tab.page, site.origin)
        await expect(tab.page.locator("#welcome")).to_be_hidden()
        await tab.page.reload()
        await expect(tab.page.locator("#connection")).to_have_text("Live")


async def test_a_lost_connection_a_degraded_state_and_a_watchdog_that_only_observes_are_said(site: Site) -> None:
    session = await site.hung("Watched by two")
    control = f"127.0.0.1:{free_port()}"
    settings = Watchdog.for_lab(
        site.lab, control_token=TOKEN, servers=[site.server.url, "http://127.0.0.1:1"]
    ).config.rename(site.lab.home / "beside.toml")
    beside = Watchdog(lab=site.lab, config=settings)
    async with site.browser.tab() as tab:
        page, notices = tab.page, tab.page.locator("#notices")
        async with beside.run("--control", control):
            await enter(page, f"http://{control}")
            await expect(page.locator("#mandate")).to_have_text("Only observing")
            await expect(notices).to_contain_text("Degraded. http://127.0.0.1:1")
            await expect(card(page, session)).to_be_visible()
            assert await tab.complaints() == []

            await button(card(page, session), "Release…").click()
            await expect(page.get_by_role("dialog")).to_contain_text("This watchdog only observes")
            await button(page.get_by_role("dialog"), "End it").click()
            await expect(page.get_by_role("dialog").locator("[data-tone=bad]")).to_contain_text("acts on")
            await page.keyboard.press("Escape")

        await expect(page.locator("#connection")).to_have_text("Connection lost")
        await expect(notices).to_contain_text("its clocks stand still")
        bar = card(page, session).get_by_role("meter")
        stood, looked = await bar.get_attribute("aria-valuenow"), page.locator("#looked")
        said = await looked.inner_text()
        await expect(looked).not_to_have_text(said)
        assert await bar.get_attribute("aria-valuenow") == stood

        async with beside.run("--control", control):
            # It may have connected by itself meanwhile: then there is nothing to press.
            await button(notices, "Try now").evaluate_all("buttons => buttons.forEach((each) => each.click())")
            # What it was let in with ended with the watchdog: whoever listens there meanwhile can do nothing with it.
            await expect(page.locator("#welcome")).to_contain_text("This page needs its link")
            await enter(page, f"http://{control}")
            await expect(notices).not_to_contain_text("lost")
        known = ("net::", "409", "401")
        assert all(any(each in error for each in known) for error in await tab.complaints())
    await session.abort()


async def test_the_stream_of_events_is_read_wherever_it_is_cut(site: Site) -> None:
    stream = ': beat\r\nid: 7\r\nevent: outcome\r\ndata: {"a":\r\ndata: 1}\r\n\r\n'
    stream += "data: ä\n\nevent: empty\n\ndata:x\rid\r\r"
    read = """async (stream) => {
      const { eventParser } = await import("/page/api.js")
      const told = []
      for (let cut = 0; cut <= stream.length; cut += 1) {
        const events = []
        const parse = eventParser((event) => events.push(event))
        parse(stream.slice(0, cut))
        parse(stream.slice(cut))
        parse("\\n")
        told.push(JSON.stringify(events))
      }
      return [...new Set(told)]
    }"""
    async with site.open() as tab:
        [events] = [json.loads(each) for each in await tab.page.evaluate(read, stream)]
    assert [(each["type"], each["data"], each["id"]) for each in events] == [
        ("outcome", '{"a":\n1}', "7"),
        ("message", "ä", None),
        ("message", "x", ""),
    ]


async def test_in_both_themes_and_at_400_pixels_everything_shows_and_reads(site: Site, tmp_path: Path) -> None:
    session = await site.server.create_session(title="Migrate the checkout to the payments API")
    tests = task("Run the integration tests", use(sleep()))
    await session.prompt(script(use(tests)))
    child = await session.wait_for_child("Run the integration tests")
    asking = await site.server.create_session(title="Choose a database for the reports")
    await asking.prompt(QUESTION)
    held, ended = await site.hung("Upgrade the linters"), await site.hung("Index the documentation")
    await asking.wait_for_ask()
    await child.wait_for_bash()
    async with site.open() as tab:
        await hold(tab.page, held)
        await release(tab.page, ended, "hung since lunch")
    folder = tmp_path
    if UPDATES:
        folder = IMAGES
        await out_of_reach(site, "Rename the modules")
    for name, width, scheme in LOOKS:
        async with site.open(width=width, scheme=scheme) as tab:
            page = tab.page
            await tell_no_paths(page, site.lab.home)
            row = card(page, child)
            await expect(row.locator(".chip")).to_have_text("Within its limit")
            await expect(card(page, session).locator(".chip").first).to_have_text("Waits for a session below it")
            await expect(card(page, asking).locator(".chip")).to_have_text("Waits for a person")
            await expect(card(page, held).locator(".chip")).to_have_text("On hold")
            await expect(page.locator(".session .id").filter(has_text="/home/ann").first).to_be_visible()
            await page.screenshot(path=folder / f"{name}.png", full_page=True)
            await page.unroute_all(behavior="wait")
            await expect(page.locator(".session .id").filter(has_text="/home/ann")).to_have_count(
                0
            )  # nothing moves now

            await button(row, "Explanation").click()
            await button_of(entries(page, ended)).click()
            await expect(row).to_contain_text("Witnesses")
            await expect(entries(page, ended)).to_contain_text("Steps")
            assert await tab.overflow() == 0
            assert await tab.faint(LEAST_CONTRAST) == []
            await button(row, "Release…").click()
            assert await tab.overflow() == 0
            assert await tab.faint(LEAST_CONTRAST) == []
    for each in (asking, held, session):
        await each.abort()
        await each.wait_closed()


async def out_of_reach(site: Site, title: str) -> None:
    """A hung call in a process that can't be talked to, for the pictures; the other clocks go on meanwhile."""
    site.lab.opencode_run(script(use(call(HANGING_TOOL))))

    async def stuck() -> str | None:
        return next((each.session_id for each in site.lab.rows().open_calls if each.tool == HANGING_TOOL), None)

    session_id = await wait_until(stuck, "a call of that process")
    renamed = await site.server.client.patch(f"/session/{session_id}", json={"title": title})
    assert renamed.is_success, renamed.text
    async with site.open() as tab:
        chip = card(tab.page, site.server.session(session_id)).locator(".chip")
        await expect(chip).to_have_text("Waits for the next attempt")


async def hold(page: Page, session: Session) -> None:
    await button(card(page, session), "Hold…").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("combobox").select_option("4h")
    await button(dialog, "Hold it").click()
    await expect(dialog).to_contain_text("A person said to leave it alone until")
    await button(dialog, "Close").click()
    await expect(card(page, session).locator(".chip")).to_have_text("On hold")


async def release(page: Page, session: Session, why: str) -> None:
    await button(card(page, session), "Release…").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("textbox").fill(why)
    await button(dialog, "End it").click()
    await expect(dialog).to_contain_text("Ended, and proven")
    await button(dialog, "Close").click()


async def tell_no_paths(page: Page, home: Path) -> None:
    """The pictures are for everybody: the laboratory's folder is called as in the docs."""

    async def answer(route: Route) -> None:
        response = await route.fetch()
        body = (await response.text()).replace(str(home), "/home/ann")
        await route.fulfill(response=response, body=body)

    await page.route("**/api/v1/sessions", answer)
