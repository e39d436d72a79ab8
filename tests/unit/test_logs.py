"""Log lines: whatever a line is given, it stays one line of bounded length that harms no terminal."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import logging, os
from shared.logs import configure_logs, log_start
from shared.settings import LogSettings, load
settings = load(LogSettings, os.environ)
log = configure_logs(settings, "a process")
{code}
"""


def log_output(code: str, log_format: str, **environ: str) -> str:
    """Return what a process that logs so writes to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(code=code)],
        env=environ | {"LOG_FORMAT": log_format, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stderr.decode()


HOSTILE = r'"a\nb\r\x1b[2J\x9b\u2028\x00\ud800" + "x" * 5_000_000'


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "code",
    [
        f"log.warning('it happened', value={HOSTILE})",
        f"log.warning({HOSTILE})",
        f"log.warning('it happened', values={{'deep': [[{HOSTILE}], b'\\xff' * 5_000_000] * 5_000}})",
        f"logging.getLogger('a.library').warning('it said %s', {HOSTILE})",
    ],
)
def test_a_line_stays_one_line_of_bounded_length(code: str, log_format: str) -> None:
    written = log_output(code, log_format)
    assert written.endswith("\n")
    assert written[:-1].isprintable()
    assert len(written) < 3_000_000


def test_json_keeps_the_text_itself() -> None:
    line = json.loads(log_output("log.info('it happened', value='a\\nb\\x1b')", "json"))
    assert (line["event"], line["value"], line["process"]) == ("it happened", "a\nb\x1b", "a process")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_told_without_control_characters_and_locals(log_format: str) -> None:
    code = f"""
password = "hunter2"
try:
    raise ValueError({HOSTILE})
except ValueError:
    log.exception("it failed")
"""
    written = log_output(code, log_format)
    assert "hunter2" not in written
    assert all(line.isprintable() for line in written.split("\n"))
    assert "ValueError" in written
    assert len(written) < 100_000
    if log_format == "console":
        # No line but the first begins as a record does.
        assert all(line.startswith("    ") for line in written.rstrip("\n").split("\n")[1:])


def test_the_start_is_logged_as_it_was_written_and_a_slip_is_named() -> None:
    lines = log_output("log_start(log, settings, os.environ)", "json", LOG_LEVLE="debug").splitlines()
    start, slip = (json.loads(line) for line in lines)
    assert (start["event"], start["settings"]) == ("starting", {"LOG_LEVEL": "info", "LOG_FORMAT": "json"})
    assert (slip["level"], slip["variable"], slip["perhaps_meant"]) == ("warning", "LOG_LEVLE", "LOG_LEVEL")


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", "2> >(exit 0)"])
def test_a_log_that_nobody_can_take_stops_nothing(closed: str) -> None:
    code = "import time; time.sleep(0.2); [log.info('it happened') for _ in range(1000)]; print('done')"
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, SCRIPT.format(code=code)],
        env=os.environ | {"LOG_FORMAT": "auto"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "done\n"
