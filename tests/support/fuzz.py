"""How much the fuzz tests try and from which seed; FUZZ_EXAMPLES and FUZZ_SEED change both."""

import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))
"""Examples of each kind; each test says how many it makes of one."""

SEED = int(os.environ.get("FUZZ_SEED", "1"))


TIMEOUT_SECONDS = 60 * max(5, EXAMPLES)


def fuzzed(factor: int = 1, **changes: Any) -> settings:
    """Return the settings of a test that makes `factor` examples for each of EXAMPLES."""
    return settings(
        max_examples=EXAMPLES * factor,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        **changes,
    )
