"""The local emulator with fault injection: AWS services that refuse, break, are slow, or answer nonsense.

Run as ``hypercorn tests.faults:app`` in place of ``local.emulator:app``; without faults it behaves the same.
``PUT /faults`` sets a list of faults, ``DELETE`` releases what they hold, and ``GET`` returns how often each
place was struck.

Calls of the functions go through this server and are intercepted here. The state machine's own calls and
EventBridge's deliveries happen inside the emulator, so the functions that make them are wrapped.
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
    """A fault at a place.

    ``place`` is ``endpoint``, ``s3`` (a function reads a photo), a call of the state machine such as
    ``dynamodb:putItem``, or ``target:`` and the end of a rule target's name. Each ``every``-th call is
    struck, at most ``times``. After ``seconds``, it is answered with ``status``, ``headers`` and ``body``, or
    fails with ``error``; with neither it goes on. With ``answer_lost`` it takes effect before it fails. A
    request that is ``held`` stays until ``DELETE /faults`` releases it.
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
    held: bool = False
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
    """Return the fault that is due at a place, if any, and count it."""
    with lock:
        for fault in faults:
            if fault.place == place and fault.strikes():
                struck[place] += 1
                return fault
    return None


async def control(request: Request) -> Response:
    """Set new faults, release held requests, or return how often the current faults struck."""
    if request.method == "DELETE":
        for fault in faults:
            fault.held = False
    if request.method == "PUT":
        with lock:
            faults[:] = [Fault(**fault) for fault in await request.json()]
            struck.clear()
    return JSONResponse(struck)


def place_of(scope: Scope) -> str:
    """Return the place that a function's request is for; only those are signed with a role's key."""
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
    while fault.held:
        await asyncio.sleep(0.02)
    if not fault.status:
        return await emulator.app(scope, receive, send)
    response = Response(fault.body, fault.status, fault.headers or {}, "application/json")
    return await response(scope, receive, send)


def inject_into_calls(invoke: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Inject faults into the state machine's calls."""

    def invoke_resource(resource: str, arguments: Any) -> Any:
        fault = strike(resource.removeprefix("arn:aws:states:::"))
        if fault is None:
            return invoke(resource, arguments)
        if fault.answer_lost:
            invoke(resource, arguments)
        time.sleep(fault.seconds)
        raise stepfunctions._ExecutionError(fault.error, "injected by a test")

    return invoke_resource


def inject_into_deliveries(deliver: Callable[..., None]) -> Callable[..., None]:
    """Inject faults into EventBridge's deliveries: the event goes to the dead-letter queue at once.

    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html; ministack has none.
    """

    def invoke_target(target: dict[str, Any], event: Any, rule: Any, view: Any = None) -> None:
        resource = target["Arn"].rpartition(":")[2]
        due = [fault.place for fault in faults if fault.place.removeprefix("target:") in resource]
        if any(strike(place) for place in due if place.startswith("target:")):
            viewed = view or eventbridge._pattern_event_view(event)
            queue = parse_arn(target["DeadLetterConfig"]["Arn"])
            eventbridge._dispatch_to_sqs(queue, json.dumps(viewed.event_with_detail()))
        else:
            deliver(target, event, rule, view)

    return invoke_target


stepfunctions._invoke_resource = inject_into_calls(stepfunctions._invoke_resource)
eventbridge._invoke_target = inject_into_deliveries(eventbridge._invoke_target)
