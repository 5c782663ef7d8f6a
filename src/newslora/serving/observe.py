"""What the operator sees: Prometheus metrics, and logs of one JSON object a line without a word of any article."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LOGGER: Final = logging.getLogger("newslora.serving")
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES: Final = (32, 64, 128, 256, 512, 1024, 2048, 4096)


class Metrics:
    """The server's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "newslora_requests_total", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "newslora_request_seconds", "From a request's head to its answer.", ("route",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.texts = Counter("newslora_texts_total", "Texts classified.", ("adapter",), registry=self.registry)
        self.batches = Histogram(
            "newslora_batch_tokens", "Estimated tokens a batch.", buckets=_SIZES, registry=self.registry
        )
        self.waiting = Gauge("newslora_waiting_tokens", "Estimated tokens that wait or run.", registry=self.registry)
        self.models = Gauge("newslora_models", "Models served.", registry=self.registry)

    def batch(self, texts: int, tokens: int) -> None:
        """Count a batch."""
        self.batches.observe(tokens)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class JsonFormatter(logging.Formatter):
    """One JSON object a record. Of an exception only its type and place are told: its message may quote an article."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        entry |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])[-5:]
            entry["exception"] = record.exc_info[0].__name__
            entry["places"] = [f"{frame.filename}:{frame.lineno}" for frame in frames]
        return json.dumps(entry, ensure_ascii=False)


def log(event: str, **fields: object) -> None:
    """Log an event with its fields."""
    LOGGER.info(event, extra={"fields": fields})


def start_logs() -> None:
    """Send this server's and uvicorn's records to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("newslora.serving", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name != "uvicorn" else logging.WARNING)
