"""Drills take servers down, so they have a stack of their own."""

import shutil
from collections.abc import Iterator

import pytest

from deploy.local import machine
from deploy.local.stack import LocalStack
from tests.drills.scene import new_stack


@pytest.fixture
def own_stack() -> Iterator[LocalStack]:
    """Servers with durable commits, a migrated database, and a login for each process."""
    home = machine.temporary_home("analytics-drill-")
    stack = new_stack(home)
    try:
        stack.start().prepare_database()
        yield stack
    finally:
        stack.stop()
        shutil.rmtree(home, ignore_errors=True)
