"""Keep web browsers away from a server on this machine that is for programs.

Any page in the user's browser can send requests to 127.0.0.1, and does not need to read the answers. A script
can neither remove what tells a browser's request, nor replace it without asking the server first (CORS), in a
request that has an `Origin`:

- `Origin` comes with every POST, and with everything that needs permission (Fetch, "HTTP extensions").
- `Sec-Fetch-Site` comes with every request to loopback (W3C, "Fetch Metadata Request Headers"). No value of
  it is accepted: if an address that the user opened redirects to a signed GET, it is ``none``.
- `User-Agent` is all there is in a GET to Docker's bridge, because plain HTTP there is not trustworthy.
- `Host` is a foreign name if a page's owner pointed one at this machine (DNS rebinding).
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL_NAMES = {"localhost", "host.docker.internal"}
"""Names of this machine that no one else can define; the second is Docker Desktop's, for containers."""
BROWSER = "Mozilla/"
"""Start of browsers' `User-Agent`; those of SDKs, the AWS CLI and curl start with their own names."""


class RefuseBrowsers:
    """An ASGI application that refuses what browsers send, and passes on everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request (ASGI)."""
        if scope["type"] == "lifespan" or is_from_program(Headers(scope=scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            refusal = JSONResponse({"error": "Requests of web browsers and to other hosts are refused."}, 403)
            await refusal(scope, receive, send)


def is_from_program(headers: Mapping[str, str]) -> bool:
    """Tell whether a request to this machine comes from a program other than a browser."""
    if "origin" in headers or "sec-fetch-site" in headers:
        return False
    return is_local(headers.get("host", "")) and not headers.get("user-agent", "").startswith(BROWSER)


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
