"""The border to Redis: freshness answers for some seconds. A cache only; without it answers are right."""

import time
from datetime import timedelta

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.metrics import GatewayMetrics

_WAIT_SECONDS = 0.2

# After a failure Redis is left alone this long, so that a silent one slows few requests.
_PAUSE_SECONDS = 5.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.cache")


class FreshnessCache:
    """Bytes by kind and organisation that expire. Every failure is a miss, counted."""

    def __init__(self, url: str, ttl: timedelta, metrics: GatewayMetrics) -> None:
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=_WAIT_SECONDS,
            socket_connect_timeout=_WAIT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._ttl_ms = max(1, ttl // timedelta(milliseconds=1))
        self._metrics = metrics
        self._paused_until = 0.0

    def get(self, kind: str, org_id: str) -> bytes | None:
        """Return what was put of a kind for an organisation; None if nothing was, or Redis fails."""
        if time.monotonic() < self._paused_until:
            return None
        try:
            found = self._client.get(_key(kind, org_id))
        except (redis.RedisError, OSError) as error:
            self._failed(error)
            return None
        self._metrics.cache_reads.labels(result="hit" if found else "miss").inc()
        return found if isinstance(found, bytes) else None

    def put(self, kind: str, org_id: str, value: bytes) -> None:
        """Keep bytes of a kind for an organisation."""
        if time.monotonic() < self._paused_until:
            return
        try:
            self._client.set(_key(kind, org_id), value, px=self._ttl_ms)
        except (redis.RedisError, OSError) as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + _PAUSE_SECONDS
        self._metrics.dependency_errors.labels(dependency="redis").inc()
        _log.warning("redis failed, going on without it", error=str(error), pause_seconds=_PAUSE_SECONDS)


def _key(kind: str, org_id: str) -> str:
    return f"analytics:freshness:2:{kind}:{org_id}"
