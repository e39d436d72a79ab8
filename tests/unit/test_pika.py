"""What shared/rabbitmq uses of pika's inside is as it was when that was written.

When this fails after an upgrade: read what changed in the functions named, fix shared/rabbitmq/connection.py
and properties.py, run tests/integration/test_ingestor_*.py, then write the new digest and the new upper bound
in pyproject.toml. Meanwhile RABBITMQ_READ_FRAMES=false runs without the first of the two.
"""

import hashlib
import inspect
import socket
import threading
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pika
import pytest
from pika import connection, frame, spec
from pika.adapters import base_connection
from pika.adapters.utils import io_services_utils as streams

from shared.rabbitmq.session import Loop, Session

ROOT = Path(__file__).resolve().parents[2]
PARTS: dict[str, Any] = {
    "where received bytes arrive": connection.Connection._on_data_available,
    "how a frame is decoded": frame.decode_frame,
    "how a message is sent": connection.Connection._send_message,
    "where frames are sent": connection.Connection._output_marshaled_frames,
    "how large a body frame may be": connection.Connection._get_body_frame_max_length,
    "where the transport is known": base_connection.BaseConnection._proto_connection_made,
    "how much is taken from the socket at once": streams._AsyncTransportBase._consume,
    "how much is not sent yet": streams._AsyncTransportBase.get_write_buffer_size,
    "how the socket is written to": streams._AsyncPlaintextTransport._on_socket_writable,
    "how a TLS socket is written to": streams._AsyncSSLTransport._on_socket_writable,
}
DIGESTS = {
    "where received bytes arrive": "4745dcc9c29e66ea",
    "how a frame is decoded": "fa2babce68b266a0",
    "how a message is sent": "306f311f51ed4e53",
    "where frames are sent": "856452592c11b774",
    "how large a body frame may be": "6ac9d1c190e48696",
    "where the transport is known": "513e9b9b782358e5",
    "how much is taken from the socket at once": "5d3fc19412a05efd",
    "how much is not sent yet": "25798ad3f0c4a4b1",
    "how the socket is written to": "f2325200a15b5c30",
    "how a TLS socket is written to": "f4f264312b4364f7",
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_we_reach_into_is_as_we_know_it(part: str) -> None:
    source = inspect.getsource(PARTS[part])
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == DIGESTS[part]


def test_no_other_pika_than_the_one_we_know_may_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [wanted] = [line for line in project["dependencies"] if line.startswith("pika")]
    assert wanted.endswith(f"<={version('pika')}")


def test_properties_are_decoded_by_ours_wherever_pika_decodes_them() -> None:
    from shared.rabbitmq.properties import TolerantProperties

    deep = b"\x20\x00" + b"".join(size.to_bytes(4, "big") + b"\x01nF" for size in range(21_000, 0, -7))
    encoded = spec.BasicProperties.INDEX.to_bytes(2, "big") + b"\0\0" + bytes(8) + deep
    whole = b"\x02\0\x01" + len(encoded).to_bytes(4, "big") + encoded + b"\xce"
    _consumed, header = frame.decode_frame(whole)
    assert isinstance(header.properties, TolerantProperties)
    assert isinstance(header.properties, pika.BasicProperties)
    assert header.properties.encoded == deep


@pytest.mark.parametrize("read_frames", [True, False])
def test_a_session_is_closed_in_the_middle_of_a_handshake(read_frames: bool) -> None:
    loop, failures = Loop(), list[BaseException]()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        session = Session(
            loop,
            [pika.URLParameters(f"amqp://127.0.0.1:{silent.getsockname()[1]}/")],
            pause_seconds=lambda: 60,
            on_open=lambda _channel: None,
            on_lost=lambda _reason: None,
            on_failed=failures.append,
            read_frames=read_frames,
        )

        def close_once_asked() -> None:
            accepted, _ = silent.accept()
            assert accepted.recv(8) == b"AMQP\0\0\x09\x01"
            loop.add_callback_threadsafe(session.close)
            accepted.recv(1)  # until the other side has closed
            accepted.close()
            loop.add_callback_threadsafe(loop.stop)

        broker = threading.Thread(target=close_once_asked, daemon=True)
        broker.start()
        session.open()
        loop.start()
        broker.join(10)
    assert session.is_closed
    assert failures == []
    loop.close()
