"""A real Chromium, the one that the machine has, and what it had to complain about."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from tests.support.debian import require
from tests.support.waiting import SECONDS

Scheme = Literal["light", "dark"]

READY_SECONDS: Final = 120.0
PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

_WATCH: Final = """
window.shifts = []
window.violations = []
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry.value)
}).observe({ type: "layout-shift", buffered: true })
addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective))
"""

_CONTRASTS: Final = """() => {
  const numbers = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number)
  const ground = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const [red, green, blue, opaque = 1] = numbers(getComputedStyle(each).backgroundColor)
      if (opaque > 0) return [red, green, blue]
    }
    return [255, 255, 255]
  }
  const luminance = (colour) => {
    const [red, green, blue] = colour.slice(0, 3).map((each) => each / 255)
      .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
  }
  const found = []
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((each) => each.nodeType === Node.TEXT_NODE && each.data.trim())
    if (!own || !node.checkVisibility() || node.matches(":disabled")) continue
    const pair = [luminance(numbers(getComputedStyle(node).color)), luminance(ground(node))]
    found.push([(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), node.textContent.slice(0, 60)])
  }
  return found
}"""


@dataclass
class Tab:
    """One page in a context of its own, and what went wrong in it.

    Attributes:
        errors: what it wrote to the console as an error or a warning, and what was thrown and not caught.
    """

    page: Page
    errors: list[str] = field(default_factory=list)

    async def complaints(self) -> list[str]:
        """The errors, and the violations of its Content-Security-Policy."""
        violations: list[str] = await self.page.evaluate("window.violations")
        return self.errors + violations

    async def shift(self) -> float:
        """How far the layout moved without a person's doing, since the last time that this was asked."""
        moved: float = await self.page.evaluate("window.shifts.splice(0).reduce((sum, each) => sum + each, 0)")
        return moved

    async def overflow(self) -> int:
        """By how many pixels it is wider than what is shown of it."""
        width: int = await self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.offsetWidth"
        )
        return width

    async def faint(self, least: float) -> list[tuple[float, str]]:
        """The texts whose contrast with what is behind them (WCAG 2.2, 1.4.3) is less than that."""
        contrasts: list[tuple[float, str]] = await self.page.evaluate(_CONTRASTS)
        assert contrasts, "no text at all"
        return [(contrast, text) for contrast, text in contrasts if contrast < least]


@dataclass
class Chromium:
    """A browser that runs."""

    browser: Browser

    @asynccontextmanager
    async def tab(self, *, width: int = 1180, height: int = 900, scheme: Scheme = "light") -> AsyncIterator[Tab]:
        """An empty tab that shares nothing with any other."""
        context = await self.browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, locale="en-GB"
        )
        context.set_default_timeout(SECONDS * 1000)
        await context.add_init_script(_WATCH)
        tab = Tab(page=await context.new_page())
        tab.page.on("console", lambda message: _keep(tab, message))
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        try:
            yield tab
        finally:
            await context.close()


@asynccontextmanager
async def chromium() -> AsyncIterator[Chromium]:
    """Start the machine's browser, without a window. Without one the test is skipped, or fails where CI says so."""
    program = browser_program()
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program, args=sandbox, timeout=READY_SECONDS * 1000
        )
        try:
            yield Chromium(browser=browser)
        finally:
            await browser.close()
    await asyncio.sleep(0)  # its transport closes in the next turn of the loop


def browser_program() -> str:
    """The path of the machine's browser. Without one the test is skipped, or fails where CI says so."""
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found is None and os.environ.get("BROWSER_E2E", "") == "required":
        pytest.fail(f"no browser, and BROWSER_E2E=required: one of {', '.join(PROGRAMS)}")
    return found or require("chromium")


def _keep(tab: Tab, message: ConsoleMessage) -> None:
    if message.type in {"error", "warning"}:
        tab.errors.append(f"{message.type}: {message.text}")
