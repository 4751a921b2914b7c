"""Make tests/pages/axe/ anew: axe-core, which looks for accessibility faults of the built pages, with its licences and checksum.

Needs npm, which the tests do not: run it only to move to another version.
"""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "4.14.1"
FOLDER = Path(__file__).resolve().parents[2] / "tests" / "pages" / "axe"

with tempfile.TemporaryDirectory() as folder:
    subprocess.run(["npm", "pack", f"axe-core@{VERSION}"], cwd=folder, check=True)
    with tarfile.open(Path(folder) / f"axe-core-{VERSION}.tgz") as package:
        for name in ("axe.min.js", "LICENSE", "LICENSE-3RD-PARTY.txt"):
            member = package.extractfile(f"package/{name}")
            assert member is not None
            (FOLDER / name).write_bytes(member.read())
digest = hashlib.sha256((FOLDER / "axe.min.js").read_bytes()).hexdigest()
(FOLDER / "SHA256SUMS").write_text(f"{digest}  axe.min.js\n", encoding="utf8")
