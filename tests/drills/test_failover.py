"""A primary is lost under load, and with a synchronous standby nothing else. `make drills` has other ways."""

from pathlib import Path

from deploy.local.stack import LocalStack, migrate
from tests.drills.failover import MAX_PAUSE_SECONDS, fail_over
from tests.drills.scene import TEMPLATE


def test_a_promoted_standby_goes_on_with_every_confirmed_event(own_stack: LocalStack, tmp_path: Path) -> None:
    migrate(own_stack.create_database(TEMPLATE))
    own_stack.make_template(TEMPLATE)
    lines: list[str] = []
    came = fail_over(own_stack, tmp_path, lines.append, synchronous=True)
    assert came.findings == [], "\n".join([*lines, str(came)])
    assert came.restarted == []
    assert came.confirmed > 100
    assert came.exports > 3
    assert came.until_commit_seconds < came.promoted_seconds + MAX_PAUSE_SECONDS
    assert came.until_answer_seconds < came.promoted_seconds + MAX_PAUSE_SECONDS
