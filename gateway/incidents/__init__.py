"""Incident exports: the raw events of a window as CSV, for whoever looks into an incident.

Over HTTP (gateway/resources/incidents.py), as a command that writes to standard output:

    python -m gateway.incidents --org UUID --start 2026-11-01T09:00:00Z --end 2026-11-01T10:00:00Z > it.csv

and as a library call:

    from gateway.incidents import IncidentExporter, IncidentRequest

    exporter = IncidentExporter.of(database_url)
    with exporter.export(IncidentRequest(org_id, start, end, model_id="gpt", max_rows=10_000)) as incident:
        for piece in incident:
            file.write(piece)
    incident.truncated  # whether there were more than max_rows
"""

from gateway.incidents.export import COLUMNS, IncidentExporter, IncidentRequest

__all__ = ["COLUMNS", "IncidentExporter", "IncidentRequest"]
