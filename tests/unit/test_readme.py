"""The documents say what the code does: every setting, every metric, no dead link, no missing file."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from shared import metrics
from shared.process_metrics import add_process_metrics
from shared.settings import PROCESSES

ROOT = Path(__file__).resolve().parents[2]


def gateway(registry: CollectorRegistry) -> None:
    """Register what the gateway exports; its processes stand beside what they measure together."""
    metrics.GatewayMetrics(registry)
    add_process_metrics(registry, list)


EXPORTERS = {
    "gateway": gateway,
    "ingestor": metrics.IngestorMetrics,
    "rollup worker": metrics.RollupMetrics,
    "export worker": metrics.ExportMetrics,
}
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FOLDERS = (
    "gateway",
    "ingestor",
    "rollup_worker",
    "export_worker",
    "shared",
    "sql",
    "deploy",
    "tests",
    "k8s",
    "docs",
)
FILE_NAME = re.compile(rf"\b(?:{'|'.join(FOLDERS)})/[\w./-]*\w\.(?:py|sql|sh|ya?ml|json|md)\b")


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def settings_table() -> list[str]:
    """Return the lines that the table of settings must have."""
    rows: dict[str, tuple[list[str], str, str, list[str]]] = {}
    for reader, settings_class in PROCESSES.items():
        for declared in settings_class.declared().values():
            default = {None: "required", "": "none"}.get(declared.default, f"`{declared.default}`")
            defaults, _, _, readers = rows.setdefault(
                declared.name, ([], declared.kind.allowed, declared.doc, [])
            )
            readers.append(reader)
            defaults += [default] if default not in defaults else []
    return [
        f"| `{name}` | {', '.join(defaults)} | {allowed} | {doc} |"
        f" {'all' if len(readers) == len(PROCESSES) else ', '.join(readers)} |"
        for name, (defaults, allowed, doc, readers) in sorted(rows.items())
    ]


def metrics_table() -> list[str]:
    """Return the lines that the table of metrics must have."""
    rows: dict[str, tuple[str, str, list[str]]] = {}
    for exporter, declared in EXPORTERS.items():
        registry = CollectorRegistry()
        declared(registry)
        # The registry's own record of its metrics: what it collects has no labels before the first sample.
        for metric in set(registry._names_to_collectors.values()):
            labels = ", ".join(f"`{label}`" for label in getattr(metric, "_labelnames", ()))
            for family in metric.describe():  # type: ignore[attr-defined]  # all of these have it
                name = family.name + ("_total" if family.type == "counter" else "")
                row = rows.setdefault(name, (labels, f"{family.type} | {family.documentation}", []))
                row[2].append(exporter)
    return [
        f"| `{name}` | {labels} | {kind_and_help} |"
        f" {'all' if len(exporters) == len(EXPORTERS) else ', '.join(exporters)} |"
        for name, (labels, kind_and_help, exporters) in sorted(rows.items())
    ]


def test_every_setting_is_listed_with_its_default() -> None:
    wanted = "\n".join(settings_table())
    assert wanted in read("docs/settings.md"), f"the table of docs/settings.md must be:\n{wanted}"


def test_every_metric_is_listed_with_its_labels_and_its_help_text() -> None:
    wanted = "\n".join(metrics_table())
    assert wanted in read("docs/metrics.md"), f"the table of docs/metrics.md must be:\n{wanted}"


@pytest.mark.parametrize("path", DOCUMENTS)
def test_every_link_to_a_file_leads_somewhere(path: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", read(path))
    missing = [link for link in links if not ((ROOT / path).parent / link).exists()]
    assert missing == []


def texts_that_name_files() -> list[str]:
    """Return the files whose comments and sentences lead a reader to other files."""
    kinds = {".py", ".sql", ".yaml", ".sh", ".md"}
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    paths += [path for path in ROOT.glob("*") if path.name in {"README.md", "CONTRIBUTING.md", "Makefile"}]
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def test_every_file_that_a_text_names_is_there() -> None:
    """The changelog may name what is gone; nothing else may."""
    dead = {
        f"{path} names {name}"
        for path in texts_that_name_files()
        for name in FILE_NAME.findall(read(path))
        if "NNNN" not in name and not (ROOT / name).exists()
    }
    assert dead == set()


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs/decisions").glob("[0-9]*.md")))
def test_every_decision_has_its_four_parts_and_is_listed(page: str) -> None:
    number, title = re.match(r"# (\d+)\. (.+)\n", read(f"docs/decisions/{page}")).groups()  # type: ignore[union-attr]
    assert page.startswith(f"{int(number):04}-")
    headings = re.findall(r"^## (.+)$", read(f"docs/decisions/{page}"), re.MULTILINE)
    assert headings == ["Context", "Decision", "Measured", "Consequences"]
    assert f"| [{page[:4]}]({page}) | {title} |" in read("docs/decisions/README.md")
    assert f"(decisions/{page})" in read("docs/architecture.md")
