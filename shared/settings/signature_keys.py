"""The keys that the proxy signs its requests with, as ACTOR_SIGNATURE_KEYS writes them."""

import re
from dataclasses import dataclass, field

from shared.settings.values import Kind

MAX_KEYS = 2
"""The one that is used, and the one that replaces it or was replaced."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,32}", re.ASCII)
_SECRET = re.compile(r"[A-Za-z0-9+/=_.~-]{32,256}", re.ASCII)


@dataclass(frozen=True)
class SignatureKey:
    """A key by its name, which a request tells, and its secret, which nothing tells."""

    name: str
    secret: bytes = field(repr=False)


def _parse(text: str) -> tuple[SignatureKey, ...]:
    keys: list[SignatureKey] = []
    faults: list[str] = []
    parts = text.split(",") if text else []
    for number, part in enumerate(parts, start=1):
        try:
            keys.append(_parse_one(part))
        except ValueError as fault:
            faults.append(f"has a key, number {number}, {fault}")  # what is malformed may be a secret
    if len(parts) > MAX_KEYS:
        faults.append(f"has {len(parts)} keys; at most {MAX_KEYS} are live")
    if len({key.name for key in keys}) < len(keys):
        faults.append("has two keys of one name")
    if len({key.secret for key in keys}) < len(keys):
        faults.append("has two keys with one secret")
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(keys)


def _parse_one(text: str) -> SignatureKey:
    name, colon, secret = text.partition(":")
    if not colon:
        raise ValueError("that is not like name:secret")
    if not _NAME.fullmatch(name):
        raise ValueError("whose name is not 1 to 32 of A-Z a-z 0-9 _ . -")
    if not _SECRET.fullmatch(secret):
        raise ValueError("whose secret is not 32 to 256 of A-Z a-z 0-9 + / = _ . ~ -")
    return SignatureKey(name, secret.encode("ascii"))


def _without_secrets(text: str) -> str:
    return ",".join(f"{key.name}:***" for key in _parse(text))


SIGNATURE_KEYS = Kind(
    _parse,
    "one or two `name:secret`, comma-separated, a secret of 32 to 256 characters",
    _without_secrets,
)
