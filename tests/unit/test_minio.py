"""What shared/s3.py uses of the inside of the S3 client is as it was when that was written.

When this fails after an upgrade: read what changed, fix ObjectStore.abort_uploads, run
tests/integration/test_export_failures.py, then write the new digest and the new upper bound in
pyproject.toml. Until then abort_uploads may return 0: nothing but the removal of unfinished uploads needs
these methods. Their parts then stay in the bucket and cost storage, unless a lifecycle rule of the bucket
aborts them.
"""

import hashlib
import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from minio import Minio

ROOT = Path(__file__).resolve().parents[2]
DIGESTS = {
    "_list_multipart_uploads": "7f366994e2c86c8c",
    "_abort_multipart_upload": "5e18ae12e4caaa51",
}


@pytest.mark.parametrize("method", DIGESTS)
def test_a_private_method_that_we_call_is_as_we_know_it(method: str) -> None:
    source = inspect.getsource(getattr(Minio, method))
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == DIGESTS[method]


def test_no_other_minio_than_the_one_we_know_may_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [wanted] = [line for line in project["dependencies"] if line.startswith("minio")]
    assert wanted.endswith(f"<={version('minio')}")
