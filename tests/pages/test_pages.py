"""The built pages as a reader meets them: in headless Chromium, without a network, wide and narrow, light and dark.

Run by ``make test-pages`` after ``make book``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import notebooks
import pytest
from bs4 import BeautifulSoup
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
PAGES = sorted((HTML / "book").glob("*.html"))
CHAPTERS = notebooks.chapters()
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
IN_PAGE = Path(__file__).with_name("in_page.js").read_text(encoding="utf8")
AXE = Path(__file__).with_name("axe") / "axe.min.js"  # made by tools/axe/refresh.py

per_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium, "apt-get install chromium"
    assert chromedriver, "apt-get install chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield driver
    driver.quit()


def show(browser: webdriver.Chrome, address: str, width: int = 1200, scheme: str = "light") -> None:
    """Open a page and wait until its maths and its figures are drawn."""
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")  # empty both
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(address)
    browser.execute_script(IN_PAGE)
    WebDriverWait(browser, 30).until(lambda b: b.execute_script("return bookTest.ready()"))


def text_of(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf8"), "html.parser")


def test_the_book_is_built() -> None:
    assert {"intro", *(text.stem for text in CHAPTERS)} <= {page.stem for page in PAGES}, "run `make book` first"


@per_page
def test_is_light_enough_for_a_phone(page: Path) -> None:
    images = {page.parent / str(image["src"]) for image in text_of(page).select("article img")}
    assert page.stat().st_size + sum(image.stat().st_size for image in images) <= 1_500_000


@pytest.mark.parametrize("text", CHAPTERS, ids=lambda path: path.stem)
def test_every_figure_of_the_notebook_is_on_the_page(text: Path) -> None:
    cells = nbformat.read(notebooks.notebook_path(text), as_version=4).cells
    expected = sum(notebooks.figures(cell) for cell in cells if "remove-output" not in cell.metadata.get("tags", []))
    images = text_of(HTML / "book" / f"{text.stem}.html").select(".cell_output img")
    assert len(images) == expected


def test_axe_is_the_pinned_one() -> None:
    digest, name = AXE.with_name("SHA256SUMS").read_text(encoding="utf8").split()
    assert (hashlib.sha256(AXE.read_bytes()).hexdigest(), AXE.name) == (digest, name)


@per_page
def test_images_have_alternative_text(page: Path) -> None:
    for image in text_of(page).select("article img"):
        assert len(image.get("alt", "")) >= 40, image
        assert not image["alt"].endswith((".png", ".svg")), image


@per_page
def test_opens_without_errors_or_outside_requests(page: Path, browser: webdriver.Chrome) -> None:
    show(browser, page.as_uri())
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert not [url for url in requests if not url.startswith(("file:", "data:", "blob:", "about:"))]
    assert not [e["params"] for e in events if e["method"] == "Network.loadingFailed"]


@per_page
def test_maths_and_markup_are_rendered(page: Path, browser: webdriver.Chrome) -> None:
    show(browser, page.as_uri())
    assert browser.execute_script("return bookTest.unrenderedMaths()") == []
    prose = browser.execute_script("return bookTest.prose()")
    raw = r"\$\$|\\[(\[]|\{[a-z:]+\}`|:::|\*\*(?!options|kwargs)\w"  # those are arguments of documented functions
    assert not re.findall(raw, prose)


@per_page
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_sticks_out(page: Path, width: int, browser: webdriver.Chrome) -> None:
    show(browser, page.as_uri(), width)
    assert browser.execute_script("return bookTest.tooWide()") == []
    assert browser.execute_script("return bookTest.brokenImages()") == []


@per_page
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible(page: Path, scheme: str, browser: webdriver.Chrome) -> None:
    show(browser, page.as_uri(), scheme=scheme)
    assert browser.execute_script("return document.documentElement.dataset.theme") == scheme
    assert browser.execute_script("return bookTest.lowContrast()") == []


@per_page
def test_has_no_barrier(page: Path, browser: webdriver.Chrome) -> None:
    show(browser, page.as_uri())  # light only: in the dark nothing differs but contrast, which the test above measures
    browser.execute_script(AXE.read_text(encoding="utf8"))
    assert browser.execute_async_script("bookTest.barriers(arguments[0])") == []


@per_page
def test_sliders_change_their_figure(page: Path, browser: webdriver.Chrome) -> None:
    if "slider-figure" in page.read_text(encoding="utf8"):
        show(browser, page.as_uri(), 390)
        figures = browser.execute_async_script("bookTest.moveSliders(arguments[0])")
        assert figures
        assert not [figure for figure in figures if not figure["changed"]]


@per_page
def test_checkpoints_answer(page: Path, browser: webdriver.Chrome) -> None:
    if 'class="checkpoint' in page.read_text(encoding="utf8"):
        show(browser, page.as_uri())
        assert browser.execute_script("return bookTest.wrongReplies()") == []


def test_search_finds_a_term(browser: webdriver.Chrome) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.get(f"http://127.0.0.1:{server.server_port}/search.html?q=shrinkage")
        found = "return [...document.querySelectorAll('#search-results li a')].map(a => a.textContent)"
        titles = WebDriverWait(browser, 20).until(lambda b: b.execute_script(found))
        assert any("Glossary" in title or "shrinkage" in title.lower() for title in titles)
        browser.get("about:blank")
        server.shutdown()
