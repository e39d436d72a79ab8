"""The alert rules: what Prometheus accepts, what fires each and what does not, where each leads."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.alert_rules import CASES_FILE, RULES_FILE, alerts, load, seconds, shortened

RUNBOOK = "https://docs.ai-aas.local/analytics/runbook.md"
RUNBOOK_FILE = RULES_FILE.parents[2] / "docs" / "runbook.md"
END = "90m"  # by then every series of the cases has ended

ALERTS = alerts()
CASES: dict[str, dict[str, Any]] = load(CASES_FILE)

# The runbook the service was asked for with: what is compared with what, for how long, how severe.
ASKED_FOR = {
    "AnalyticsServiceHighErrorRate": ("analytics_usage_error_rate) > 0.05", "5m", "critical"),
    "AnalyticsServiceHighLatencyP95": ("analytics_usage_latency_p95_ms) > 2000", "10m", "warning"),
    "AnalyticsServiceHighLatencyP99": ("analytics_usage_latency_p99_ms) > 5000", "5m", "critical"),
    "AnalyticsServiceHighFreshnessLag": ("analytics_freshness_lag_seconds) > 600", None, "critical"),
    "AnalyticsServiceErrorRateSpike": (">= 3 * clamp_min(", None, "critical"),
    "AnalyticsServiceLatencySpike": (">= 2 * clamp_min(", None, "warning"),
}


def promtool(*arguments: str) -> None:
    """Run promtool. Raises AssertionError with its output when it finds a fault."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def firing(alert: str, minute: str, expected: list[str]) -> dict[str, Any]:
    """Expect exactly these label sets to fire at that minute."""
    selector = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    samples = [{"labels": labels, "value": 1} for labels in expected]
    return {"expr": selector, "eval_time": minute, "exp_samples": samples}


def never_firing(alert: str, since: str) -> dict[str, Any]:
    """Expect that it did not fire at any minute from then to the end."""
    minutes = (seconds(END) - seconds(since)) // 60
    query = f'count_over_time(ALERTS{{alertname="{alert}",alertstate="firing"}}[{minutes}m])'
    return {"expr": query, "eval_time": END, "exp_samples": []}


def expectations(alert: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    """Write what a case expects as promtool reads it."""
    if "fires" not in case:
        return [never_firing(alert, case.get("quiet_from", "0m"))]
    minute = seconds(case["fires"]) // 60
    labels = {**case["labels"], **ALERTS[alert]["labels"], "alertname": alert, "alertstate": "firing"}
    shown = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    return [
        firing(alert, f"{minute - 1}m", []),
        firing(alert, f"{minute}m", [f"ALERTS{{{shown}}}"]),
    ]


def promtool_test(alert: str, name: str, case: dict[str, Any], *, vanishes: bool) -> dict[str, Any]:
    """Write a case as promtool reads it; vanishes: the series end after their last sample."""
    ended = " stale" if vanishes else ""
    checks = expectations(alert, case)
    if vanishes and "fires" in case:
        checks.append(firing(alert, END, []))
    return {
        "name": f"{alert}: {name}{', then the target vanishes' if vanishes else ''}",
        "interval": "1m",
        "input_series": [
            {"series": series, "values": f"{values}{ended}"} for series, values in case["series"].items()
        ],
        "promql_expr_test": checks,
    }


def test_prometheus_accepts_the_rules() -> None:
    promtool("check", "rules", str(RULES_FILE))


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_when_it_should_and_not_when_it_should_not(tmp_path: Path, alert: str) -> None:
    # A vanished process is what ProcessAbsent is for; its cases have it themselves.
    vanishes = alert != "AnalyticsServiceProcessAbsent"
    tests = [promtool_test(alert, name, case, vanishes=vanishes) for name, case in CASES[alert].items()]
    # One alert at a time, with what its group records: promtool evaluates every rule of its file at every
    # minute of every case.
    [group] = [
        each for each in load(RULES_FILE)["groups"] if alert in {rule.get("alert") for rule in each["rules"]}
    ]
    group["rules"] = [rule for rule in group["rules"] if rule.get("alert") in {alert, None}]
    rules, cases = tmp_path / "rules.yaml", tmp_path / "cases.yaml"
    rules.write_text(yaml.safe_dump({"groups": [group]}))
    cases.write_text(
        yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests})
    )
    promtool("test", "rules", str(cases))


def test_a_wrong_expectation_is_noticed(tmp_path: Path) -> None:
    """The way the cases are written can fail: the case that fires is not one that never does."""
    name, case = next(iter(CASES["AnalyticsServiceHighErrorRate"].items()))
    wrong = promtool_test("AnalyticsServiceHighErrorRate", name, {"series": case["series"]}, vanishes=False)
    written = tmp_path / "cases.yaml"
    written.write_text(yaml.safe_dump({"rule_files": [str(RULES_FILE)], "tests": [wrong]}))
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", str(written))


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_cases_that_fire_and_cases_that_do_not(alert: str) -> None:
    cases = CASES[alert]
    assert [name for name, case in cases.items() if "fires" in case]
    assert {"just below", "restart"} <= {name for name, case in cases.items() if "fires" not in case}
    for case in cases.values():
        assert case["series"]


def test_there_are_no_cases_of_alerts_that_are_gone() -> None:
    assert set(CASES) == set(ALERTS)


@pytest.mark.parametrize("alert", ASKED_FOR)
def test_the_runbooks_alerts_have_its_thresholds_durations_and_severities(alert: str) -> None:
    comparison, lasting, severity = ASKED_FOR[alert]
    rule = ALERTS[alert]
    assert comparison in rule["expr"]
    assert rule.get("for") == lasting
    assert rule["labels"] == {"severity": severity}


@pytest.mark.parametrize("alert", ["AnalyticsServiceErrorRateSpike", "AnalyticsServiceLatencySpike"])
def test_a_spike_looks_back_15_minutes(alert: str) -> None:
    assert "offset 15m" in ALERTS[alert]["expr"]


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_it_is_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOK}#{alert.lower()}"
    headings = re.findall(r"^#+ (.+)$", RUNBOOK_FILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings.count(alert) == 1, f"docs/runbook.md needs one section {alert}"


def test_every_link_within_the_runbook_leads_to_a_section() -> None:
    text = RUNBOOK_FILE.read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    linked = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert linked
    assert linked <= anchors


@pytest.mark.parametrize("alert", ALERTS)
def test_annotations_name_only_labels_that_the_alert_has(alert: str) -> None:
    [labels, *_] = [case["labels"] for case in CASES[alert].values() if "fires" in case]
    named = set(re.findall(r"\$labels\.(\w+)", str(ALERTS[alert]["annotations"])))
    assert named <= set(labels)


def test_shortened_rules_differ_in_durations_alone(tmp_path: Path) -> None:
    written = tmp_path / "shortened.yaml"
    written.write_text(shortened(60))
    promtool("check", "rules", str(written))
    long, short = load(RULES_FILE), load(written)
    spike, short_spike = (
        next(rule for rule in rules["groups"][0]["rules"] if rule.get("alert", "").endswith("ErrorRateSpike"))
        for rules in (long, short)
    )
    assert short_spike["expr"] == spike["expr"].replace("[1h]", "[60000ms]").replace("15m", "15000ms")
    assert [rule.get("for") for rule in short["groups"][0]["rules"][3:6]] == ["5000ms", "10000ms", "5000ms"]
