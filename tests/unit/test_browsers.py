"""Requests of web pages are told from those of programs by their headers."""

import asyncio

import httpx
import pytest
from starlette.responses import PlainTextResponse

from model.serving.browsers import RefuseBrowsers, is_local

OWN = "http://127.0.0.1:4566"


def ask(headers: dict[str, str], *, method: str = "POST") -> httpx.Response:
    async def request() -> httpx.Response:
        app = RefuseBrowsers(PlainTextResponse("served"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            return await client.request(method, f"{OWN}/any", headers=headers)

    return asyncio.run(request())


FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
PROGRAMS = [
    {},
    {"User-Agent": "Boto3/1.40.0 md/Botocore#1.40.0"},
    {"User-Agent": "curl/8.5.0"},
    {"Host": "localhost:4566"},
    {"Host": "host.docker.internal:4566"},
]
BROWSERS = [
    {"Origin": OWN},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "same-origin"},
    {"User-Agent": FIREFOX},
    {"Host": "172.17.0.1:4566", "User-Agent": FIREFOX},
    {"Origin": "https://example.com"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:8000"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Host": "rebound.example.com:4566"},
    {"Host": "rebound.example.com:4566", "Origin": "http://rebound.example.com:4566"},
    {"Host": "127.0.0.1.example.com"},
    {"Host": ""},
]


@pytest.mark.parametrize("headers", PROGRAMS)
def test_programs_are_served(headers):
    assert ask(headers).text == "served"


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("headers", BROWSERS)
def test_browsers_are_refused_and_told_nothing(method, headers):
    answer = ask(headers, method=method)

    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_web_sockets_of_other_sites_are_closed_before_they_open():
    sent = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    headers = [(b"host", b"127.0.0.1:4566"), (b"origin", b"https://example.com")]
    app = RefuseBrowsers(PlainTextResponse("served"))
    asyncio.run(app({"type": "websocket", "headers": headers}, receive, send))

    assert sent == ["websocket.close"]


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("172.17.0.1", True),
        ("bucket.localhost:1", True),
        ("localhost.example.com", False),
        ("example.com", False),
        ("[::1", False),
    ],
)
def test_only_addresses_and_names_of_this_machine_are_local(host, local):
    assert is_local(host) is local
