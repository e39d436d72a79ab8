"""The texts inside a usage event: identifiers, instants, decimals, metadata, and COPY's escapes.

Each function takes what a producer wrote and returns the one text that stands for its meaning, so that
two spellings of the same value become equal. Each raises ValueError for what the contract forbids.
"""

import functools
import re
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation

import msgspec

COST_DECIMALS = 10
"""Cost is kept to this many decimals of a cent."""

COST_LIMIT = 10**12
"""Cost in cents stays below this."""

MAX_METADATA_BYTES = 16 * 1024
"""Metadata may be this long as compact JSON in UTF-8."""

# Looking a shape up takes a third of the time of a regular expression, on every event.
_HEX_TO_0 = bytes.maketrans(b"123456789abcdefABCDEF", b"0" * 21)
_DIGITS_TO_0 = bytes.maketrans(b"123456789", b"0" * 9)

_UUID_SHAPE = b"00000000-0000-0000-0000-000000000000"
_NIL_UUID = _UUID_SHAPE.decode()

# UTC with up to nine decimals: how much of the text to keep, and what follows it.
_UTC_SHAPES = {
    b"0000-00-00T00:00:00Z": (19, ".000000Z"),
    **{
        b"0000-00-00T00:00:00." + b"0" * digits + b"Z": (20 + min(digits, 6), "0" * (6 - digits) + "Z")
        for digits in range(1, 10)
    },
}
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)

# Decimals that are stored as written. JSON has no leading zeros, so none is looked for.
_SHORT_DECIMAL_SHAPES = frozenset(
    b"0" * whole + (b"." + b"0" * decimals if decimals else b"")
    for whole in range(1, 13)
    for decimals in range(COST_DECIMALS + 1)
)
_LAST_DECIMAL = Decimal(1).scaleb(-COST_DECIMALS)
_ROUNDING = Context(prec=40, rounding=ROUND_HALF_EVEN)

_parse = datetime.fromisoformat
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


def uuid_text(text: str) -> str:
    """Return a UUID in lower case. Only the 36-character hyphenated form of RFC 9562 is one."""
    if text.encode().translate(_HEX_TO_0) != _UUID_SHAPE:
        raise ValueError("not a UUID")
    return text.lower()


@functools.lru_cache(maxsize=4096)  # few organisations send many events
def org_id_text(text: str) -> str:
    """Return an organisation's UUID in lower case; the nil UUID is none."""
    org_id = uuid_text(text)
    if org_id == _NIL_UUID:
        raise ValueError("the nil UUID")
    return org_id


def instant(text: str) -> tuple[datetime, str]:
    """Return an RFC 3339 time in UTC, and its text with six decimals and `Z`.

    `T` and `Z` may be in lower case, as RFC 3339 allows; a space in place of `T`, a leap second and
    24:00:00 are refused. Decimals past the sixth are cut off, never rounded, so that no event moves
    into the next second, hour or day.
    """
    if text.endswith("+00:00"):
        text = text[:-6] + "Z"
    known = _UTC_SHAPES.get(text.encode().translate(_DIGITS_TO_0))
    if known is not None and text[11:13] != "24":  # Python 3.14 takes 24:00:00 for the next day
        kept, rest = known
        return _parse(text), text[:kept] + rest
    text = text.upper()
    if _RFC_3339.fullmatch(text) is None or text[11:13] == "24":
        raise ValueError("not an RFC 3339 time with a zone")
    try:
        in_utc = _parse(text).astimezone(UTC)
    except OverflowError as error:
        raise ValueError("not a time of the years 1 to 9999 in UTC") from error
    return in_utc, in_utc.isoformat(timespec="microseconds").replace("+00:00", "Z")


def cost_text(json_text: bytes | bytearray | memoryview | msgspec.Raw) -> str:
    """Return a JSON number from 0 to below 10^12 as the shortest exact decimal text.

    Decimals past the tenth are rounded half to even. Never passes through a float. The limit is for
    the number as written: 999999999999.99999999999 is below it and rounds up to it.
    """
    number_bytes = bytes(json_text)
    text = number_bytes.decode("ascii")
    if number_bytes.translate(_DIGITS_TO_0) in _SHORT_DECIMAL_SHAPES:
        return text.rstrip("0").rstrip(".") if "." in text else text
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise ValueError("not a JSON number, or one with an exponent of 19 digits and more") from error
    if not 0 <= value < COST_LIMIT:
        raise ValueError("negative, or 10^12 and more")
    rounded = abs(value.quantize(_LAST_DECIMAL, context=_ROUNDING))
    return f"{rounded:f}".rstrip("0").rstrip(".")


def metadata_text(metadata: dict[str, str] | None) -> str:
    """Return metadata as compact JSON with sorted keys; null is `{}`."""
    if not metadata:
        return "{}"
    encoded = _encode_sorted(metadata)
    if len(encoded) > MAX_METADATA_BYTES:
        raise ValueError("too long")
    return encoded.decode()


def copy_escaped(text: str) -> str:
    r"""Return a text as a field of COPY's text format, where NULL is `\N`.

    Source: PostgreSQL documentation, COPY, File Formats, Text Format.
    """
    # The backslash first. Four replacements take a sixth of the time of str.translate.
    return text.replace("\\", r"\\").replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")
