"""The versions that `make test-oldest` installs are the lower bounds that pyproject.toml declares."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def versions(requirements: list[str]) -> dict[str, Version]:
    return {r.name: Version(bound.version) for r in map(Requirement, requirements) for bound in r.specifier}


def test_oldest_versions_are_the_declared_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    extras = project["optional-dependencies"]
    pinned = [line for line in (ROOT / "tests/oldest.txt").read_text(encoding="utf8").split("\n") if "==" in line]
    declared = versions([*project["dependencies"], *extras["plots"], *extras["parallel"]])
    assert {name: versions(pinned)[name] for name in declared} == declared
