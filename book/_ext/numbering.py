"""Local Sphinx extension: what is numbered takes the number of its chapter (Figure 3.1, Theorem 6.2, equation 10.4).

The chapters' numbers stand in their titles and file names (``03_random_intercept``), because some are still to come. Sphinx would number figures,
equations, theorems and exercises through the whole book, and every new chapter would renumber the later ones.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def number_within_chapters(app: Sphinx, env: BuildEnvironment) -> list[str]:
    for page, kinds in env.toc_fignumbers.items():
        chapter = re.search(r"/(\d+)_", page)
        if chapter:
            for numbers in kinds.values():
                for place, name in enumerate(sorted(numbers, key=numbers.__getitem__), start=1):
                    numbers[name] = (int(chapter[1]), place)
    return []


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("env-get-updated", number_within_chapters, priority=900)  # after Sphinx has numbered
    return {"parallel_read_safe": True, "parallel_write_safe": True}
