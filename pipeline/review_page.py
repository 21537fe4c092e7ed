"""Serve the review page to one person's browser on this machine.

The server listens on loopback only. Pages of other sites cannot use it either: each request must name this
host, which stops DNS rebinding, and each call must have a token in a header, which no form or link can send.
Only the address printed on the terminal contains the token.
"""

import io
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from string import ascii_lowercase, digits
from typing import Any

import uvicorn
from botocore.exceptions import BotoCoreError, ClientError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from model.foreign_text import printable
from model.html_page import page
from model.photo import PhotoError, reduced
from model.sagemaker.account import explain
from model.serving.listener import listen
from pipeline import PAGES
from pipeline.review_queue import EXTEND_INTERVAL, UNUSABLE, ReviewError, ReviewItem, ReviewQueue

type Body = Mapping[str, str]
type Handler = Callable[[Request], Awaitable[Response]]

TOKEN_HEADER = "X-Review-Token"  # noqa: S105  the name of a header
MAX_SIDE = 1200
"""The most pixels of a photo's longer side on the page."""
SKIP_KEY, UNUSABLE_KEY = "s", "x"
"""The keys that skip a photo and that answer `UNUSABLE`."""
RESPONSE_HEADERS = {  # photos must not stay in the browser's cache
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
HANDLED_ERRORS = (
    *(ReviewError, PhotoError, BotoCoreError, ClientError),
    *(ValueError, KeyError, TypeError, RecursionError),
)


def assign_keys(labels: Sequence[str]) -> dict[str, str]:
    """Assign each label its first free letter, or any free key; raise `ReviewError` if there are too few."""
    free = [key for key in (*ascii_lowercase, *digits) if key not in (SKIP_KEY, UNUSABLE_KEY)]
    if len(labels) > len(free):
        raise ReviewError(f"There are more labels ({len(labels)}) than keys ({len(free)}).")
    assigned: dict[str, str] = {}
    for label in labels:
        assigned[label] = next((letter for letter in label.lower() if letter in free), free[0])
        free.remove(assigned[label])
    return assigned


class ReviewSession:
    """The photos that are open on pages, each under a ticket; `calls` are the page's JSON routes."""

    def __init__(self, queue: ReviewQueue) -> None:
        self.queue = queue
        self.token = secrets.token_urlsafe(32)
        self._items: dict[str, ReviewItem] = {}  # used by several threads, by atomic operations
        self.calls: dict[str, Callable[[Body], object]] = {
            "receive": self._receive,
            "extend": lambda body: {"extended": queue.extend(self._find(body["ticket"]))},
            "answer": self._answer,
            "skip": lambda body: queue.skip(self._find(body["ticket"], remove=True)),
            "release": lambda body: queue.release(self._find(body["ticket"], remove=True)),
        }

    def _receive(self, _body: Body) -> dict[str, Any]:
        item = self.queue.receive(patience=2)
        if item is None:
            return {"photo": None, "waiting": 0}
        ticket = secrets.token_urlsafe(16)
        self._items[ticket] = item
        shown = {name: printable(item.detail[name]) for name in ("photo", "label", "reason")}
        photo = {"ticket": ticket, "confidence": item.detail["confidence"]} | shown
        return {"photo": photo, "waiting": self.queue.approximate_waiting()}

    def _answer(self, body: Body) -> dict[str, Any]:
        status = self.queue.answer(self._find(body["ticket"]), body["label"])
        self._find(body["ticket"], remove=True)
        return {"status": status, "message": status.message}

    def render_photo(self, ticket: str) -> bytes:
        """Return a photo as an upright JPEG of limited size, which any browser can show."""
        file = io.BytesIO()
        reduced(self.queue.read_photo(self._find(ticket)), MAX_SIDE).save(file, "JPEG", quality=90)
        return file.getvalue()

    def close(self) -> None:
        """Release every photo that is still open."""
        for ticket in list(self._items):
            if item := self._items.pop(ticket, None):
                self.queue.release(item)

    def _find(self, ticket: str, *, remove: bool = False) -> ReviewItem:
        item = self._items.pop(ticket, None) if remove else self._items.get(ticket)
        if item is None:
            raise ReviewError("This photo is no longer assigned to you.")
        return item


def serve(queue: ReviewQueue, port: int, announce: Callable[[str], object]) -> None:
    """Serve the page on loopback until Ctrl-C or SIGTERM; `announce` receives its address with the token."""
    assign_keys(queue.labels)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    session = ReviewSession(queue)
    with suppress(KeyboardInterrupt), listen("127.0.0.1", port) as listener:
        bound = listener.getsockname()[1]
        announce(f"http://127.0.0.1:{bound}/#{session.token}")
        config = uvicorn.Config(
            create_app(session, bound), log_level="warning", access_log=False, timeout_graceful_shutdown=2
        )
        uvicorn.Server(config).run(sockets=[listener])


def create_app(session: ReviewSession, port: int) -> Starlette:
    """Create the application that serves a session on this port."""

    async def photo(request: Request) -> Response:
        content = await run_in_threadpool(session.render_photo, request.path_params["ticket"])
        return Response(content, media_type="image/jpeg")

    async def run(call: Callable[[Body], object], request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(call, await request.json()))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(session.close)

    calls = [Route(f"/{name}", partial(run, call), methods=["POST"]) for name, call in session.calls.items()]
    return Starlette(
        routes=[
            Route("/", partial(_render_page, session.queue.labels)),
            Route("/photo/{ticket}", photo),
            *calls,
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=partial(_guard, port, session.token))],
        exception_handlers=dict.fromkeys(HANDLED_ERRORS, _handle_error),
        lifespan=lifespan,
    )


async def _render_page(labels: Sequence[str], _request: Request) -> Response:
    """Render the page with a content security policy that allows only the page's own script."""
    nonce = secrets.token_urlsafe(16)
    content = page("review.html", PAGES).render(
        nonce=nonce,
        choices=[*assign_keys(labels).items(), (UNUSABLE, UNUSABLE_KEY)],
        skip=SKIP_KEY,
        header=TOKEN_HEADER,
        interval=EXTEND_INTERVAL,
    )
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(content, headers={"Content-Security-Policy": policy})


async def _guard(port: int, token: str, request: Request, call_next: Handler) -> Response:
    """Refuse requests to other hosts, from other origins and, except for the page, without the token."""
    hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
    host = request.headers.get("Host", "")
    origin = request.headers.get("Origin", f"http://{host}").removeprefix("http://")
    given = request.headers.get(TOKEN_HEADER, "")
    if host not in hosts or origin not in hosts:
        response: Response = _refuse(421, "Other hosts and other sites are refused.")
    elif request.url.path != "/" and not secrets.compare_digest(given.encode(), token.encode()):
        response = _refuse(403, "Open the address that `scones review` printed.")
    else:
        response = await call_next(request)
    response.headers.update(RESPONSE_HEADERS)
    return response


def _handle_error(_request: Request, error: Exception) -> Response:
    match error:
        case ReviewError():
            return _refuse(409, str(error))
        case PhotoError():
            return _refuse(422, f"The photo cannot be shown: {error}")
        case BotoCoreError() | ClientError():
            return _refuse(502, explain(error))
    return _refuse(400, "The page did not send what this call needs.")


def _refuse(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": printable(reason)}, status)
