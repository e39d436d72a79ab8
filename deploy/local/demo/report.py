"""What the demo prints: headings, tables, checks with a verdict, commands to try."""

import shutil
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from deploy.local import machine


def _shown(value: object) -> str:
    """Write numbers with thousands apart."""
    return f"{value:,}" if isinstance(value, int | Decimal) else str(value)


class Report:
    """Collects whether everything added up while it prints."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.example_org = ""

    def heading(self, text: str) -> None:
        """Print a heading."""
        sys.stdout.write(f"\n{text}\n{'-' * len(text)}\n")

    def line(self, text: str) -> None:
        """Print a line below a heading."""
        sys.stdout.write(f"  {text}\n")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print rows below a header; text to the left, numbers to the right."""
        cells = [[_shown(cell) for cell in row] for row in rows]
        widths = [max(len(row[column]) for row in [list(header), *cells]) for column in range(len(header))]
        numeric = [all(not isinstance(row[column], str) for row in rows) for column in range(len(header))]
        for row in [list(header), *cells]:
            sys.stdout.write(
                "  "
                + "   ".join(
                    cell.rjust(width) if right else cell.ljust(width)
                    for cell, width, right in zip(row, widths, numeric, strict=True)
                ).rstrip()
                + "\n"
            )

    def check(self, what: str, found: object, expected: object) -> None:
        """Print whether a figure is what was published."""
        if found == expected:
            sys.stdout.write(f"  ok     {what}: {_shown(found)}\n")
        else:
            self.faults.append(what)
            sys.stdout.write(f"  WRONG  {what}: {_shown(found)}, expected {_shown(expected)}\n")

    def commands(self, gateway_url: str, org_id: str) -> None:
        """Print commands to try while the demo runs."""
        psql = "psql" if shutil.which("psql") else machine.postgres_folder() / "psql"
        self.heading("Try it yourself, in another terminal")
        sys.stdout.write(
            "  . .stack/env\n"
            '  AS="-H X-Actor-Subject:me -H X-Actor-Roles:admin"\n'
            '  SINCE=$(date -u -d "14 days ago" +%Y-%m-%dT00:00:00Z); NOW=$(date -u +%Y-%m-%dT%H:%M:%SZ)\n'
            f'  curl -s $AS "$GATEWAY_URL/analytics/v1/orgs/{org_id}/usage?start=$SINCE&end=$NOW"\n'
            f'  curl -s $AS "$GATEWAY_URL/analytics/v1/orgs/{org_id}/reliability?start=$SINCE&end=$NOW"\n'
            f'  curl -s $AS "$GATEWAY_URL/analytics/v1/orgs/{org_id}/freshness"\n'
            f'  {psql} "$DATABASE_URL"'
            ' -c "SELECT * FROM analytics.freshness_status ORDER BY lag_seconds DESC"\n'
            f"  (GATEWAY_URL is {gateway_url})\n\n"
        )
        sys.stdout.flush()

    def console(self, url: str) -> None:
        """Print where a person sees all of it."""
        self.heading("See it in a browser")
        sys.stdout.write(f"  {url}\n\n")
        sys.stdout.flush()

    def verdict(self) -> int:
        """Print whether all added up; return the exit code."""
        if self.faults:
            sys.stdout.write(f"\n{len(self.faults)} figure(s) did not add up: {', '.join(self.faults)}\n")
            return 1
        sys.stdout.write("\nEverything added up.\n")
        return 0
