"""What runs: the release, which pyproject.toml names, and the commit, which the image's build names."""

import os
import tomllib
from pathlib import Path

_PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"

VERSION: str = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["version"]
COMMIT = os.environ.get("BUILD_COMMIT", "unknown")
