"""Local Sphinx extension: the fields of a named tuple are described in the docstring of its class, not one by one.

Python itself documents each of them as "Alias for field number 0", which says nothing; the signature has their names and types.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def skip_aliases(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """True leaves the member out; None leaves the decision to autodoc."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-skip-member", skip_aliases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
