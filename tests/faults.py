"""The local emulator, with faults: what of AWS refuses, breaks, is slow, or answers nonsense.

Run as ``hypercorn tests.faults:app`` in place of ``local.emulator:app``; without faults it is the same.
``PUT /faults`` takes a list of them; ``GET /faults`` tells how often each place was struck.

A function's calls go through this server, and are struck on their way. The state machine's own calls and
EventBridge's deliveries are made inside the emulator: there the call itself is wrapped, where the service
would have answered.
"""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ministack.core.arn import parse_arn
from ministack.services import eventbridge, stepfunctions
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from local import emulator


@dataclass
class Fault:
    """What happens at a place.

    ``place`` is ``endpoint``, ``s3`` (a function reads a photo), a call of the state machine such as
    ``dynamodb:putItem``, or ``target:`` and the end of a rule's target. Of its calls, each ``every``-th is
    struck, ``times`` at most. After ``seconds``, it is answered with ``status``, ``headers`` and ``body``, or
    fails with ``error``; with neither it goes on. ``answer_lost`` lets it have its effect before.
    """

    place: str
    every: int = 1
    times: int = 1_000_000
    seconds: float = 0
    status: int = 0
    headers: dict[str, str] | None = None
    body: str = ""
    error: str = ""
    answer_lost: bool = False
    calls: int = 0

    def strikes(self) -> bool:
        self.calls += 1
        struck = self.times > 0 and self.calls % self.every == 0
        self.times -= struck
        return struck


faults: list[Fault] = []
struck: Counter[str] = Counter()
lock = threading.Lock()


def strike(place: str) -> Fault | None:
    """The fault that is due at a place, if there is one."""
    with lock:
        for fault in faults:
            if fault.place == place and fault.strikes():
                struck[place] += 1
                return fault
    return None


async def control(request: Request) -> Response:
    """Take new faults, or tell how often the present ones struck."""
    if request.method == "PUT":
        with lock:
            faults[:] = [Fault(**fault) for fault in await request.json()]
            struck.clear()
    return JSONResponse(struck)


def place_of(scope: Scope) -> str:
    """Where a request of a function's goes: only those are signed with a role's key."""
    signed = dict(scope["headers"]).get(b"authorization", b"")
    if emulator.INVOCATIONS.fullmatch(scope["path"]):
        return "endpoint"
    if scope["method"] == "GET" and b"Credential=ASIA" in signed and b"/s3/aws4_request" in signed:
        return "s3"
    return ""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the emulator, unless a fault is due."""
    if scope["type"] == "http" and scope["path"] == "/faults":
        answer = await control(Request(scope, receive))
        return await answer(scope, receive, send)
    fault = strike(place_of(scope)) if scope["type"] == "http" else None
    if fault is None:
        return await emulator.app(scope, receive, send)
    await asyncio.sleep(fault.seconds)
    if not fault.status:
        return await emulator.app(scope, receive, send)
    response = Response(fault.body, fault.status, fault.headers or {}, "application/json")
    return await response(scope, receive, send)


def faulty(invoke: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Have the state machine's calls struck."""

    def invoke_resource(resource: str, arguments: Any) -> Any:
        fault = strike(resource.removeprefix("arn:aws:states:::"))
        if fault is None:
            return invoke(resource, arguments)
        if fault.answer_lost:
            invoke(resource, arguments)
        time.sleep(fault.seconds)
        raise stepfunctions._ExecutionError(fault.error, "a fault of the test's")

    return invoke_resource


def refusing(deliver: Callable[..., None]) -> Callable[..., None]:
    """Have EventBridge's deliveries struck: the event goes to the dead-letter queue, as after all retries.

    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html; ministack has none.
    """

    def invoke_target(target: dict[str, Any], event: Any, rule: Any, view: Any = None) -> None:
        resource = target["Arn"].rpartition(":")[2]
        due = [fault.place for fault in faults if fault.place.removeprefix("target:") in resource]
        if any(strike(place) for place in due if place.startswith("target:")):
            seen = view or eventbridge._pattern_event_view(event)
            queue = parse_arn(target["DeadLetterConfig"]["Arn"])
            eventbridge._dispatch_to_sqs(queue, json.dumps(seen.event_with_detail()))
        else:
            deliver(target, event, rule, view)

    return invoke_target


stepfunctions._invoke_resource = faulty(stepfunctions._invoke_resource)
eventbridge._invoke_target = refusing(eventbridge._invoke_target)
