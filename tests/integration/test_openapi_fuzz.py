"""The OpenAPI document against a real gateway: what it allows is accepted, what not is refused as it says.

schemathesis makes the requests: from the examples, from each limit of each schema, at random, and in sequence
(an export is asked for, then read). tests/support/schemathesis.toml says how; tests/support/openapi_hooks.py
what JSON Schema cannot say.
"""

import os
import random
import re
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.checkout import ROOT
from rollup_worker.dimensions import keep_dimensions
from rollup_worker.rollups import Rollups
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.settings import KeptDimension
from tests.support.fleet import Fleet
from tests.support.fuzz import EXAMPLES, SEED, TIMEOUT_SECONDS
from tests.support.gateway_app import DOCUMENT
from tests.support.openapi_hooks import TAG
from tests.support.oracle import MEMBERS
from tests.support.questions import an_event
from tests.support.seed import insert_batch

pytestmark = pytest.mark.timeout(TIMEOUT_SECONDS)


def test_the_gateway_keeps_to_its_document_whatever_is_asked(
    environ: dict[str, str], owner: connection, worker: Database, tmp_path: Path
) -> None:
    keep_dimensions(worker, tuple(KeptDimension(name) for name in (*MEMBERS, TAG)))
    rng = random.Random(SEED)
    insert_batch(owner, [an_event(rng) for _ in range(300)], datetime.now(UTC))
    while Rollups(worker, RollupMetrics(CollectorRegistry())).add_waiting():
        pass
    with closing(Fleet(environ, tmp_path)) as fleet:
        gateway, _ = fleet.start_ready("gateway", "export_worker")
        said = tried(gateway.url)
        failed = re.search(r"(?:=+ FAILURES =+|=+ ERRORS =+).*", said, re.DOTALL)
        assert failed is None, failed[0][:20_000] if failed else ""
        operations = sum(method in {"get", "post"} for path in DOCUMENT["paths"].values() for method in path)
        assert f"Tested: {operations}" in said, said
        assert "a bug in the gateway" not in gateway.log.read_text()


def tried(url: str) -> str:
    """Run schemathesis; return what it printed."""
    options = ["--url", url, "--seed", str(SEED), "--max-examples", str(max(2, EXAMPLES // 2)), "--no-color"]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "--config-file", "tests/support/schemathesis.toml", "run",
         "gateway/openapi.yaml", "--checks", "all", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    return done.stdout + done.stderr
