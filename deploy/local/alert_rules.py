"""The alert rules as data, and the same rules with every duration divided."""

import re
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).resolve().parents[2] / "k8s" / "monitoring"
RULES_FILE = MONITORING / "alerts.yaml"
CASES_FILE = MONITORING / "alert_cases.yaml"

_SECONDS = {"s": 1, "m": 60, "h": 3600}
_RANGE = re.compile(r"(?<=\[)\d+[smh](?=\])|(?<=offset )\d+[smh]")


def load(path: Path) -> Any:
    """Read a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alert rules by name."""
    rules = [rule for group in load(RULES_FILE)["groups"] for rule in group["rules"]]
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


def seconds(duration: str) -> int:
    """Parse a duration of one unit, such as 5m."""
    return int(duration[:-1]) * _SECONDS[duration[-1]]


def shortened_expression(promql: str, divisor: int) -> str:
    """Return an expression with every range and offset divided."""
    return _RANGE.sub(lambda found: _divided(found[0], divisor), promql)


def shortened(divisor: int) -> str:
    """Return the rules file with every `for`, range and offset divided, and no other change."""
    rules = load(RULES_FILE)
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = shortened_expression(rule["expr"], divisor)
            if "for" in rule:
                rule["for"] = _divided(rule["for"], divisor)
    return yaml.safe_dump(rules, sort_keys=False)


def _divided(duration: str, divisor: int) -> str:
    return f"{max(1, seconds(duration) * 1000 // divisor)}ms"
