"""The faults of drills, all of them.

Named `target.what`, with Toxiproxy's words for a network (latency, timeout, reset_peer, limit_data, down) and
Jepsen's for processes (kill, pause). `can_break` names the invariants that it is meant to try.
"""

from tests.drills.broker_faults import broker_faults
from tests.drills.database_faults import database_faults
from tests.drills.failpoint_faults import failpoint_faults
from tests.drills.process_faults import process_faults
from tests.drills.server_faults import server_faults
from tests.drills.store_faults import store_faults
from tests.drills.work_faults import work_faults

FAULTS = {
    fault.name: fault
    for faults in (
        process_faults,
        failpoint_faults,
        server_faults,
        database_faults,
        broker_faults,
        store_faults,
        work_faults,
    )
    for fault in faults()
}
"""Every fault by its name."""
