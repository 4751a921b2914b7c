"""Local Sphinx extension: what a screen reader needs to know of a page, where pandas, myst-nb and docutils leave it out.

- Every header of a table says whether it heads a column or a row; an empty corner is no header.
- The button that shows a hidden cell is called what is written on it.
- A bibliography is not announced as a list, because its entries are not announced as items of one.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx


def mark_up(body: str) -> str:
    """The HTML of a page with scopes on its table headers and without misleading labels."""
    body = re.sub(r"<table.*?</table>", lambda table: _with_scopes(table[0]), body, flags=re.DOTALL)
    body = body.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    return body.replace('<div role="list" class="citation-list">', '<div class="citation-list">')


def _with_scopes(table: str) -> str:
    table = re.sub(r"<th[^>]*>(\s|</?p>)*</th>", "<td></td>", table)
    head, end, rows = table.rpartition("</thead>")
    return _scoped(head, "col") + end + _scoped(rows, "row")


def _scoped(rows: str, scope: str) -> str:
    return re.sub(r"<th(?=[\s>])(?![^>]*\sscope=)", f'<th scope="{scope}"', rows)


def add_to_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "body" in context:
        context["body"] = mark_up(context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", add_to_page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
