"""Python runs this at its start where PYTHONPATH names this folder; see tests/support/failpoints.py.

The image of the fleet has no tests, and nothing of the fleet sets PYTHONPATH.
"""

import os
import sys
import traceback
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[3])

try:
    sys.path.insert(0, _ROOT)
    from tests.support.failpoints import install

    sys.path.remove(_ROOT)  # the process runs the code of the folder that it is started in
    install()
except BaseException:  # noqa: BLE001  it ends the process
    # Python would print an error of this file and go on without it.
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(70)
