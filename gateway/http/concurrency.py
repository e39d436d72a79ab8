"""Answers that take long or much memory, a few at a time: incident exports, and series of many points.

Each gunicorn worker lets so many of them be under way: by subject, by organisation and in all. One more is a
429 that names which of the three it met, so that nobody's slow download stands in the way of others.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import falcon

from gateway.access.authorize import Decision
from gateway.http.problems import Problem

RETRY_AFTER_SECONDS = 5


class ConcurrencyLimit:
    """Counts the answers of one kind that are under way in this process, and refuses one too many."""

    def __init__(self, what: str, *, max_by_subject: int, max_by_org: int, max_in_all: int) -> None:
        self._what = what
        self._limits = {
            "one subject": max_by_subject,
            "one organisation": max_by_org,
            "one gateway process": max_in_all,
        }
        self._lock = threading.Lock()
        self._under_way: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def admit(self, req: falcon.Request) -> Iterator[None]:
        """Count the answer to a request as under way during the block. Raises Problem 429."""
        keys = [("one organisation", req.context.org_id), ("one gateway process", "")]
        if req.context.decision is not Decision.RBAC_OFF:  # else nobody is known
            keys.insert(0, ("one subject", req.context.subject))
        with self._lock:
            for whose, name in keys:
                if self._under_way[whose, name] >= self._limits[whose]:
                    raise self._too_many(whose)
            self._under_way.update(keys)
        try:
            yield
        finally:
            with self._lock:
                self._under_way.subtract(keys)
                self._under_way = +self._under_way  # forgets those at 0

    def _too_many(self, whose: str) -> Problem:
        detail = f"{self._limits[whose]} {self._what} under way, the most for {whose}; let one of them end."
        return Problem(
            429, detail, slug="too-many-at-once", headers={"Retry-After": str(RETRY_AFTER_SECONDS)}
        )
