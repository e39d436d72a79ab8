"""Structured logs: one JSON object a line in production, readable on a terminal.

Context (correlation_id, batch) is bound with structlog.contextvars and cleared by whoever starts the
next request or batch.
"""

import logging
import re
import sys
import uuid

import structlog

from shared.settings import LogSettings

_FIT_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


def fit_id(given: str | None) -> str:
    """Return an id from outside if it can stand in a log, a header and a row; else a new one."""
    return given if given and _FIT_ID.fullmatch(given) else uuid.uuid4().hex


def configure_logs(settings: LogSettings, process: str) -> structlog.stdlib.BoundLogger:
    """Send structlog's and the standard library's records to stderr in one format; return a logger.

    process: the name every line carries, such as "ingestor".
    """
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    shared_processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    final: list[structlog.typing.Processor] = (
        [
            # Without the frames' locals, which hold passwords.
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(),
        ]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[*shared_processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        cache_logger_on_first_use=True,
    )

    def add_process(
        _logger: structlog.typing.WrappedLogger, _name: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["process"] = process
        return event

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared_processors,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                add_process,
                *final,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    # pika tells every connection attempt at INFO, which drowns our own lines while a broker is away.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(process)
    return logger
