"""The release before: its files from this repository's history, and migrations of either release."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from deploy.local.checkout import ROOT
from tests.support import citus_cluster

RELEASE_BEFORE = "2b2f4963395e27d178d72ecf32c6a07c356bf861"


class NoReleaseBefore(Exception):
    """It cannot be run here, and the message says why. is_fault: it could have been."""

    def __init__(self, why: str, *, is_fault: bool) -> None:
        super().__init__(why)
        self.is_fault = is_fault


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


def unpack(folder: Path) -> Path:
    """Put its files into a folder, and return that. Raises NoReleaseBefore.

    That is: where this clone lacks the commit, which is no fault of one without its history, and on Citus.
    """
    if citus_cluster.is_wanted():
        raise NoReleaseBefore("the release before knows no Citus", is_fault=False)
    if _git("cat-file", "-e", f"{RELEASE_BEFORE}^{{commit}}").returncode:
        is_shallow = _git("rev-parse", "--is-shallow-repository").stdout.strip() != "false"
        raise NoReleaseBefore(
            f"this clone has no commit {RELEASE_BEFORE}; clone with full history", is_fault=not is_shallow
        )
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", RELEASE_BEFORE], capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def unpack_or_skip(folder: Path) -> Path:
    """Put its files into a folder. Where it cannot run the test is skipped, loudly."""
    try:
        return unpack(folder)
    except NoReleaseBefore as missing:
        if missing.is_fault:
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
