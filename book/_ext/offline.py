"""Local Sphinx extension: no page asks for anything outside the book.

jupyter-book always loads sphinx-thebe, which puts a loader for a CDN into every page (with Sphinx 7.4 twice, so that its second ``const``
is a JavaScript error). Nothing here uses it, so its scripts are taken out.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def remove_thebe_scripts(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in str(getattr(script, "filename", script) or "").lower()
        and "thebe" not in str(getattr(script, "attributes", {}).get("body", "")).lower()
    ]


def remove_thebe_nodes(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for node in list(doctree.findall(nodes.raw)):
        if "x-thebe-config" in node.astext() or node.astext().startswith("<script>kernelName"):
            node.parent.remove(node)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", remove_thebe_scripts, priority=900)
    app.connect("doctree-resolved", remove_thebe_nodes, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
