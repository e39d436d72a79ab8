"""What gateway/http/worker.py uses of gunicorn's inside is as it was when that was written.

When this fails after an upgrade: read what changed in the functions named, fix gateway/http/worker.py, run
tests/acceptance/test_gateway_*.py, then write the new digest and the new upper bound in pyproject.toml.
"""

import hashlib
import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from gunicorn.http.message import Message
from gunicorn.http.parser import Parser
from gunicorn.http.unreader import Unreader
from gunicorn.http.wsgi import create
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import PollableMethodQueue, TConn, ThreadWorker

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "the worker's loop and its way of a connection": ThreadWorker,
    "a connection": TConn,
    "the way back from a thread": PollableMethodQueue,
    "the base of the worker": Worker,
    "the parser of a connection's requests": Parser,
    "what is read ahead": Unreader,
    "where the body's length comes from": Message,
    "what becomes of the headers": create,
}
DIGESTS = {
    "the worker's loop and its way of a connection": "2cde92a57d7bae10",
    "a connection": "e3a2878ba952710a",
    "the way back from a thread": "5b4a78bd3cfb9745",
    "the base of the worker": "41bcd41fbc752179",
    "the parser of a connection's requests": "3a9c06e348c7e3b5",
    "what is read ahead": "84aaa8f91fcdbbae",
    "where the body's length comes from": "1998788a8a484d40",
    "what becomes of the headers": "2c35d4a2dc629ede",
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_we_reach_into_is_as_we_know_it(part: str) -> None:
    source = inspect.getsource(PARTS[part])
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == DIGESTS[part]


def test_no_other_gunicorn_than_the_one_we_know_may_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [wanted] = [line for line in project["dependencies"] if line.startswith("gunicorn")]
    assert wanted.endswith(f"<={version('gunicorn')}")
