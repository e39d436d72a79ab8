"""The servers of a test run: started at the first test that needs them, shared by all workers of xdist.

The process that began the run owns them: xdist's controller, or pytest itself where there are no workers.
A worker asks by making a file in a folder that both know, and waits for the file with the settings.
"""

import json
import shutil
import threading
import time
from pathlib import Path

from deploy.local import containers, machine
from deploy.local.machine import StackError
from deploy.local.stack import LocalStack, migrate
from tests.support import citus_cluster, pooler
from tests.support.citus_cluster import CitusStack

TEMPLATE = "template_analytics"
"""A migrated database that each test's own is copied from."""

_WANTED, _STARTED, _FAILED = "wanted", "started.json", "failed.txt"
_MAX_START_SECONDS = 180


class SharedStack:
    """Owns the servers and starts them when they are asked for."""

    def __init__(self) -> None:
        self.home = machine.temporary_home("analytics-tests-")
        self.used: str | None = None
        """Which servers the tests used, in words; None as long as no test needed any."""
        self._stack: LocalStack | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._start_when_wanted, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the servers and remove their folder."""
        self._ended.set()
        self._thread.join()
        if self._stack is not None:
            self._stack.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def _start_when_wanted(self) -> None:
        while not (self.home / _WANTED).exists():
            if self._ended.wait(0.05):
                return
        try:
            self._start()
        except StackError as error:
            _publish(self.home / _FAILED, str(error))
        except BaseException as error:
            _publish(self.home / _FAILED, repr(error))
            raise

    def _start(self) -> None:
        if citus_cluster.is_wanted():
            self._stack, self.used = (
                CitusStack(self.home, environ={}).start(),
                "a Citus cluster, local servers",
            )
        else:
            in_containers, self.used = containers.choose()
            self._stack = LocalStack(self.home, environ={}, in_containers=in_containers).start()
        self._stack.stop_waiting_for_the_disk()
        migrate(self._stack.create_database(TEMPLATE))
        self._stack.make_template(TEMPLATE)
        self._stack.create_logins()
        if pooler.is_wanted():
            server = self._stack.servers[pooler.NAME] = pooler.start(self._stack)
            self._stack.pooler_port = int(server.settings["PORT"])
            self.used += f", the processes through {pooler.NAME}"
        shared = {
            "settings": self._stack.settings,
            "passwords": self._stack.passwords,
            "pooler_port": self._stack.pooler_port,
        }
        _publish(self.home / _STARTED, json.dumps(shared))


def use(home: Path) -> LocalStack:
    """Return the servers of a run by its folder, once they are up. Raises StackError when they are not."""
    (home / _WANTED).touch()
    deadline = time.monotonic() + _MAX_START_SECONDS
    while not (home / _STARTED).exists():
        if (home / _FAILED).exists():
            raise StackError((home / _FAILED).read_text(encoding="utf-8"))
        if time.monotonic() > deadline:
            raise StackError(f"the servers did not start within {_MAX_START_SECONDS} s")
        time.sleep(0.05)
    shared = json.loads((home / _STARTED).read_text(encoding="utf-8"))
    stack = (CitusStack if citus_cluster.is_wanted() else LocalStack)(home, environ={})
    stack.settings, stack.passwords = shared["settings"], shared["passwords"]
    stack.pooler_port = shared["pooler_port"]
    return stack


def _publish(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all; only this user may read it."""
    draft = path.with_suffix(".draft")
    draft.touch(mode=0o600)
    draft.write_text(text, encoding="utf-8")
    draft.rename(path)
