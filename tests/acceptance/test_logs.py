"""One id follows a message from delivery to commit to rollup, and a request from header to answer."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pika

from deploy.local.api import ADMIN
from deploy.local.observer import Observer
from deploy.local.traffic import Router, encode, org
from tests.support.fleet import Fleet, Process
from tests.support.places import TestBroker


def lines(process: Process) -> list[dict[str, Any]]:
    """Return what a process logged; every line of it is JSON."""
    return [json.loads(line) for line in process.log.read_text().splitlines()]


def test_a_message_s_correlation_id_is_in_the_lines_of_its_commit_and_of_its_rollup(
    fleet: Fleet, broker: TestBroker, observer: Observer
) -> None:
    ingestor, worker = fleet.start_ready("ingestor", "rollup_worker")
    now = datetime.now(UTC)
    event = Router(seed=60, start=now - timedelta(minutes=1), end=now).event()
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    properties = pika.BasicProperties(delivery_mode=2, correlation_id="checkout-42")
    connection.channel().basic_publish(broker.exchange, "usage", encode(event), properties)
    connection.close()
    observer.wait_until_settled(received=1)
    [committed] = [line for line in lines(ingestor) if line["event"] == "batch committed"]
    assert (committed["correlation_id"], committed["inserted"]) == ("checkout-42", 1)
    [rolled_up] = [line for line in lines(worker) if line["event"] == "batches rolled up"]
    assert rolled_up["correlation_ids"] == ["checkout-42"]
    assert rolled_up["batch_ids"] == [committed["batch_id"]]


def test_a_request_s_id_comes_back_and_is_in_its_line(fleet: Fleet) -> None:
    [gateway] = fleet.start_ready("gateway")
    path = f"/analytics/v1/orgs/{org(0)}/freshness"
    answer = gateway.get(path, headers=ADMIN | {"X-Request-ID": "night-shift.7"})
    assert answer.headers["X-Request-ID"] == "night-shift.7"
    [line] = [line for line in lines(gateway) if line.get("request_id") == "night-shift.7"]
    assert (line["path"], line["status"], line["decision"]) == (path, 200, "cross-org")
    made = gateway.get(path, headers=ADMIN | {"X-Request-ID": "not fit\u00e9"}).headers["X-Request-ID"]
    assert len(made) == 32
