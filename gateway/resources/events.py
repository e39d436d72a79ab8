"""Answers what is wrong with an event, before it is published."""

from typing import ClassVar

import falcon

from gateway.access.authorize import ANY_ACTOR
from gateway.http.bodies import read_body
from gateway.http.params import Params
from gateway.http.problems import Fault, Problem
from shared.clock import Clock
from shared.usage_event.decode import decode_event, split_message
from shared.usage_event.schema import MAX_MESSAGE_BYTES, InvalidEvent

_MAX_FAULTS = 1000


class ValidateResource:
    """POST /events/validate"""

    NEEDS: ClassVar = {"POST": ANY_ACTOR}

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Judge a message as the ingestor would; 204 when every event of it is valid."""
        Params(req.query_string).check()
        faults = self._faults(read_body(req, max_bytes=MAX_MESSAGE_BYTES))
        if faults:
            raise Problem.invalid(faults)
        resp.status = 204

    def _faults(self, body: bytes) -> list[Fault]:
        now = self._clock()
        try:
            elements = split_message(body)
        except InvalidEvent as error:
            return _named(error, "")
        faults: list[Fault] = []
        is_batch = not body.lstrip().startswith(b"{")
        for at, element in enumerate(elements):
            try:
                decode_event(element, now)
            except InvalidEvent as error:
                faults += _named(error, f"[{at}]" if is_batch else "")
                if len(faults) > _MAX_FAULTS:
                    break
        return faults[:_MAX_FAULTS]


def _named(error: InvalidEvent, place: str) -> list[Fault]:
    return [
        Fault(
            field=f"{place}{'.' if place and fault.field else ''}{fault.field}",
            reason=fault.detail.removeprefix(f"{fault.field} "),
        )
        for fault in error.faults
    ]
