"""No 5xx from any client input: made-up paths, queries, headers and bodies over real servers."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.local.traffic import org
from tests.support.gateway_app import DOCUMENT, PREFIX, Gateway

# gunicorn passes on header values as Latin-1 without NUL, CR and LF.
header_values = st.text(st.characters(max_codepoint=255, exclude_characters="\0\r\n"), max_size=60)
texts = st.text(max_size=40)

ids = st.sampled_from([org(0), org(0).upper(), org(1), "00000000-0000-0000-0000-000000000000", "x"]) | texts
documented = st.sampled_from(
    [
        (method.upper(), path)
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if method in {"get", "post"} and path != "/metrics"
    ]
)
requests = st.builds(
    lambda pair, first, second: (
        pair[0],
        pair[1].replace("{orgId}", first).replace("{jobId}", second),
    ),
    documented,
    ids,
    ids,
) | st.tuples(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]), texts.map(lambda text: f"/{text}")
)

times = st.datetimes().map(lambda time: time.isoformat() + "Z") | st.sampled_from(
    [
        "2026-11-01T00:00:00Z",
        "2026-11-02T00:00:00%2B01:00",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "",
    ]
)
names = sorted(
    {parameter["name"] for parameter in DOCUMENT["components"]["parameters"].values()}
    | {"percentile", "status", "limit", "cursor", "maxRows"}
)
words = st.sampled_from(
    ["hour", "day", "minute", "p95", "success", "1", "-1", "0", "9" * 30, "%00", "%", "%FF"]
)
queries = st.lists(
    st.tuples(st.sampled_from(names) | texts, times | words | texts).map("=".join), max_size=6
).map("&".join)

roles = st.sampled_from(
    [
        "admin",
        "analytics:usage:read",
        f"org:{org(0)}:admin",
        "analytics:exports:read, analytics:exports:create",
    ]
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "X-Actor-Subject": st.just("fuzz") | header_values,
        "X-Actor-Roles": roles | header_values,
        "X-Actor-Orgs": st.sampled_from([org(0), f"{org(0)},{org(1)}", ""]) | header_values,
        "X-Request-ID": header_values,
        "If-None-Match": st.sampled_from(["*", '"a"', 'W/"a"', '"', "W/", ","]) | header_values,
        "If-Modified-Since": header_values,
        "Accept": header_values,
        "Content-Type": st.sampled_from(["application/json", "multipart/form-data"]) | header_values,
        "Range": header_values,
        "Forwarded": header_values,
        "X-Forwarded-Proto": header_values,
    },
)
admins = st.just({"X-Actor-Subject": "fuzz", "X-Actor-Roles": "admin"})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def _no_5xx(gateway: Gateway, data: st.DataObject) -> None:
    method, path = data.draw(requests)
    path = path.encode("utf-8", "replace").decode().replace("?", "%3F")
    query = data.draw(queries).encode("utf-8", "replace").decode("latin-1").lstrip("?")  # falcon's client
    given_headers = data.draw(admins | headers)
    body = data.draw(st.none() | st.binary(max_size=200) | json_values.map(repr).map(_as_bytes))
    answer = gateway.call(method, path, given_headers, query=query, body=body)
    assert answer.status_code < 500, answer.text


def _as_bytes(text: str) -> bytes:
    return text.replace("'", '"').encode("utf-8", "surrogatepass")


@pytest.mark.filterwarnings("default::Warning:falcon.*")
def test_no_client_input_makes_a_5xx(environ: dict[str, str]) -> None:
    _no_5xx(Gateway(environ))


def test_an_export_s_body_of_any_kind_makes_no_5xx(environ: dict[str, str]) -> None:
    @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(body=json_values.map(repr).map(_as_bytes) | st.binary(max_size=100))
    def try_body(body: bytes) -> None:
        actor = {"X-Actor-Subject": "fuzz", "X-Actor-Roles": "admin"}
        answer = gateway.call("POST", f"{PREFIX}/orgs/{org(0)}/exports", actor, body=body)
        assert answer.status_code < 500, answer.text

    gateway = Gateway(environ)
    try_body()
