"""The release before: its code from this repository's history, and migrations of either release."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from deploy.local.checkout import ROOT

RELEASE_BEFORE = "2b2f4963395e27d178d72ecf32c6a07c356bf861"


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


def unpack(folder: Path) -> None:
    """Put its code into a folder. A clone without its history cannot have it, and says so loudly."""
    if git("cat-file", "-e", f"{RELEASE_BEFORE}^{{commit}}").returncode:
        if git("rev-parse", "--is-shallow-repository").stdout.strip() == "false":
            pytest.fail(f"commit {RELEASE_BEFORE} is not in this repository's history")
        reason = (
            f"THE UPGRADE IS NOT TESTED: this clone has no commit {RELEASE_BEFORE}; clone with full history"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", RELEASE_BEFORE], capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


def migrate(database_url: str, root: Path) -> None:
    """Bring a database to the schema of the release whose code is in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "shared.migrate"],
        cwd=root,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
