"""Structured logs: one JSON object a line in production, readable on a terminal.

Context (correlation_id, batch) is bound with structlog.contextvars and cleared by whoever starts the
next request or batch. Whatever a line is given, it stays one line of bounded length.
"""

import logging
import re
import sys
import traceback
import uuid
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from shared.settings import NAMES, LogSettings, misspelt
from shared.version import COMMIT, VERSION

MAX_VALUE_CHARACTERS = 8192
"""A longer text is cut. An exception's message may hold a whole request or row."""

_MAX_ITEMS = 100
_MAX_DEPTH = 8

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)

# C0 but tab, delete, C1, line and paragraph separators: what moves a terminal's cursor or begins a line.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def safe_id(given: str | None) -> str:
    """Return an id from outside if it can stand in a log, a header and a row; else a new one."""
    return given if given and _SAFE_ID.fullmatch(given) else uuid.uuid4().hex


def configure_logs(settings: LogSettings, process: str) -> structlog.stdlib.BoundLogger:
    """Send structlog's and the standard library's records to stderr in one format; return a logger.

    process: the name every line carries, such as "ingestor".
    """
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not _on_a_terminal())
    shared_processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared_processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        cache_logger_on_first_use=True,
    )

    def add_process(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared_processors,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                add_process,
                *(_json() if as_json else _console()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    # pika logs every connection attempt at INFO, which drowns our own lines while a broker is away.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(process)
    return logger


def log_start(log: structlog.stdlib.BoundLogger, settings: LogSettings, environ: Mapping[str, str]) -> None:
    """Log what starts with which settings, and which variables look like a setting that is spelt wrong."""
    log.info("starting", version=VERSION, commit=COMMIT, settings=dict(settings.masked))
    for given, meant in misspelt(environ, NAMES).items():
        log.warning("a variable is no setting and was ignored", variable=given, perhaps_meant=meant)


def _json() -> list[Processor]:
    # Without the frames' locals, which hold passwords.
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(frames), _bound, structlog.processors.JSONRenderer()]


def _console() -> list[Processor]:
    return [
        _bound,
        _escape_control,
        structlog.dev.ConsoleRenderer(colors=_on_a_terminal(), exception_formatter=_write_traceback),
    ]


def _on_a_terminal() -> bool:
    # A process may be started with its stderr closed.
    return sys.stderr is not None and sys.stderr.isatty()


def _bound(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    return {key: value if key == "exc_info" else _bounded(value, _MAX_DEPTH) for key, value in event.items()}


def _bounded(value: Any, depth: int) -> Any:
    """Return the value with its texts, lists and depth cut."""
    if isinstance(value, str):
        rest = len(value) - MAX_VALUE_CHARACTERS
        return value if rest <= 0 else f"{value[:MAX_VALUE_CHARACTERS]}... ({rest:,} more characters)"
    if isinstance(value, bytes):
        return _bounded(repr(value[:MAX_VALUE_CHARACTERS]), depth)
    if isinstance(value, Mapping | list | tuple) and depth == 0:
        return "..."
    if isinstance(value, Mapping):
        pairs = list(value.items())[:_MAX_ITEMS]
        return {_bounded(str(key), depth): _bounded(item, depth - 1) for key, item in pairs}
    if isinstance(value, list | tuple):
        return [_bounded(item, depth - 1) for item in value[:_MAX_ITEMS]]
    return value


def _escape_control(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Write control characters as \\x1b and the like, in values that are shown as they are and in others."""
    return {
        key: _CONTROL.sub(_escaped, value) if isinstance(value, str) and key != "stack" else value
        for key, value in event.items()
    }


def _escaped(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]


def _write_traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    """Write a traceback without the frames' locals, its lines indented so that none looks like a record."""
    lines = "".join(traceback.format_exception(*exc_info)).split("\n")
    stream.writelines(f"\n    {_bounded(_CONTROL.sub(_escaped, line), 0)}" for line in lines)
