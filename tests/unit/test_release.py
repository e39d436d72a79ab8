"""The release: its number in one place, its licence, and checks that run what the lock pins."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from shared.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_manifests_and_the_changelog_name_this_release() -> None:
    assert PROJECT["project"]["version"] == VERSION
    overlay = yaml.safe_load((ROOT / "k8s/overlays/production/kustomization.yaml").read_text())
    assert [image["newTag"] for image in overlay["images"]] == [VERSION]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[([0-9.]+)\]", changelog, re.MULTILINE)[0] == VERSION


def test_the_licence_is_named_and_there() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_locks_name_no_place_to_fetch_from() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        lock = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"://|--(extra-)?index-url|--find-links", lock)


def test_every_dependency_is_pinned_in_its_lock() -> None:
    def names(requirements: list[str]) -> set[str]:
        found = (re.match(r"[A-Za-z0-9._-]+", line) for line in requirements)
        return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}

    runtime = PROJECT["project"]["dependencies"]
    for lock, wanted in {
        "requirements.lock": runtime,
        "requirements-dev.lock": runtime + PROJECT["project"]["optional-dependencies"]["dev"],
    }.items():
        pinned = re.findall(r"^([a-z0-9-]+)==", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE)
        assert names(wanted) <= set(pinned)


def test_the_hooks_before_a_commit_run_the_locked_tools() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    makefile = (ROOT / "Makefile").read_text()
    for hook in hooks:
        assert hook["language"] == "system"
        program, _, arguments = hook["entry"].partition(" ")
        assert program.startswith(".venv/bin/")
        assert f"$(BIN)/{program.removeprefix('.venv/bin/')} {arguments.split(' --')[0]}".rstrip() in makefile


def test_the_hosted_workflow_runs_what_anybody_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    [job] = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
