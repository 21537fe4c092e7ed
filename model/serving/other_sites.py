"""Keep web pages of other sites away from a server on this machine.

Any page in the user's browser can send requests to 127.0.0.1, and does not need to read the answers. Browsers
say where a request comes from: in `Origin`, with every POST, and in `Sec-Fetch-Site` (W3C, "Fetch Metadata
Request Headers"). Through a name that resolves to this machine (DNS rebinding), a page is of the same origin
as the server: then only `Host` tells.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL_NAMES = {"localhost", "host.docker.internal"}
"""Names of this machine that no one else can define; the second is Docker Desktop's, for containers."""


class RefuseOtherSites:
    """An ASGI application that refuses what pages of other sites send, and passes on everything else.

    With `pages`, the application behind it has pages of its own, whose requests are passed on.
    """

    def __init__(self, app: ASGIApp, *, pages: bool = False) -> None:
        self.app, self.pages = app, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request (ASGI)."""
        if scope["type"] == "lifespan" or is_own(Headers(scope=scope), pages=self.pages):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            refusal = JSONResponse({"error": "Other hosts and other sites are refused."}, 403)
            await refusal(scope, receive, send)


def is_own(headers: Mapping[str, str], *, pages: bool) -> bool:
    """Tell whether a request comes from a program, or with `pages` from a page of the same server."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if not is_local(host):
        return False
    if origin is not None and not (pages and origin == f"http://{host}"):
        return False
    return headers.get("sec-fetch-site", "none") in ({"none", "same-origin"} if pages else {"none"})


def is_local(host: str) -> bool:
    """Tell whether a `Host` is an address or a name of this machine, which no DNS server can redirect."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in LOCAL_NAMES or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
