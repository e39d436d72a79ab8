"""An error of ours, in whatever part of the ingestor, ends the process and is its last line."""

import json
import os
import subprocess
import sys

import pytest

from deploy.local.checkout import ROOT
from tests.support.fleet import free_port
from tests.support.ingestion import Ingestion

# Runs the ingestor with one function that raises.
_PROGRAM = """
import sys
from ingestor import {module}
from ingestor.__main__ import main

def broken(*_arguments, **_options):
    raise RuntimeError("no such luck")

{module}.{function} = broken
raise SystemExit(main([]))
"""


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("gathering", "Gathering.add"),  # while frames are read
        ("gathering", "Gathering._due"),  # a timer
        ("settlement", "Settlement._log_batch"),  # passed on by a writer's thread
        ("writer", "Writer._measure"),  # in a writer's thread
        ("dead_letter_publisher", "properties_of"),  # while a batch is settled
        (
            "dead_letter_publisher",
            "DeadLetterPublisher._confirm",
        ),  # while the other connection's frames are read
        ("oversized", "OversizedMover._send_piece"),
        ("queue_metrics", "QueueMetrics._answered"),
    ],
)
def test_an_unexpected_error_ends_the_process_with_the_reason_as_its_last_line(
    ingestion: Ingestion, module: str, function: str
) -> None:
    ingestion.publish([b"{bad", b" " * 2_000_000])
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(module=module, function=function)],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            **ingestion.fleet.environ,
            "METRICS_PORT": str(free_port()),
            "LOG_FORMAT": "json",
            "DATABASE_URL": ingestion.fleet.environ["INGESTOR_DATABASE_URL"],
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-3000:]
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["level"] == "critical"
    assert last["reason"] == "RuntimeError: no such luck"
