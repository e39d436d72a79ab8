"""Drills take servers down, so they have a stack of their own."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.stack import LocalStack


@pytest.fixture
def own_stack() -> Iterator[LocalStack]:
    """Local servers with durable commits, a migrated database, and a login for each process."""
    home = Path(tempfile.mkdtemp(prefix="analytics-drill-"))
    home.chmod(0o711)
    stack = LocalStack(home, environ={})
    try:
        stack.start().prepare_database()
        yield stack
    finally:
        stack.stop()
        shutil.rmtree(home, ignore_errors=True)
