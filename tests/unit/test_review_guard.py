"""What keeps other pages, other people and other programs away from the review page."""

import io
import re
import warnings
from collections.abc import Iterator

import pytest
from PIL import Image

from pipeline import sample_images
from pipeline.review_page import MAX_SIDE, TOKEN_HEADER, ReviewSession, create_app, serve
from pipeline.review_queue import ReviewError, ReviewItem
from tests.unit.test_review_routes import Queue

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

HOST = "127.0.0.1:8080"
CALLS = ("receive", "extend", "answer", "skip", "release")


@pytest.fixture
def session() -> ReviewSession:
    return ReviewSession(Queue())


@pytest.fixture
def client(session) -> Iterator[TestClient]:
    with TestClient(create_app(session, 8080), base_url=f"http://{HOST}") as client:
        yield client


def policy(client: TestClient) -> dict[str, str]:
    """The directives of the page's content security policy."""
    header = client.get("/").headers["Content-Security-Policy"]
    return {name: " ".join(values) for name, *values in map(str.split, header.split(";"))}


def test_the_page_runs_its_own_script_alone_and_sends_nothing_elsewhere(client):
    directives = policy(client)

    assert directives["default-src"] == "'none'"
    assert directives["connect-src"] == "'self'"
    assert directives["img-src"] == "blob:"
    assert directives["base-uri"] == directives["form-action"] == "'none'"
    assert re.fullmatch(r"'nonce-[\w-]{22}'", directives["script-src"])


def test_no_other_page_can_frame_the_review(client):
    """A transparent frame could make a reviewer click an answer."""
    assert policy(client)["frame-ancestors"] == "'none'"


def test_the_policys_nonce_is_the_scripts_and_new_in_each_response(client):
    pages = [client.get("/") for _ in range(2)]
    nonces = [re.search(r"'nonce-([^']+)'", page.headers["Content-Security-Policy"])[1] for page in pages]

    for page, nonce in zip(pages, nonces, strict=True):
        assert set(re.findall(r"<script[^>]*>", page.text)) == {f'<script nonce="{nonce}">'}
    assert nonces[0] != nonces[1]


def test_each_session_has_a_token_that_cannot_be_guessed(session):
    other = ReviewSession(Queue())

    assert session.token != other.token
    assert re.fullmatch(r"[\w-]{43}", session.token)  # 256 bits in base64


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("token", [None, "", "x", lambda token: token[:-1], lambda token: token + "x"])
def test_a_call_without_exactly_the_token_is_refused(client, session, call, token):
    given = token(session.token) if callable(token) else token
    headers = {} if given is None else {TOKEN_HEADER: given}

    refused = client.post(f"/{call}", json={}, headers=headers)

    assert refused.status_code == 403
    assert refused.json() == {"error": "Open the address that `scones review` printed."}
    assert session._items == {}


def test_a_photo_needs_the_token_too(client, session):
    ticket = session.calls["receive"]({})["photo"]["ticket"]

    assert client.get(f"/photo/{ticket}").status_code == 403
    assert client.get(f"/photo/{ticket}", headers={TOKEN_HEADER: session.token}).status_code == 200


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_never_a_get_which_a_link_could_send(client, session, call):
    assert client.get(f"/{call}", headers={TOKEN_HEADER: session.token}).status_code == 405


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080"])
def test_the_page_is_shown_under_its_own_names(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 200
    assert client.get("/", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:8081"},
        {"Host": "localhost.evil.example:8080"},
        {"Host": ""},
        {"Origin": "http://127.0.0.1:8081"},
        {"Origin": "https://127.0.0.1:8080"},
        {"Origin": "null"},
        {"Origin": ""},
    ],
)
def test_another_host_or_origin_is_refused_even_with_the_token(client, session, headers):
    refused = client.post("/receive", json={}, headers={TOKEN_HEADER: session.token} | headers)

    assert refused.status_code == 421
    assert "Other hosts and other sites are refused." in refused.text
    assert session._items == {}


@pytest.mark.parametrize("path", ["/", "/photo/1", "/nowhere"])
def test_no_response_is_kept_sniffed_or_names_where_it_came_from(client, session, path):
    headers = client.get(path, headers={TOKEN_HEADER: session.token}).headers

    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_each_photo_has_a_ticket_that_cannot_be_guessed(session):
    tickets = [session.calls["receive"]({})["photo"]["ticket"] for _ in range(2)]

    assert tickets[0] != tickets[1]
    assert all(re.fullmatch(r"[\w-]{22}", ticket) for ticket in tickets)  # 128 bits


class Recorder(Queue):
    """A review queue that notes what is done with its photo."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[str, str]] = []

    def extend(self, item: ReviewItem) -> bool:
        self.done.append(("extend", item.receipt))
        return True

    def skip(self, item: ReviewItem) -> None:
        self.done.append(("skip", item.receipt))

    def release(self, item: ReviewItem) -> None:
        self.done.append(("release", item.receipt))


@pytest.mark.parametrize(
    ("call", "answer", "ends"),
    [("extend", {"extended": True}, False), ("skip", None, True), ("release", None, True)],
)
def test_a_call_is_about_the_photo_of_its_ticket_and_may_end_it(call, answer, ends):
    session = ReviewSession(Recorder())
    body = {"ticket": session.calls["receive"]({})["photo"]["ticket"]}

    assert session.calls[call](body) == answer
    assert session.queue.done == [(call, "receipt")]
    if ends:
        with pytest.raises(ReviewError, match="no longer assigned to you"):
            session.calls[call](body)
    else:
        assert session.calls[call](body) == answer


def test_an_empty_queue_is_said_to_be_empty(monkeypatch):
    queue = Queue()
    monkeypatch.setattr(queue, "receive", lambda patience: None)

    assert ReviewSession(queue).calls["receive"]({}) == {"photo": None, "waiting": 0}


def test_a_shown_photo_is_no_larger_than_a_page_needs():
    queue = Queue()
    queue.content = sample_images.encoded(Image.new("RGB", (4 * MAX_SIDE, 2 * MAX_SIDE)))
    session = ReviewSession(queue)

    shown = session.render_photo(session.calls["receive"]({})["photo"]["ticket"])

    assert Image.open(io.BytesIO(shown)).size == (MAX_SIDE, MAX_SIDE // 2)
    assert Image.open(io.BytesIO(shown)).format == "JPEG"


def test_a_page_with_too_many_labels_is_refused_before_it_is_served(monkeypatch):
    queue = Queue()
    queue.labels = tuple(f"label {number}" for number in range(40))
    monkeypatch.setattr("pipeline.review_page.listen", lambda *_: pytest.fail("served"))

    with pytest.raises(ReviewError, match=r"more labels \(40\) than keys \(34\)"):
        serve(queue, 0, print)
