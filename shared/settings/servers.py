"""Where the servers are: URLs, endpoints and buckets, checked by the drivers that will use them.

A driver knows best what it refuses, and says so only when it is used, perhaps hours after the start. So it
is asked here, without connecting. It is imported when it is asked: a process loads the drivers it needs. No
fault shows the value, which may hold a password.
"""

import re
from collections.abc import Callable
from urllib.parse import SplitResult, parse_qsl, urlsplit

from shared.settings.values import Kind

_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
"""A part of a host's name. Names of containers may hold _."""

_REDIS_OPTIONS = {
    "db": r"[0-9]{1,6}",
    "protocol": r"[23]",
    "client_name": r"[!-~]+",
    "ssl_cert_reqs": r"none|optional|required",
    "ssl_check_hostname": r"(?i:true|false)",
    "ssl_ca_certs": r".+",
    "ssl_certfile": r".+",
    "ssl_keyfile": r".+",
}
"""Options that leave the gateway's own limits on waits alone. redis-py lets a URL override any of them."""


def split_url(text: str, schemes: tuple[str, ...]) -> SplitResult:
    """Split a URL with one of these schemes and a host. Raises ValueError."""
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("is not a URL that can be read") from None
    if parts.scheme not in schemes or not parts.netloc.rpartition("@")[2]:
        wanted = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"must be a URL that starts with {wanted} and names a host")
    if "@" in parts.path or "@" in parts.fragment or parts.fragment or parts.netloc.count("@") > 1:
        raise ValueError(
            "has a user name or password with one of / ? # @ in it, which must be percent-encoded"
        )
    return parts


def _server_url(check: Callable[[str, SplitResult], None], *schemes: str) -> Kind:
    def parse(text: str) -> str:
        check(text, split_url(text, schemes))
        return text

    return Kind(parse, " or ".join(f"`{scheme}://…`" for scheme in schemes), without_secrets)


def _check_port(parts: SplitResult) -> None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("has a port that is not a whole number from 1 to 65535")


def _check_database(text: str, _parts: SplitResult) -> None:
    from shared.postgres import check_url  # noqa: PLC0415  see above

    check_url(text)


def _check_broker(text: str, _parts: SplitResult) -> None:
    from shared.rabbitmq.url import check_url, host_urls  # noqa: PLC0415  see above

    for url in host_urls(text):
        _check_port(split_url(url, ("amqp", "amqps")))
        check_url(url)


def _check_redis(_text: str, parts: SplitResult) -> None:
    _check_port(parts)
    if not re.fullmatch(r"/?|/[0-9]{1,6}", parts.path, re.ASCII):
        raise ValueError("has a path that is not the number of a database, such as /0")
    options = parse_qsl(parts.query, keep_blank_values=True)
    for name, value in options:
        if name not in _REDIS_OPTIONS or (name.startswith("ssl_") and parts.scheme != "rediss"):
            raise ValueError(f"has an option that means nothing here; known are {', '.join(_REDIS_OPTIONS)}")
        if not re.fullmatch(_REDIS_OPTIONS[name], value):
            raise ValueError(f"has an impossible value of the option {name}")
    if len({name for name, _ in options}) < len(options):
        raise ValueError("has an option twice")


def without_secrets(url: str) -> str:
    """Return a URL's scheme, hosts and path, which are needed at night, and nothing that opens a door."""
    parts = urlsplit(url)
    return f"{parts.scheme}://***@{parts.netloc.rpartition('@')[2]}{parts.path}"


DATABASE_URL = _server_url(_check_database, "postgresql", "postgres")
BROKER_URL = _server_url(_check_broker, "amqp", "amqps")
CACHE_URL = _server_url(_check_redis, "redis", "rediss")


def _parse_endpoint(text: str) -> str:
    from shared.s3 import check_endpoint  # noqa: PLC0415  see above

    bare = re.sub(r"^https?://", "", text).removesuffix("/")
    match = re.fullmatch(rf"{_LABEL}(?:\.{_LABEL})*(?::([0-9]{{1,5}}))?", bare, re.ASCII)
    if match is None:
        raise ValueError("is not host:port or an http(s) URL without a path")
    if match[1] and not 1 <= int(match[1]) <= 65_535:
        raise ValueError(f"has the port {match[1]}, which is not a whole number from 1 to 65535")
    check_endpoint(bare)
    return text.removesuffix("/")


def _parse_bucket(text: str) -> str:
    from shared.s3 import check_bucket  # noqa: PLC0415  see above

    check_bucket(text)
    return text


def _parse_region(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", text, re.ASCII):
        raise ValueError("is not a region such as us-east-1")
    return text


ENDPOINT = Kind(_parse_endpoint, "`host`, `host:port` or `http(s)://…` without a path")
BUCKET = Kind(_parse_bucket, "S3's rules for names of buckets")
REGION = Kind(_parse_region, "letters, digits, `-`, `_`")
