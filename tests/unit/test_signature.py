"""The proxy's proof: what is signed, its test vector, the helper of docs/signatures.md, the setting."""

import hashlib
import hmac
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.access.signature import signed_text
from shared.errors import SettingsError
from shared.settings import GatewaySettings, SignatureKey, load

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "signatures.md").read_text(encoding="utf-8")
[HELPER] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TEXTS = re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL)
SIGNATURES = re.findall(r"X-Actor-Signature: (2026a:[0-9a-f]{64})", PAGE)

names: dict[str, Any] = {}
exec(HELPER, names)  # noqa: S102  the page's own code
sign: Callable[..., dict[str, str]] = names["sign"]

SECRET = "a-secret-for-tests-0123456789abcdef"
GATEWAY = {
    "DATABASE_URL": "postgresql://gateway@db.example/analytics",
    "REDIS_URL": "redis://cache.example",
    "S3_ENDPOINT": "s3.example",
    "S3_ACCESS_KEY": "x",
    "S3_SECRET_KEY": "x",
}
ORG = "000a11ce-0000-4000-8000-000000000000"
POST: dict[str, Any] = {
    "time": "1795824000",
    "method": "POST",
    "target": f"/analytics/v1/orgs/{ORG}/exports",
    "actor": ("alice", "analytics:exports:create", ORG),
    "body": b'{"timeRange": {"start": "2026-11-01T00:00:00Z", "end": "2026-11-08T00:00:00Z"}}',
}
GET: dict[str, Any] = {
    "time": "1795824000",
    "method": "GET",
    "target": f"/analytics/v1/orgs/{ORG}/usage?start=2026-11-01T00:00:00Z&end=2026-11-08T00:00:00%2B01:00",
    "actor": ("operator", "admin", None),
    "body": b"",
}


def headers_of(actor: tuple[str | None, ...]) -> dict[str, str]:
    names = ("X-Actor-Subject", "X-Actor-Roles", "X-Actor-Orgs")
    return {name: value for name, value in zip(names, actor, strict=True) if value is not None}


@pytest.mark.parametrize(("request_", "at"), [(POST, 0), (GET, 1)])
def test_the_page_the_helper_and_the_gateway_agree_on_the_vector(request_: dict[str, Any], at: int) -> None:
    text = signed_text(**request_)
    assert text.decode() == TEXTS[at]
    digest = hmac.new(SECRET.encode(), text, hashlib.sha256).hexdigest()
    assert SIGNATURES[at] == f"2026a:{digest}"
    signed = sign(
        "2026a", SECRET, request_["method"], request_["target"], headers_of(request_["actor"]),
        request_["body"], now=1795824000.9,
    )  # fmt: skip
    assert signed == {"X-Actor-Time": "1795824000", "X-Actor-Signature": SIGNATURES[at]}


# Whatever a header or a request line can hold, and what looks like the lines themselves.
VALUES = st.one_of(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30),
    st.sampled_from(["orgs", "orgs=", "roles=admin", "a\rroles=admin", "subject=a", "=", "body="]),
)
HEADERS = st.none() | VALUES.map(lambda text: text.strip(" \t"))
REQUESTS = st.fixed_dictionaries(
    {
        "time": st.integers(1, 10**12 - 1).map(str),
        "method": st.sampled_from(["GET", "HEAD", "POST", "DELETE"]),
        "target": VALUES,
        "actor": st.tuples(HEADERS, HEADERS, HEADERS),
        "body": st.binary(max_size=20),
    }
)


@given(REQUESTS, REQUESTS)
def test_two_different_requests_have_different_texts(one: dict[str, Any], other: dict[str, Any]) -> None:
    assume(one != other)
    assert signed_text(**one) != signed_text(**other)


@given(REQUESTS, REQUESTS, st.data())
def test_a_change_of_any_one_field_changes_the_text(
    one: dict[str, Any], other: dict[str, Any], data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from(sorted(one)))
    if field == "actor":
        at = data.draw(st.integers(0, 2))
        changed = tuple(other["actor"][n] if n == at else one["actor"][n] for n in range(3))
    else:
        changed = other[field]
    assume(changed != one[field])
    assert signed_text(**one) != signed_text(**{**one, field: changed})


@given(REQUESTS)
def test_the_helper_signs_what_the_gateway_checks(request_: dict[str, Any]) -> None:
    signed = sign(
        "k", SECRET, request_["method"], request_["target"], headers_of(request_["actor"]),
        request_["body"], now=int(request_["time"]),
    )  # fmt: skip
    digest = hmac.new(SECRET.encode(), signed_text(**request_), hashlib.sha256).hexdigest()
    assert signed == {"X-Actor-Time": request_["time"], "X-Actor-Signature": f"k:{digest}"}


def test_absent_empty_and_blank_headers_are_told_apart_as_the_rules_for_actors_do() -> None:
    def text(orgs: str | None) -> bytes:
        return signed_text(**{**GET, "actor": ("a", "b", orgs)})

    assert text(None) != text("")
    assert text(" \t") == text("")
    assert text("\xa0") != text("")


@pytest.mark.parametrize("field", ["time", "method", "target", "subject", "roles", "orgs"])
def test_a_line_feed_is_never_signed(field: str) -> None:
    forged = "x\nroles=admin"
    actor = tuple(forged if field == name else "x" for name in ("subject", "roles", "orgs"))
    changed = {**GET, "actor": actor} | ({field: forged} if field in GET else {})
    with pytest.raises(ValueError, match="line break"):
        signed_text(**changed)
    if field != "time":
        with pytest.raises(ValueError, match="line feed"):
            sign("k", SECRET, changed["method"], changed["target"], headers_of(actor))


def keys(text: str) -> tuple[SignatureKey, ...]:
    return load(GatewaySettings, GATEWAY | {"ACTOR_SIGNATURE_KEYS": text}).actor_signature_keys


def test_one_key_or_two_are_read() -> None:
    assert load(GatewaySettings, GATEWAY).actor_signature_keys == ()
    assert keys("") == ()
    assert keys(f"2026a:{SECRET}") == (SignatureKey("2026a", SECRET.encode()),)
    assert [key.name for key in keys(f"new:{SECRET},old:{SECRET[::-1]}")] == ["new", "old"]
    assert len(keys(f"a:{'x' * 256}")[0].secret) == 256


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hunter7", "number 1, that is not like name:secret"),
        (SECRET, "number 1, that is not like name:secret"),
        ("a:hunter7", "secret is not 32 to 256"),
        (f"a:hunter7{'x' * 24}", "secret is not 32 to 256"),  # 31
        (f"a:hunter7{'x' * 250}", "secret is not 32 to 256"),  # 257
        (f"a:hunter7:{SECRET}", "secret is not 32 to 256"),
        (f"a: hunter7{SECRET}", "secret is not 32 to 256"),
        (f"a:hunter7ü{SECRET}", "secret is not 32 to 256"),
        (f":hunter7{SECRET}", "name is not 1 to 32"),
        (f"{'n' * 33}:hunter7{SECRET}", "name is not 1 to 32"),
        (f"a b:hunter7{SECRET}", "name is not 1 to 32"),
        (f"a:hunter7{SECRET},", "number 2, that is not like name:secret"),
        (f"a:hunter7{SECRET}, b:x{SECRET}", "number 2, whose name"),
        (f"a:hunter7{SECRET},a:x{SECRET}", "two keys of one name"),
        (f"a:hunter7{SECRET},b:hunter7{SECRET}", "two keys with one secret"),
        (f"a:hunter7{SECRET},b:1{SECRET},c:2{SECRET}", "has 3 keys; at most 2 are live"),
    ],
)
def test_anything_else_stops_the_process_without_showing_a_secret(text: str, why: str) -> None:
    with pytest.raises(SettingsError) as raised:
        keys(text)
    [fault] = raised.value.faults
    assert fault.startswith("ACTOR_SIGNATURE_KEYS ")
    assert why in fault
    assert "hunter7" not in fault
    assert SECRET not in fault


def test_every_fault_of_the_keys_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as raised:
        keys(f"a:short,b c:{SECRET},c:{SECRET}")
    [fault] = raised.value.faults
    assert all(word in fault for word in ("number 1", "number 2", "has 3 keys"))


def test_the_log_at_start_shows_the_names_and_no_secret() -> None:
    slashes = "//" + SECRET  # looks like the beginning of a URL
    environ = GATEWAY | {
        "ACTOR_SIGNATURE_KEYS": f"a:{SECRET},b:{slashes}",
        "S3_SECRET_KEY": "hunter8://hunter9",
    }
    settings = load(GatewaySettings, environ)
    assert settings.masked["ACTOR_SIGNATURE_KEYS"] == "a:***,b:***"
    assert settings.masked["S3_SECRET_KEY"] == "***"
    assert SECRET not in repr(settings.actor_signature_keys)
