"""The review page: a server for one person's browser on the same machine, and for nobody else.

It listens on loopback. A page of another site cannot use it either: each request has to name this host (else
a name that its owner points here would do), and each call to bear a token that only the address printed on
the terminal holds, in a header, which no form and no link can send.
"""

import io
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping, Sequence
from contextlib import asynccontextmanager
from string import ascii_lowercase, digits
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from model.html_page import page as template
from model.photo import PhotoError, reduced
from model.sagemaker.account import AccountError, translate_aws_errors
from pipeline import PAGES
from pipeline.review_queue import EVERY, UNUSABLE, Photo, ReviewError, ReviewQueue

type Asked = Mapping[str, str]
type Handle = Callable[[Request], Awaitable[Response]]

HEADER = "X-Review-Token"
"""Of the token."""
SHOWN = 1200
"""Pixels of a photo's longer side on the page, at most."""
SKIP, SPOILT = "s", "x"
"""The keys that leave a photo to somebody else, and that call it unusable."""


def keys(labels: Sequence[str]) -> dict[str, str]:
    """Return a key for each label: its first letter that is free, otherwise any letter or digit.

    Raises
    ------
    ReviewError
        There are more labels than keys.
    """
    free = [key for key in (*ascii_lowercase, *digits) if key not in (SKIP, SPOILT)]
    chosen: dict[str, str] = {}
    for label in labels:
        wanted = [letter for letter in label.lower() if letter in free]
        if not free:
            raise ReviewError(f"there are more labels ({len(labels)}) than keys")
        chosen[label] = wanted[0] if wanted else free[0]
        free.remove(chosen[label])
    return chosen


class Session:
    """The photos that are on pages of this server, each under a ticket; its methods are the page's calls.

    Parameters
    ----------
    desk
        Where the photos come from.
    """

    def __init__(self, desk: ReviewQueue) -> None:
        self.desk = desk
        self.token = secrets.token_urlsafe(32)
        self._held: dict[str, Photo] = {}
        self._lock = threading.Lock()

    def take(self, _asked: Asked) -> Any:  # noqa: ANN401  JSON, as of all these
        """Take a photo, and say of it what the page shows."""
        photo = self.desk.take(patience=2)
        if photo is None:
            return {"photo": None, "waiting": 0}
        ticket = secrets.token_urlsafe(16)
        with self._lock:
            self._held[ticket] = photo
        shown = {name: photo.detail.get(name) for name in ("photo", "label", "confidence", "reason")}
        return {"photo": {"ticket": ticket} | shown, "waiting": self.desk.waiting()}

    def keep(self, asked: Asked) -> Any:  # noqa: ANN401
        """Keep a photo: its page is still open."""
        return {"kept": self.desk.keep(self._photo(asked["ticket"]))}

    def answer(self, asked: Asked) -> Any:  # noqa: ANN401
        """Record what a photo shows."""
        outcome = self.desk.answer(self._photo(asked["ticket"]), asked["label"])
        self._drop(asked["ticket"])
        return {"outcome": outcome}

    def skip(self, asked: Asked) -> Any:  # noqa: ANN401
        """Leave a photo to somebody else."""
        self.desk.skip_photo(self._drop(asked["ticket"]))
        return {}

    def release(self, asked: Asked) -> Any:  # noqa: ANN401
        """Give a photo back: its page was closed."""
        self.desk.release(self._drop(asked["ticket"]))
        return {}

    def picture(self, ticket: str) -> bytes:
        """Return a photo as a browser can show it: a JPEG, upright, reduced.

        Raises
        ------
        PhotoError
            It cannot be read.
        """
        file = io.BytesIO()
        reduced(self.desk.content(self._photo(ticket)), SHOWN).save(file, "JPEG", quality=90)
        return file.getvalue()

    def close(self) -> None:
        """Give everything back that is still on a page."""
        with self._lock:
            held, self._held = list(self._held.values()), {}
        for photo in held:
            self.desk.release(photo)

    def _photo(self, ticket: str) -> Photo:
        with self._lock:
            if ticket not in self._held:
                raise ReviewError("this photo is not at your desk any more")
            return self._held[ticket]

    def _drop(self, ticket: str) -> Photo:
        photo = self._photo(ticket)
        with self._lock:
            self._held.pop(ticket, None)
        return photo


def create_app(session: Session, port: int) -> Starlette:
    """Make the application.

    Parameters
    ----------
    session
        Whose photos it shows; what is still held is given back when it ends.
    port
        Where it listens on loopback.
    """
    hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def page(_request: Request) -> Response:
        return render(session.desk.labels)

    async def picture(request: Request) -> Response:
        found = await run_in_threadpool(session.picture, request.path_params["ticket"])
        return Response(found, media_type="image/jpeg")

    def calling(act: Callable[[Asked], Any]) -> Handle:
        async def handle(request: Request) -> Response:
            return JSONResponse(await run_in_threadpool(act, await request.json()))

        return handle

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(session.close)

    calls = (session.take, session.keep, session.answer, session.skip, session.release)
    return Starlette(
        routes=[
            Route("/", guarded(page, hosts)),
            Route("/photo/{ticket}", guarded(picture, hosts, session.token)),
            *(
                Route(f"/{act.__name__}", guarded(calling(act), hosts, session.token), methods=["POST"])
                for act in calls
            ),
        ],
        lifespan=lifespan,
    )


def render(labels: Sequence[str]) -> Response:
    """Write the page, on which no script runs but its own."""
    nonce = secrets.token_urlsafe(16)
    content = template("review.html", PAGES).render(
        nonce=nonce,
        choices=[*keys(labels).items(), (UNUSABLE, SPOILT)],
        unusable=UNUSABLE,
        skip=SKIP,
        header=HEADER,
        every=EVERY,
    )
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(content, headers={"Content-Security-Policy": policy})


def guarded(handle: Handle, hosts: Container[str], token: str = "") -> Handle:
    """Let a request through that is meant for this server and, if need be, bears its token.

    Nothing of what is answered is kept anywhere: photos are not for a browser's cache.
    """

    async def guard(request: Request) -> Response:
        host = request.headers.get("Host", "")
        origin = request.headers.get("Origin", f"http://{host}").removeprefix("http://")
        if host not in hosts or origin not in hosts:
            response = refuse(421, "this server answers for itself alone")
        elif not secrets.compare_digest(
            request.headers.get(HEADER, "").encode() if token else b"", token.encode()
        ):
            response = refuse(403, "open the address that `scones review` printed")
        else:
            response = await explained(handle, request)
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    return guard


async def explained(handle: Handle, request: Request) -> Response:
    """Answer a request, or say in one line why not."""
    try:
        with translate_aws_errors():
            return await handle(request)
    except ReviewError as error:
        return refuse(409, str(error))
    except PhotoError as error:
        return refuse(422, f"the photo cannot be shown: {error}")
    except AccountError as error:
        return refuse(502, str(error))
    except (ValueError, KeyError, TypeError):
        return refuse(400, "this is not what the page sends")


def refuse(status: int, reason: str) -> Response:
    """Answer with an error in one line."""
    return JSONResponse({"error": reason}, status)
