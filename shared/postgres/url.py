"""What DATABASE_URL may hold: asked of libpq's own parser, before anything connects."""

import re

import psycopg2
from psycopg2.extensions import parse_dsn

_CHOICES = {
    "sslmode": {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
    "gssencmode": {"disable", "prefer", "require"},
    "channel_binding": {"disable", "prefer", "require"},
    "sslnegotiation": {"postgres", "direct"},
    "load_balance_hosts": {"disable", "random"},
    "target_session_attrs": {"read-write", "primary"},
}
"""Options of libpq that it checks only when it connects."""


def check_url(url: str) -> None:
    """Raise ValueError, which shows no value, where libpq would refuse the URL. Connects to nothing."""
    try:
        found = parse_dsn(url)
    except psycopg2.ProgrammingError as error:
        unknown = re.search(r'invalid URI query parameter: "(\w{1,63})"', str(error), re.ASCII)
        what = (
            f"names {unknown[1]}, which is no parameter of libpq" if unknown else "is not a URL libpq reads"
        )
        raise ValueError(what) from None
    hosts, ports = found.get("host", "").split(","), found.get("port", "5432").split(",")
    if not all(
        port == "" or (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65_535) for port in ports
    ):
        raise ValueError("has a port that is not a whole number from 1 to 65535")
    if len(ports) not in {1, len(hosts)}:
        raise ValueError(f"names {len(ports)} ports for {len(hosts)} hosts")
    for name, choices in _CHOICES.items():
        if found.get(name, min(choices)) not in choices:
            raise ValueError(f"has an impossible {name}; possible are {', '.join(sorted(choices))}")
