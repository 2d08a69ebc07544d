"""The page in a real headless Chromium: sorting, links, keyboard, phone, dark, print; no console error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tfkd_cli import report

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Made  # type: ignore[import-not-found, unused-ignore]

pytestmark = pytest.mark.browser

DESKTOP, PHONE, A4 = (1280, 900), (390, 844), (794, 1123)  # CSS pixels
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser with a fresh profile; without one, skipped (failed under TFKD_REQUIRE_BROWSER=1)."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        missing = "chromium and chromedriver are not installed (apt-get install chromium chromium-driver)"
        if os.environ.get("TFKD_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


class Browser:
    """A tab, and what the tests ask of it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(
        self, page: Path, *, fragment: str = "", size: tuple[int, int] = DESKTOP, dark: bool = False
    ) -> None:
        """Load the page anew."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + fragment)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(f"return {script}", *arguments)

    def press(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def click(self, selector: str) -> None:
        """A click in the middle of the first element that fits."""
        element = self.driver.find_element("css selector", selector)
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def column(self, table: str, index: int) -> list[str]:
        """The texts of one column, as the table stands."""
        found: list[str] = self.run(
            f"[...document.querySelector('{table}').tBodies[0].rows].map(r => r.cells[{index}].innerText)"
        )
        return found

    @property
    def panel(self) -> str:
        """The text of the open panel; empty while it is closed."""
        text: str = self.run("(p => p.open ? p.innerText : '')(document.getElementById('panel'))")
        return text

    def shows(self, text: str) -> bool:
        """Whether the panel comes to hold this text ("": to be closed), which takes a moment."""
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.wait import WebDriverWait

        try:
            WebDriverWait(self.driver, 10).until(lambda _: text in self.panel if text else self.panel == "")
        except TimeoutException:
            return False
        return True

    @property
    def complaints(self) -> list[Any]:
        """Everything in the console since it was last asked."""
        found: list[Any] = self.driver.get_log("browser")
        return found


@pytest.fixture
def browser(chromium: Any) -> Iterator[Browser]:
    """A tab; that nothing was said in its console is part of every test."""
    tab = Browser(chromium)
    yield tab
    assert tab.complaints == []


def test_a_click_on_a_heading_sorts_up_then_down(browser: Browser, demo: Made) -> None:
    browser.open(demo.written.index)
    before = [float(text.split("±")[0]) for text in browser.column("#demo table", 3)]
    browser.click("#demo thead th:nth-child(4) button")
    assert [float(text.split("±")[0]) for text in browser.column("#demo table", 3)] == sorted(before)
    browser.click("#demo thead th:nth-child(4) button")
    ordered = [float(text.split("±")[0]) for text in browser.column("#demo table", 3)]
    assert ordered == sorted(before, reverse=True)
    assert browser.run("document.querySelector('#demo th:nth-child(4)').ariaSort") == "descending"


def test_empty_cells_stay_last_whichever_way_a_column_is_sorted(browser: Browser, demo: Made) -> None:
    browser.open(demo.written.index)
    for _ in range(2):
        browser.click("#demo thead th:nth-child(6) button")
        gains = browser.column("#demo table", 5)
        assert gains[-2:] == ["", ""]
        assert all(gains[:-2])


def test_sorting_and_opening_work_with_the_keyboard_alone(browser: Browser, demo: Made) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(demo.written.index)
    browser.run("document.querySelector('#demo thead button').focus()")
    browser.press(Keys.ENTER)
    methods = browser.column("#demo table", 0)
    assert methods == sorted(methods)
    browser.run("document.querySelector('#demo tbody a').focus()")
    browser.press(Keys.ENTER)
    assert browser.shows("Runs")
    browser.press(Keys.TAB)
    assert browser.run("document.getElementById('panel').contains(document.activeElement)")
    browser.press(Keys.ESCAPE)
    assert browser.shows("")
    assert browser.run("document.activeElement.closest('#demo') !== null")


def test_everything_that_can_be_used_is_reached_with_the_tab_key(browser: Browser, demo: Made) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(demo.written.index)
    browser.press(Keys.TAB)
    assert browser.run("document.activeElement.className") == "skip"
    unreachable = browser.run(
        "[...document.querySelectorAll('[onclick], .scroll')]"
        ".filter(e => e.tabIndex < 0 && e.scrollWidth > e.clientWidth).length"
    )
    assert unreachable == 0


def test_a_value_leads_in_two_clicks_to_the_recipe_seed_and_commit_of_its_runs(
    browser: Browser, demo: Made, stores: ModuleType
) -> None:
    wanted = stores.wanted(stores.campaign(demo.out, ["demo"]))
    spec = next(each for each in wanted if each.folder.startswith("digits-resnet8-kd-from-resnet14-s1-"))
    browser.open(demo.written.index)
    browser.click("#demo tbody tr:nth-child(3) td a")
    assert browser.shows("Normal KD")
    shown = browser.panel
    assert f"temperature {spec.loss.temperature:g}" in shown
    browser.click("#panel tbody tr:nth-child(2) td a")
    assert browser.shows(spec.folder)
    shown = browser.panel
    assert "5f2a9c01d3e4b5a6978877665544332211009988" in shown
    assert "NVIDIA A100" in shown
    assert f"epochs {spec.recipe.epochs}" in shown
    assert "INFO attempt 1 of digits-resnet8-kd" in shown
    assert browser.run("document.querySelectorAll('#panel path').length") == 2


def test_the_way_back_leads_back(browser: Browser, demo: Made) -> None:
    browser.open(demo.written.index)
    browser.click("#demo tbody tr:nth-child(3) td a")
    browser.click("#panel tbody td a")
    browser.driver.back()
    assert browser.shows("Normal KD")
    browser.driver.back()
    assert browser.shows("")


def test_a_link_to_a_cell_can_be_sent_to_somebody(browser: Browser, paper: Made) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    browser.open(paper.written.index, fragment="#cell=table9/0/tf-reg")
    assert browser.shows("published")
    browser.click("#close")
    assert browser.shows("")
    WebDriverWait(browser.driver, 10).until(lambda _: browser.run("location.hash") == "")


def test_all_columns_of_table_1_are_seen_at_once_on_a_desktop(
    browser: Browser, stores: ModuleType, tmp_path: Path
) -> None:
    campaign = stores.campaign(tmp_path, ["table1"])
    stores.finish_all(campaign)
    browser.open(report.write([campaign], store=campaign.store, out=tmp_path).index)
    assert browser.run("(s => s.scrollWidth - s.clientWidth)(document.querySelector('#table1 .scroll'))") <= 0


def test_a_run_of_one_epoch_is_drawn_as_a_point(browser: Browser, stores: ModuleType, tmp_path: Path) -> None:
    campaign = stores.campaign(tmp_path, ["demo"], overrides=stores.Overrides(recipe=(("epochs", 1),)))
    stores.finish_all(campaign)
    browser.open(report.write([campaign], store=campaign.store, out=tmp_path).index)
    lines = browser.run("document.querySelectorAll('#picture-chart li').length")
    assert lines == browser.run("document.querySelectorAll('#picture-chart circle').length") > 0
    forms = browser.run("[...document.querySelectorAll('#picture-files a')].map(a => a.innerText)")
    assert forms == ["png", "svg"]


@pytest.mark.parametrize("classes", [10, 30])
def test_a_run_shows_its_confusion_matrix_and_its_accuracy_per_class(
    browser: Browser, stores: ModuleType, tmp_path: Path, classes: int
) -> None:
    axes = {"dataset": "digits", "students": ["resnet8"], "methods": ["baseline"]}
    campaign = stores.grid(tmp_path, seeds=(0,), **axes)
    [spec] = stores.wanted(campaign)
    best = stores.result(spec, stores.metrics(spec))["best"]
    rows = [[0] * classes for _ in range(classes)]
    for number, row in enumerate(rows):
        row[number], row[(number + 1) % classes] = 3, 1
    best["confusion"] = [" ".join(map(str, row)) for row in rows]
    names = [f"class{number}" for number in range(classes)]
    stores.finish(campaign.store, spec, best=best, class_names=names)
    written = report.write([campaign], store=campaign.store, out=tmp_path)
    browser.open(written.index, fragment=f"#run={spec.folder}")
    assert browser.shows("75.00")
    assert "class1 (1)" in browser.panel
    drawn = "table.fixed tbody tr" if classes <= 20 else "canvas"
    assert browser.run(f"document.querySelectorAll('#panel {drawn}').length") == (
        classes if classes <= 20 else 1
    )
    assert browser.run("document.getElementById('panel').scrollWidth") <= DESKTOP[0]
    lines = (tmp_path / "report" / "confusion" / f"{spec.folder}.csv").read_text().splitlines()
    assert lines[1].endswith(",75.00")
    assert len(lines) == classes + 1


def test_an_unknown_fragment_is_no_error(browser: Browser, demo: Made) -> None:
    for fragment in ("#cell=nothing", "#run=<script>", "#=", "#%25", "#constructor"):
        browser.open(demo.written.index, fragment=fragment)
        assert browser.shows("")


def test_runs_are_found_by_words_and_sorted(browser: Browser, demo: Made) -> None:
    browser.open(demo.written.index)
    browser.click("#filter")
    browser.press("kd from-resnet14 s1-")
    names = browser.column("#run-table", 0)
    assert len(names) == 2
    assert all("kd-from-resnet14" in name and "-s1-" in name for name in names)
    browser.run(
        "(f => { f.value = ''; f.dispatchEvent(new Event('input')); })(document.getElementById('filter'))"
    )
    browser.click("#run-table th:nth-child(4) button")
    best = [float(text) for text in browser.column("#run-table", 3)]
    assert len(best) == 24
    assert best == sorted(best)


def test_more_runs_than_fit_are_shown_when_asked_for(browser: Browser, paper: Made) -> None:
    browser.open(paper.written.index)
    assert len(browser.column("#run-table", 0)) == 50
    browser.click("#more")
    assert len(browser.column("#run-table", 0)) == len(paper.data["runs"])


def test_curves_are_drawn_with_a_band_and_a_legend(browser: Browser, paper: Made) -> None:
    browser.open(paper.written.index)
    count = browser.run("document.querySelectorAll('#picture option').length")
    assert count == len(paper.data["pictures"])
    select = "document.getElementById('picture')"
    browser.run(f"(s => {{ s.selectedIndex = 1; s.dispatchEvent(new Event('change')); }})({select})")
    lines = len(paper.data["pictures"][1]["lines"])
    assert browser.run("document.querySelectorAll('#picture-chart > .chart > svg > path').length") == lines
    assert browser.run("document.querySelectorAll('#picture-chart li').length") == lines


@pytest.mark.parametrize("fragment", ["", "#cell=table9/0/tf-reg"])
@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_needs_no_sideways_scrolling(
    browser: Browser, paper: Made, fragment: str, width: int
) -> None:
    browser.open(paper.written.index, size=(width, 844), fragment=fragment)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.getElementById('panel').scrollWidth") <= width
    assert browser.run("document.querySelector('#table9 td').offsetWidth") <= width


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground_in_the_light_and_in_the_dark(
    browser: Browser, paper: Made, dark: bool
) -> None:
    browser.open(paper.written.index, dark=dark)
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (luminance(ground) < 0.1) == dark
    for selector in ("body", ".lead", ".line.paper", ".line.best a", ".badge", "nav a", "thead th", ".notes"):
        colours = browser.run(
            """(element => {
                let ground = element;
                const clear = 'rgba(0, 0, 0, 0)';
                while (getComputedStyle(ground).backgroundColor === clear) ground = ground.parentElement;
                return [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
            })(document.querySelector(arguments[0]))""",
            selector,
        )
        assert contrast(*map(luminance, colours)) >= 4.5, (selector, colours)


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2) of `rgb(…)`, `rgba(…)` or `color(srgb …)`."""
    numbers = [
        float(part)
        for part in colour[colour.index("(") + 1 : -1].replace("srgb", "").replace(",", " ").split()
        if part != "/"
    ]
    scale = 1.0 if colour.startswith("color") else 255.0
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (n / scale for n in numbers[:3])
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    """WCAG 2's contrast ratio, from 1 to 21."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_it_prints_on_a_sheet_of_paper_without_what_is_only_for_the_screen(
    browser: Browser, paper: Made
) -> None:
    browser.open(paper.written.index, size=A4)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert browser.run("document.querySelector('#table9 table').offsetWidth") <= A4[0]
        printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {})
        assert len(printed["data"]) > 10_000
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_hostile_text_does_nothing_in_a_browser(browser: Browser, stores: ModuleType, tmp_path: Path) -> None:
    hostile = "</script><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
    axes = {"dataset": "digits", "students": ["resnet8"], "methods": ["baseline"]}
    campaign = stores.grid(tmp_path, seeds=(0,), **axes)
    [spec] = stores.wanted(campaign)
    folder = stores.finish(
        campaign.store, spec, hardware=hostile, commit=hostile, versions={hostile: hostile}
    )
    (folder.path / "attempts" / "0001" / "log").write_text(hostile)
    written = report.write([campaign], store=campaign.store, out=tmp_path)
    browser.open(written.index, fragment=f"#run={spec.folder}")
    assert browser.panel.count("<img src=x") >= 3
    assert browser.driver.title == "Tf-KD: published beside measured"
    assert browser.run("document.querySelectorAll('#panel img').length") == 0
