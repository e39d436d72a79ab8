"""From the message that a producer published to the line that COPY stores.

A message is cut into the JSON texts of its events (`split_message`); each event is then judged alone
(`decode_event`). The rules are in `schema`, what is wrong with an event is found by `diagnose`.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec import UNSET, Raw, UnsetType

from shared.usage_event.diagnose import cut, decode_pairs, examine, holds_nul, text_fault
from shared.usage_event.schema import (
    COPY_COLUMNS,
    FIELD_BY_SPELLING,
    MAX_AGE,
    MAX_AHEAD,
    MAX_BATCH_EVENTS,
    MAX_MESSAGE_BYTES,
    Fault,
    Fields,
    InvalidEvent,
    Reason,
)
from shared.usage_event.text import copy_escaped, cost_text, instant, metadata_text, org_id_text, uuid_text

_NULL = r"\N"
_MIN_AGE = -MAX_AHEAD

_NO_DETAILS = f"\t{_NULL}" * 7

_CamelFields: type[Fields] = msgspec.defstruct(  # type: ignore[assignment]  # it is one by its bases
    "CamelFields",
    [
        (field.name, field.type) if field.required else (field.name, field.type, field.default)
        for field in msgspec.structs.fields(Fields)
    ],
    bases=(Fields,),
    rename="camel",
    gc=False,
)
_decode_camel = msgspec.json.Decoder(_CamelFields).decode
_decode_snake = msgspec.json.Decoder(Fields).decode
_decode_elements = msgspec.json.Decoder(list[Raw]).decode


class Event(msgspec.Struct, frozen=True, gc=False):
    r"""A valid event, ready to be stored. Its dedupe identity is (org_id, event_id).

    event_id, org_id: lower case. occurred_at: aware. copy_line: the fields of COPY_COLUMNS in COPY's
    text format, without the line's end; costs are the shortest exact decimals, times are in UTC with
    six decimals, metadata is compact JSON with sorted keys (`{}` when absent).
    content_digest: 64 bits of BLAKE2b over the line, signed; over the line up to the metadata where the
    event has none of the fields behind it, as it was before these existed. Events that mean the same
    have the same digest. Changing the columns or their texts changes every digest, and then events
    that are sent again across the release count as conflicts of content.
    """

    event_id: str
    org_id: str
    occurred_at: datetime
    copy_line: str
    content_digest: int

    @property
    def key(self) -> tuple[str, str]:
        """The dedupe identity as (event_id, org_id), the order in which the database keeps it."""
        return self.event_id, self.org_id


def split_message(body: bytes) -> list[bytes]:
    """Return the JSON texts of a message's events, in order; each is yet to be judged.

    A text that starts as an object is returned whole and unread: `decode_event` says what is wrong
    with it. Raises InvalidEvent if the message as a whole cannot be used.
    """
    if len(body) > MAX_MESSAGE_BYTES:
        detail = f"the message has {len(body)} bytes; at most {MAX_MESSAGE_BYTES} are allowed"
        raise InvalidEvent.of(Reason.MESSAGE_TOO_LARGE, detail)
    start = body.lstrip(b" \t\n\r")[:1]
    if start == b"{":
        return [body]
    if start != b"[":
        fault = text_fault("", body)
        detail = "a message must be a JSON object or an array of them"
        raise InvalidEvent([fault or Fault("", Reason.NOT_AN_OBJECT, detail)])
    elements: Sequence[bytes | Raw]
    try:
        elements = _decode_elements(body)
    except (msgspec.DecodeError, RecursionError):
        elements = cut(body, MAX_BATCH_EVENTS)  # decode_event finds which of them are no JSON
    if not elements:
        raise InvalidEvent.of(Reason.EMPTY_BATCH, "the array has no events")
    if len(elements) > MAX_BATCH_EVENTS:
        detail = f"the array has {len(elements)} events; at most {MAX_BATCH_EVENTS} are allowed"
        raise InvalidEvent.of(Reason.BATCH_TOO_LARGE, detail)
    return [bytes(element) for element in elements]


def decode_event(raw: bytes, now: datetime) -> Event:
    """Check one event, the JSON text of an object, and return it ready to be stored.

    now: the time of receipt, aware. Raises InvalidEvent that names every fault. The size of the text
    is not looked at, `split_message` did that.
    """
    escapes = 0x5C in raw  # a backslash; without one no string holds what COPY or JSON must escape
    fields = _fields_at_once(raw, escapes)
    if fields is not None:
        try:
            return _event(fields, now, escapes)
        except ValueError:
            pass  # examine() finds it again, and all else that is wrong
    return _event(examine(raw, now), now, escapes)


def _fields_at_once(raw: bytes, escapes: bool) -> Fields | None:
    """Return the fields of an event whose text is beyond doubt, else None."""
    try:
        try:
            fields: Fields = _decode_camel(raw)
        except msgspec.ValidationError:
            fields = _decode_snake(raw)
        if raw.count(b'"') != _quotes(fields) and not _gives_each_once(raw, fields):
            return None
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors too
        return None
    return None if escapes and holds_nul(raw) else fields


def _quotes(fields: Fields) -> int:
    """Count the quotes of an event that has these fields and nothing else, nothing given twice.

    Comparing it with the text's count shows without a second reading that nothing was given twice: 0.2 us of
    6.2 us an event, where reading the names again takes 7 us more (Python 3.11, events of 350 bytes).
    """
    quotes = 28  # nine names and five strings that must be there
    if (actor_id := fields.actor_id) is not UNSET:
        quotes += 4 if actor_id else 2
    if (client_id := fields.client_id) is not UNSET:
        quotes += 4 if client_id else 2
    if (error_code := fields.error_code) is not UNSET:
        quotes += 4 if error_code else 2
    if (metadata := fields.metadata) is not UNSET:
        quotes += 2 + 4 * len(metadata or ())
    return quotes if _has_no_details(fields) else quotes + _quotes_of_details(fields)


def _quotes_of_details(fields: Fields) -> int:
    quotes = 0
    if (provider := fields.provider) is not UNSET:
        quotes += 4 if provider else 2
    if (operation := fields.operation) is not UNSET:
        quotes += 4 if operation else 2
    if (api_key_id := fields.api_key_id) is not UNSET:
        quotes += 4 if api_key_id else 2
    if fields.cached_input_tokens is not UNSET:
        quotes += 2
    if fields.cache_write_input_tokens is not UNSET:
        quotes += 2
    if fields.reasoning_tokens is not UNSET:
        quotes += 2
    if fields.time_to_first_token_ms is not UNSET:
        quotes += 2
    return quotes


def _gives_each_once(raw: bytes, fields: Fields) -> bool:
    """Whether a text gives no field and no key of metadata twice: unknown keys and escaped quotes,
    too, upset the count of quotes.
    """
    known = 0
    for name, value in decode_pairs(raw.decode()):
        if name in FIELD_BY_SPELLING:
            known += 1
            if name == "metadata" and len(value or ()) != len(fields.metadata or ()):
                return False
    optional = (fields.actor_id, fields.client_id, fields.error_code, fields.metadata)
    given = (*optional, fields.provider, fields.operation, fields.api_key_id, *_part_amounts(fields))
    return known == 9 + sum(value is not UNSET for value in given)


def _part_amounts(fields: Fields) -> tuple[int | UnsetType | None, ...]:
    return (
        fields.cached_input_tokens,
        fields.cache_write_input_tokens,
        fields.reasoning_tokens,
        fields.time_to_first_token_ms,
    )


def _event(fields: Fields, now: datetime, escapes: bool) -> Event:
    """Make the event. Raises ValueError for what the types of the fields do not say."""
    event_id = uuid_text(fields.event_id)
    org_id = org_id_text(fields.org_id)
    occurred_at, occurred_at_text = instant(fields.occurred_at)
    if not _MIN_AGE <= now - occurred_at <= MAX_AGE:
        raise ValueError("too far from now")
    model_id = fields.model_id
    actor_id = fields.actor_id or _NULL
    client_id = fields.client_id or _NULL
    error_code = fields.error_code or _NULL
    metadata = metadata_text(fields.metadata or None)
    if escapes:
        model_id, metadata = copy_escaped(model_id), copy_escaped(metadata)
        actor_id, client_id, error_code = (
            copy_escaped(text) if text else _NULL
            for text in (fields.actor_id, fields.client_id, fields.error_code)
        )
    content = (
        f"{event_id}\t{org_id}\t{occurred_at_text}\t{model_id}\t{fields.status}\t{fields.latency_ms}\t"
        f"{fields.input_tokens}\t{fields.output_tokens}\t{cost_text(fields.cost_estimate_cents)}\t"
        f"{actor_id}\t{client_id}\t{error_code}\t{metadata}"
    )
    details = _NO_DETAILS if _has_no_details(fields) else _details(fields, escapes)
    return Event(event_id, org_id, occurred_at, content + details, _digest(content, details))


def _has_no_details(fields: Fields) -> bool:
    """Whether an event has none of the fields behind metadata."""
    return (
        fields.provider
        is fields.operation
        is fields.api_key_id
        is fields.cached_input_tokens
        is fields.cache_write_input_tokens
        is fields.reasoning_tokens
        is fields.time_to_first_token_ms
        is UNSET
    )


def _details(fields: Fields, escapes: bool) -> str:
    """Return the COPY texts behind metadata. Raises ValueError where a part is larger than its whole."""
    provider, operation, api_key_id = fields.provider, fields.operation, fields.api_key_id
    cached, cache_write, reasoning, first_token_ms = _part_amounts(fields)
    if (
        (cached or 0) + (cache_write or 0) > fields.input_tokens
        or (reasoning or 0) > fields.output_tokens
        or (first_token_ms or 0) > fields.latency_ms
    ):
        raise ValueError("a part is larger than its whole")
    if escapes:
        provider, operation, api_key_id = (
            copy_escaped(text) if text else _NULL for text in (provider, operation, api_key_id)
        )
    return (
        f"\t{provider or _NULL}\t{operation or _NULL}\t{api_key_id or _NULL}\t{_amount(cached)}\t"
        f"{_amount(cache_write)}\t{_amount(reasoning)}\t{_amount(first_token_ms)}"
    )


def _amount(amount: int | UnsetType | None) -> int | str:
    """Return an amount as it stands in a COPY line."""
    return amount or (0 if amount == 0 else _NULL)


def _columns(texts: Sequence[str | None]) -> str:
    """Return texts as they stand in a COPY line behind others."""
    return "".join(f"\t{_NULL if text is None else copy_escaped(text)}" for text in texts)


def _digest(content: str, details: str) -> int:
    # An event that has no details keeps the digest it had before they existed.
    line = content if details == _NO_DETAILS else content + details
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest(), "big", signed=True)


def stored_digest(columns: Sequence[str | None]) -> int:
    """Return the content digest of an event as it is stored.

    columns: those of COPY_COLUMNS as texts: the time in UTC with six decimals and `Z`, the cost without zeros
    at its end, metadata as JSON in any order; None for NULL.
    """
    metadata_at = COPY_COLUMNS.index("metadata")
    metadata = metadata_text(msgspec.json.decode(columns[metadata_at] or "{}", type=dict[str, str]))
    content = _columns([*columns[:metadata_at], metadata]).removeprefix("\t")
    return _digest(content, _columns(columns[metadata_at + 1 :]))
