"""Print the built book (``make book``) as one PDF, ``_build/lmm.pdf``, with headless Chromium.

The articles of the pages are put into one page, ``_build/lmm.html``, in the order of the table of contents: links between pages become
links within it, everything that opens on a click is open, and sliders stand at their first value. ``book/static/print.css`` is its style.
"""

from __future__ import annotations

import base64
import html
import re
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

import yaml
from bs4 import BeautifulSoup, Tag
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
PAGES = BUILD / "html" / "book"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
TEXT_WIDTH = 642  # of an A4 page within the margins of print.css, in CSS pixels

# Scripts of the theme that a printed page can do without; what stays typesets the maths and draws the figures with sliders.
SCRIPTS = re.compile(r"mathjax|bookkit", re.IGNORECASE)

READY = """
const done = arguments[arguments.length - 1];
const drawn = () => [...document.querySelectorAll("figure.slider-figure")].every((f) => f.vegaView)
  && [...document.images].every((i) => i.complete);
MathJax.startup.promise.then(() => document.fonts.ready).then(function wait() { drawn() ? done() : setTimeout(wait, 200); });
"""

# A display, table or figure wider than the paper is made smaller until it fits; a box of less than half a page is not cut.
FIT = """
for (const e of document.querySelectorAll("mjx-container[display=true], table, .slider-figure svg")) {
  const room = e.parentElement.clientWidth, need = Math.max(e.scrollWidth, e.getBoundingClientRect().width);
  if (room && need > room + 1) e.style.zoom = room / need;
}
for (const e of document.querySelectorAll("pre, table, details, .admonition, .checkpoint, .lmmlite-card, .lmmlite-summary, .cell, .cell_output")) {
  if (e.offsetHeight < 500) e.classList.add("keep");
}
"""


NUMBER = """
for (const link of document.querySelectorAll(".entry a")) link.nextElementSibling.textContent = arguments[0][link.hash.slice(1)];
"""


def contents() -> list[tuple[str, list[str]]]:
    """Parts of the book and the names of their pages."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
    parts = [("", [toc["root"]])]
    parts += [(part["caption"], [chapter["file"] for chapter in part["chapters"]]) for part in toc["parts"]]
    return [(caption, [Path(file).name for file in files]) for caption, files in parts]


def article(name: str, names: set[str]) -> tuple[Tag, Tag]:
    """The head of a page, and its article ready to stand beside those of the other pages."""
    page = BeautifulSoup((PAGES / f"{name}.html").read_text(encoding="utf8"), "html.parser")
    body = page.select_one("article.bd-article")
    assert page.head is not None
    assert body is not None
    for part in body.select(
        ".headerlink, .viewcode-link, details.hide.above-input, script:not([type='application/json'])"
    ):
        part.decompose()
    for box in body.select(".dropdown, .toggle"):
        box["class"] = [c for c in box["class"] if c not in {"dropdown", "toggle", "toggle-hidden"}]
    for box in body.select("details"):
        box["open"] = ""
    for element in body.select("[id]"):
        element["id"] = f"{name}.{element['id']}"
    for image in body.select("img"):
        image["src"] = str(image["src"]).replace("../", "html/", 1)
    for link in body.select("a[href]"):
        link["href"] = _address(str(link["href"]), name, names)
        if not link["href"]:
            link.unwrap()
    body["id"] = name
    return page.head, body


def _address(href: str, name: str, names: set[str]) -> str:
    """Where a link of page ``name`` points in the book printed as one; empty for a page that is not in it."""
    if re.match(r"[a-z]+:", href):
        return href
    target, _, fragment = href.partition("#")
    page = Path(target).stem if target else name
    if page not in names or target.startswith("../"):
        return ""
    return f"#{page}.{unquote(fragment)}" if fragment else f"#{page}"


def one_page() -> str:
    """The whole book as HTML."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))
    parts = contents()
    names = {name for _, files in parts for name in files}
    articles, toc, styles = [], [], []
    heads: list[Tag] = []
    for caption, files in parts:
        if caption:
            toc.append(f'<p class="part">{html.escape(caption)}</p>')
        for name in files:
            head, body = article(name, names)
            assert body.h1 is not None
            title = body.h1.get_text().strip()
            toc.append(f'<p class="entry"><a href="#{name}">{html.escape(title)}</a><span></span></p>')
            running = title.replace("\\", "\\\\").replace('"', '\\"')
            styles.append(f'@page p{name} {{ @top-right {{ content: "{running}"; }} }}')
            body["style"] = f"page: p{name}"
            articles.append(str(body))
            heads += head.select("link[rel=stylesheet], script")
    kept = dict.fromkeys(str(tag) for tag in heads if tag.name == "link" or SCRIPTS.search(str(tag)))
    css = (ROOT / "book" / "static" / "print.css").read_text(encoding="utf8")
    title, author, rights = (html.escape(config[key]) for key in ("title", "author", "copyright"))
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light" data-mode="light"><head><meta charset="utf-8"><title>{title}</title>
{"".join(kept).replace("../_static", "html/_static")}
<style>{css}
{"".join(styles)}</style></head>
<body><div class="bd-content"><div class="bd-article-container">
<header class="title-page"><p class="title">{title}</p><p>{author}</p><p class="small">© {rights}. The code that draws the figures is folded in the pages of the book and left out here.</p></header>
<nav class="list-of-pages"><h1>Contents</h1>{"".join(toc)}</nav>
{"".join(articles)}
</div></div></body></html>"""


def print_page(page: Path) -> bytes:
    """The PDF that Chromium makes of a page."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        sys.exit("Printing needs Chromium: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in [*FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=Service(chromedriver))
        try:
            browser.set_script_timeout(300)
            browser.command_executor.client_config.timeout = 600
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
            size = {"width": TEXT_WIDTH, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(page.as_uri())
            browser.execute_async_script(READY)
            browser.execute_script(FIT)
            how = {"preferCSSPageSize": True, "printBackground": True}
            draft = browser.execute_cdp_cmd("Page.printToPDF", how | {"generateTaggedPDF": False})
            browser.execute_script(NUMBER, page_numbers(base64.b64decode(draft["data"])))
            book = browser.execute_cdp_cmd("Page.printToPDF", how | {"generateDocumentOutline": True})
            return base64.b64decode(book["data"])
        finally:
            browser.quit()


def page_numbers(pdf: bytes) -> dict[str, int]:
    """The page on which each page of the book starts, from the named destinations that Chromium writes for links."""
    sheets = [int(number) for number in re.findall(rb"\n(\d+) 0 obj\n<</Type /Page\n", pdf)]
    places = re.findall(rb"/(\w+) \[(\d+) 0 R /XYZ", pdf)
    return {name.decode(): sheets.index(int(sheet)) + 1 for name, sheet in places}


def main() -> None:
    if not (PAGES / "intro.html").exists():
        sys.exit("run `make book` first")
    whole = BUILD / "lmm.html"
    whole.write_text(one_page(), encoding="utf8")
    pdf = print_page(whole)
    (BUILD / "lmm.pdf").write_bytes(pdf)
    print(f"{BUILD / 'lmm.pdf'}: {len(pdf) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
