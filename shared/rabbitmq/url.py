"""What RABBITMQ_URL means: its hosts, parameters of a connection, and what pika would not take."""

import re
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import pika

# How soon a host that is silent is left: pika looks every 5 s more than this whether anything has come in the
# time before, so after 13 to 26 s.
HEARTBEAT_SECONDS = 8


def host_urls(url: str) -> list[str]:
    """Return a URL for each host of one that may name several, comma-separated after the credentials."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{user}{at}{host}").geturl() for host in hosts.split(",")]


def parameters(url: str, *, connection_name: str) -> pika.URLParameters:
    """Return parameters for one host, with a limit on every wait. Raises ValueError on an unreadable URL."""
    found = pika.URLParameters(url)
    found.heartbeat = HEARTBEAT_SECONDS
    found.blocked_connection_timeout = 30
    found.socket_timeout = 5
    found.stack_timeout = 10
    found.connection_attempts = 1
    found.client_properties = {"connection_name": connection_name}
    return found


def check_url(url: str) -> None:
    """Raise ValueError, which shows no value, where pika would refuse one host's URL. Connects to nothing."""
    parts = urlsplit(url)
    if parts.path.count("/") > 1:
        raise ValueError("has a virtual host with a / in it, which must be written %2F")
    if parts.username is not None and parts.password is None:
        raise ValueError("has a user and no password")
    options = parse_qs(parts.query, keep_blank_values=True)
    for name, values in options.items():
        alone = urlunsplit(parts._replace(query=urlencode({name: values[0]})))
        try:
            parameters(alone, connection_name="")
        # pika evaluates some options as Python and opens the files that others name.
        except Exception:  # noqa: BLE001  whatever it raises now it would raise at each connect
            shown = name if re.fullmatch("[a-z_]{1,40}", name) else "of its"
            raise ValueError(f"has an option {shown} that pika does not take") from None
        if len(values) > 1:
            raise ValueError("has an option twice")
