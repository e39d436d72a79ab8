"""The errors that cross a border of this system. A class's docstring is its default message."""


class AnalyticsError(Exception):
    """Something went wrong in the analytics service."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class SettingsError(AnalyticsError):
    """The process cannot start with these settings."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        lines = "\n".join(f"  - {fault}" for fault in faults)
        super().__init__(f"{len(faults)} setting(s) are wrong or missing:\n{lines}")


class DependencyError(AnalyticsError):
    """A server this process depends on did not do its part; trying again later may help."""

    dependency = "unknown"


class DatabaseUnavailable(DependencyError):
    """PostgreSQL cannot be reached or refused to work; try again later."""

    dependency = "postgresql"


class DatabaseBusy(DatabaseUnavailable):
    """PostgreSQL gave up on a lock, a deadlock or a time limit; the same work may succeed at once."""


class NumberTooLarge(AnalyticsError):
    """A number in a statement is too large for the type that it is computed in."""


class DatabaseRejected(AnalyticsError):
    """PostgreSQL refused the data itself; sending the same again cannot succeed."""


class DuplicateRow(DatabaseRejected):
    """PostgreSQL has a row with this key already."""

    def __init__(self, message: str, table: str | None) -> None:
        self.table = table
        super().__init__(message)


class TableMissing(AnalyticsError):
    """PostgreSQL has no such table, or none any more."""


class SchemaOutdated(DatabaseUnavailable):
    """The database lacks migrations this process needs; run `python -m shared.migrate`."""


class BrokerUnavailable(DependencyError):
    """RabbitMQ cannot be reached or closed the connection; try again later."""

    dependency = "rabbitmq"


class CacheUnavailable(DependencyError):
    """Redis did not answer in time; go on without it."""

    dependency = "redis"


class ObjectStoreUnavailable(DependencyError):
    """The object store cannot be reached or refused the request; try again later."""

    dependency = "s3"


class ObjectStoreRefused(AnalyticsError):
    """The object store refused the request; it will until its configuration or these settings change."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(f"{code}: {message}")
