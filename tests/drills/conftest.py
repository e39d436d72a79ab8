"""Drills take servers down, so they have a stack of their own."""

import shutil
from collections.abc import Iterator

import pytest

from deploy.local import machine
from deploy.local.stack import LocalStack


@pytest.fixture
def own_stack() -> Iterator[LocalStack]:
    """Local servers with durable commits, a migrated database, and a login for each process."""
    home = machine.temporary_home("analytics-drill-")
    stack = LocalStack(home, environ={})
    try:
        stack.start().prepare_database()
        yield stack
    finally:
        stack.stop()
        shutil.rmtree(home, ignore_errors=True)
