"""How metrics leave a process: gauges that are only shown while they are known, and the scraper's format."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

_VERSIONS = re.compile(r"version\s*=([^,;]*)")
_FORMAT_VERSION = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}", re.ASCII)


class LookedUpGauge:
    """A gauge whose values are read from a server: exported while they are known to be true, else absent.

    max_age_seconds: a value that was not read again for this long is no longer known.
    """

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str] = (),
        *,
        registry: CollectorRegistry,
        max_age_seconds: float = 60,
    ) -> None:
        self._name = name
        self._help_text = help_text
        self._labelnames = tuple(labels)
        self._max_age_seconds = max_age_seconds
        self._read: tuple[float, Mapping[tuple[str, ...], float]] | None = None
        registry.register(self)

    def show(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Export exactly these values, by the values of the labels."""
        self._read = time.monotonic(), values

    def set(self, value: float) -> None:
        """Export this value of a gauge without labels."""
        self.show({(): value})

    def forget(self) -> None:
        """Export nothing: the value could not be read."""
        self._read = None

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Name the metric, for the registry."""
        yield GaugeMetricFamily(self._name, self._help_text, labels=self._labelnames)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Give the values that are known, for a scrape."""
        family = GaugeMetricFamily(self._name, self._help_text, labels=self._labelnames)
        read = self._read
        if read is not None and time.monotonic() - read[0] <= self._max_age_seconds:
            for labels, value in read[1].items():
                family.add_metric(labels, value)
        yield family


def exposition(registry: CollectorRegistry, accept: str | None) -> tuple[bytes, str]:
    """Return a registry's metrics and their content type, in the format that a scraper's Accept asks for.

    An Accept that names no version as versions are written gets the plain text format: the driver would
    fail on it, or repeat it in the content type.
    """
    accept = accept or ""
    if not all(_FORMAT_VERSION.fullmatch(version) for version in _VERSIONS.findall(accept)):
        accept = ""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
