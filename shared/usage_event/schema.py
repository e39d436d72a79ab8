r"""What a usage event is: its fields, their limits and rules, and what can be wrong with one.

A message is a JSON object, one event, or a JSON array of 1 to 1,000 of them (`split_message`). Each
event is then judged alone (`decode_event`): a bad one does not harm the others of its batch.

The rules, beyond those of each field (`RULES`):

- Names are in camelCase; the snake_case spelling of a name means the same. A field that is given more
  than once, in either spelling, must mean the same each time. Unknown keys are ignored.
- `null` means absent for the optional fields, and is invalid for the required ones.
- Integers are JSON integers: `12.0`, `1e3`, `"12"` and `true` are none. `-0` is 0.
- Cost is a JSON number, kept to 10 decimals, rounded half to even. Exponents have 18 digits at most.
- Times are RFC 3339 with `Z` or an offset; decimals past the sixth are cut off. At most 24 hours ahead
  of `now` and at most 400 days before it, both included.
- A part is at most its whole (`PARTS`), and both cache parts together are at most inputTokens.
- Lengths count Unicode code points. NUL characters, halves of surrogate pairs, NaN, Infinity and
  invalid UTF-8 are invalid wherever they stand, under unknown keys too; so is a byte-order mark.

The reasons an `InvalidEvent` can have (`Reason`):

- `message-too-large`: the message has more than 1 MiB.
- `batch-too-large`: the array has more than 1,000 elements.
- `empty-batch`: the array has no element; whoever sent it meant to send something.
- `invalid-utf8`: bytes that are not UTF-8.
- `invalid-json`: not JSON, the whole or what stands for one field, or nested too deeply to read.
- `not-an-object`: JSON, but not an object (nor, for a message, an array).
- `missing-field`: a required field is not there.
- `invalid-field`: a field, or an unknown key, breaks its rule.
- `ambiguous-field`: a field is given twice with different values.
- `occurred-at-in-future`, `occurred-at-too-old`: outside the window above.
"""

from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from shared.errors import AnalyticsError
from shared.usage_event.text import (
    COST_LIMIT,
    MAX_METADATA_BYTES,
    cost_text,
    instant,
    metadata_text,
    org_id_text,
    uuid_text,
)

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_BATCH_EVENTS = 1000
MAX_AHEAD = timedelta(hours=24)
MAX_AGE = timedelta(days=400)
MAX_TOKENS = 10**12
MAX_LATENCY_MS = 2**31 - 1
MAX_NAME_CHARACTERS = 200
MAX_ERROR_CODE_CHARACTERS = 128
MAX_PROVIDER_CHARACTERS = 100
MAX_OPERATION_CHARACTERS = 64

_MAX_DETAIL_FAULTS = 5

COPY_COLUMNS = (
    "event_id",
    "org_id",
    "occurred_at",
    "model_id",
    "status",
    "latency_ms",
    "input_tokens",
    "output_tokens",
    "cost_estimate_cents",
    "actor_id",
    "client_id",
    "error_code",
    "metadata",
    "provider",
    "operation",
    "api_key_id",
    "cached_input_tokens",
    "cache_write_input_tokens",
    "reasoning_tokens",
    "time_to_first_token_ms",
)
"""What stands in an event's COPY line, in this order."""


class Reason(StrEnum):
    """Why a message or an event is refused: metric label, log field and x-reason header alike."""

    MESSAGE_TOO_LARGE = "message-too-large"
    BATCH_TOO_LARGE = "batch-too-large"
    EMPTY_BATCH = "empty-batch"
    INVALID_UTF8 = "invalid-utf8"
    INVALID_JSON = "invalid-json"
    NOT_AN_OBJECT = "not-an-object"
    MISSING_FIELD = "missing-field"
    INVALID_FIELD = "invalid-field"
    AMBIGUOUS_FIELD = "ambiguous-field"
    OCCURRED_AT_IN_FUTURE = "occurred-at-in-future"
    OCCURRED_AT_TOO_OLD = "occurred-at-too-old"


class Fault(NamedTuple):
    """One thing that is wrong. field: in camelCase as the contract names it; empty for the whole."""

    field: str
    reason: Reason
    detail: str


class InvalidEvent(AnalyticsError):
    """This message or event can never be stored; it belongs into the dead-letter queue.

    reason: that of the first fault. detail: one line of ASCII that names the first few faults.
    faults: all of them, in the order of the contract's fields; at least one.
    """

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        self.reason = faults[0].reason
        self.detail = "; ".join(fault.detail for fault in faults[:_MAX_DETAIL_FAULTS])
        if len(faults) > _MAX_DETAIL_FAULTS:
            self.detail += f"; and {len(faults) - _MAX_DETAIL_FAULTS} more faults"
        super().__init__(self.detail)

    @classmethod
    def of(cls, reason: Reason, detail: str) -> "InvalidEvent":
        """Refuse the whole message or event."""
        return cls([Fault("", reason, detail)])


_Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]
_ErrorCode = Annotated[str, Meta(min_length=1, max_length=MAX_ERROR_CODE_CHARACTERS)]
_Provider = Annotated[str, Meta(min_length=1, max_length=MAX_PROVIDER_CHARACTERS)]
_Operation = Annotated[str, Meta(min_length=1, max_length=MAX_OPERATION_CHARACTERS)]
_Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]
_Milliseconds = Annotated[int, Meta(ge=0, le=MAX_LATENCY_MS)]


Status = Literal["success", "error", "timeout", "throttled"]
STATUSES: tuple[str, ...] = get_args(Status)
FAILED_STATUSES = tuple(status for status in STATUSES if status != "success")


class Fields(msgspec.Struct, gc=False):
    """An event's fields as its JSON has them. Types hold what msgspec checks, `RULES` the sentences."""

    event_id: str
    org_id: str
    occurred_at: str
    model_id: _Name
    status: Status
    latency_ms: _Milliseconds
    input_tokens: _Tokens
    output_tokens: _Tokens
    cost_estimate_cents: Raw
    actor_id: _Name | UnsetType | None = UNSET
    client_id: _Name | UnsetType | None = UNSET
    error_code: _ErrorCode | UnsetType | None = UNSET
    metadata: dict[str, str] | UnsetType | None = UNSET
    provider: _Provider | UnsetType | None = UNSET
    operation: _Operation | UnsetType | None = UNSET
    api_key_id: _Name | UnsetType | None = UNSET
    cached_input_tokens: _Tokens | UnsetType | None = UNSET
    cache_write_input_tokens: _Tokens | UnsetType | None = UNSET
    reasoning_tokens: _Tokens | UnsetType | None = UNSET
    time_to_first_token_ms: _Milliseconds | UnsetType | None = UNSET


PARTS = {
    "cached_input_tokens": "input_tokens",
    "cache_write_input_tokens": "input_tokens",
    "reasoning_tokens": "output_tokens",
    "time_to_first_token_ms": "latency_ms",
}
"""The fields that hold a part, and the field of its whole."""

_UUID_RULE = "a UUID of 36 characters with hyphens"
_TOKENS_RULE = f"an integer from 0 to {MAX_TOKENS}"
_NAME_RULE = f"a string of 1 to {MAX_NAME_CHARACTERS} characters"

RULES = {
    "event_id": _UUID_RULE,
    "org_id": f"{_UUID_RULE}, not the nil UUID",
    "occurred_at": "an RFC 3339 time with Z or an offset, such as 2026-11-23T09:04:00.250Z",
    "model_id": _NAME_RULE,
    "status": f"one of {', '.join(STATUSES)}",
    "latency_ms": f"an integer from 0 to {MAX_LATENCY_MS}",
    "input_tokens": _TOKENS_RULE,
    "output_tokens": _TOKENS_RULE,
    "cost_estimate_cents": f"a number from 0 to below {COST_LIMIT}",
    "actor_id": f"null or {_NAME_RULE}",
    "client_id": f"null or {_NAME_RULE}",
    "error_code": f"null or a string of 1 to {MAX_ERROR_CODE_CHARACTERS} characters",
    "metadata": f"null or an object of strings, at most {MAX_METADATA_BYTES} bytes as compact JSON",
    "provider": f"null or a string of 1 to {MAX_PROVIDER_CHARACTERS} characters",
    "operation": f"null or a string of 1 to {MAX_OPERATION_CHARACTERS} characters",
    "api_key_id": f"null or {_NAME_RULE}",
    "cached_input_tokens": "null or an integer from 0 to inputTokens",
    "cache_write_input_tokens": "null or an integer from 0 to inputTokens",
    "reasoning_tokens": "null or an integer from 0 to outputTokens",
    "time_to_first_token_ms": "null or an integer from 0 to latencyMs",
}
"""What each field must be, to end the sentence `latencyMs must be …`."""

# What a field means, where its type does not say it all: equal meanings are equal here.
_MEANINGS: dict[str, Callable[[Any], Any]] = {
    "event_id": uuid_text,
    "org_id": org_id_text,
    "occurred_at": instant,
    "cost_estimate_cents": cost_text,
    "metadata": metadata_text,
}


class Field(NamedTuple):
    """How one field is found, decoded and checked. meaning: makes equal values equal; raises ValueError."""

    name: str
    camel_name: str
    decoder: msgspec.json.Decoder[Any]
    meaning: Callable[[Any], Any]
    required: bool


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


FIELDS = [
    Field(
        field.name,
        _camel_case(field.name),
        msgspec.json.Decoder(field.type),
        _MEANINGS.get(field.name, lambda value: value),
        field.required,
    )
    for field in msgspec.structs.fields(Fields)
]
FIELD_BY_SPELLING = {name: field for field in FIELDS for name in (field.name, field.camel_name)}
"""Fields by both of their names."""
