"""Settings: declared once (fleet), typed (values, servers), read from the environment at start (declare).

`load` reports all faults at once; `masked` is the configuration without secrets, for the log line at start.
"""

from shared.settings.declare import Settings, load, load_or_exit, misspelt, setting
from shared.settings.dimensions import KeptDimension
from shared.settings.fleet import (
    NAMES,
    PROCESSES,
    BrokerSettings,
    DatabaseSettings,
    ExportWorkerSettings,
    GatewaySettings,
    IngestorSettings,
    LogSettings,
    MigrateSettings,
    ObjectStoreSettings,
    RollupWorkerSettings,
    ScheduleMonthlySettings,
)
from shared.settings.signature_keys import SignatureKey

__all__ = [
    "NAMES",
    "PROCESSES",
    "BrokerSettings",
    "DatabaseSettings",
    "ExportWorkerSettings",
    "GatewaySettings",
    "IngestorSettings",
    "KeptDimension",
    "LogSettings",
    "MigrateSettings",
    "ObjectStoreSettings",
    "RollupWorkerSettings",
    "ScheduleMonthlySettings",
    "Settings",
    "SignatureKey",
    "load",
    "load_or_exit",
    "misspelt",
    "setting",
]
