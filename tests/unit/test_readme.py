"""The README and the docs say what the code does: every setting, no dead link."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from shared import settings

ROOT = Path(__file__).resolve().parents[2]
READERS = {
    "gateway": settings.GatewaySettings,
    "ingestor": settings.IngestorSettings,
    "rollup worker": settings.RollupWorkerSettings,
    "export worker": settings.ExportWorkerSettings,
    "migrate": settings.MigrateSettings,
}


def settings_table() -> list[str]:
    """Return the lines the README's table of settings must have."""
    rows: dict[str, tuple[list[str], str, list[str]]] = {}
    for reader, declared in READERS.items():
        for item in fields(declared):
            meta = item.metadata
            default = "required" if meta["default"] is None else f"`{meta['default']}`"
            defaults, _, readers = rows.setdefault(meta["name"], ([], meta["doc"], []))
            readers.append(reader)
            defaults += [default] if default not in defaults else []
    return [
        f"| `{name}` | {', '.join(defaults)} | {doc} |"
        f" {'all' if len(readers) == len(READERS) else ', '.join(readers)} |"
        for name, (defaults, doc, readers) in sorted(rows.items())
    ]


def test_the_readme_lists_every_setting_with_its_default() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    wanted = "\n".join(settings_table())
    assert wanted in readme, f"the table of settings must be:\n{wanted}"


@pytest.mark.parametrize(
    "path", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
)
def test_every_link_to_a_file_leads_somewhere(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
    missing = [link for link in links if not ((ROOT / path).parent / link).exists()]
    assert missing == []
