"""Log lines, ours and the libraries', in one form on stderr; stdout belongs to what commands answer."""

import logging
import sys
from typing import Any

import structlog

from maquette.server.settings import LogFormat

SHARED: tuple[Any, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper("iso", utc=True),
)

WITHOUT_LOCALS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
"""Frames hold keys, secrets and captions; none of them belongs in a log."""


def configure_logs(log_format: LogFormat) -> None:
    """Set up logging for this process; for its main program alone."""
    renderer: list[Any]
    if log_format is LogFormat.JSON:
        renderer = [WITHOUT_LOCALS, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        renderer = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    structlog.configure(
        processors=[*SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for chatty in ("httpx", "alembic", "_granian", "granian.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
