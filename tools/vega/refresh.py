"""Make book/static/vega/vega.js (Vega, Vega-Lite and Vega-Embed in one file) anew, with its licences and checksum.

Needs `pip install vl-convert-python==1.9.0.post1`, which the book does not: run it only to move to another version.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import vl_convert

VEGALITE = "6.4"
FOLDER = Path(__file__).resolve().parents[2] / "book" / "static" / "vega"
HEADER = f"""/* Vega {vl_convert.get_vega_version()}, Vega-Lite {VEGALITE}, Vega-Embed {vl_convert.get_vega_embed_version()}: BSD-3-Clause, see LICENSE.
   Made by tools/vega/refresh.py; do not edit. */
"""

# The bundle declares its names at the top level: a function keeps them away from other scripts of the page.
code = HEADER + "(() => {\n" + vl_convert.javascript_bundle(vl_version=VEGALITE) + "\n})();\n"
(FOLDER / "vega.js").write_text(code, encoding="utf8")
(FOLDER / "SHA256SUMS").write_text(f"{hashlib.sha256(code.encode()).hexdigest()}  vega.js\n", encoding="utf8")
print(f"{len(code) / 1e6:.2f} MB")
