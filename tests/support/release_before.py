"""The release before: its files from this repository's history, and migrations of either release."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from deploy.local.checkout import ROOT

RELEASE_BEFORE = "2b2f4963395e27d178d72ecf32c6a07c356bf861"


class NoHistory(Exception):
    """This clone does not have the commit. is_shallow: it was cloned without its history."""

    def __init__(self, *, is_shallow: bool) -> None:
        super().__init__(f"this clone has no commit {RELEASE_BEFORE}; clone with full history")
        self.is_shallow = is_shallow


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


def unpack(folder: Path) -> Path:
    """Put its files into a folder, and return that. Raises NoHistory."""
    if _git("cat-file", "-e", f"{RELEASE_BEFORE}^{{commit}}").returncode:
        raise NoHistory(is_shallow=_git("rev-parse", "--is-shallow-repository").stdout.strip() != "false")
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", RELEASE_BEFORE], capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def unpack_or_skip(folder: Path) -> Path:
    """Put its files into a folder. In a clone without history the test is skipped, loudly."""
    try:
        return unpack(folder)
    except NoHistory as missing:
        if not missing.is_shallow:
            pytest.fail(str(missing))
        reason = f"THE UPGRADE IS NOT TESTED: {missing}"
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)


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
