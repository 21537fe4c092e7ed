"""The review page's responses: who is refused, what each error becomes, and what happens to open photos."""

import warnings
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from pipeline import sample_images
from pipeline.review_page import TOKEN_HEADER, ReviewSession, create_app
from pipeline.review_queue import AnswerStatus, ReviewError, ReviewItem

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

DETAIL = {"photo": "s3://uploads/a.jpg", "label": "bicycle", "confidence": 0.6, "reason": "low_confidence"}


class Queue:
    """A review queue with one photo."""

    labels = ("bicycle", "motorcycle", "other")

    def __init__(self) -> None:
        self.content = sample_images.encoded(sample_images.picture(sample_images.bicycle, seed=1))
        self.released: list[ReviewItem] = []

    def receive(self, patience: float) -> ReviewItem:
        return ReviewItem("receipt", DETAIL)

    def approximate_waiting(self) -> int:
        return 3

    def read_photo(self, item: ReviewItem) -> bytes:
        return self.content

    def answer(self, item: ReviewItem, label: str) -> AnswerStatus:
        if label == "denied":
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "not yours"}}, "UpdateItem")
        return AnswerStatus.SUPERSEDED

    def release(self, item: ReviewItem) -> None:
        self.released.append(item)


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def client(queue) -> Iterator[TestClient]:
    session = ReviewSession(queue)
    headers = {TOKEN_HEADER: session.token}
    with TestClient(create_app(session, 80), base_url="http://127.0.0.1:80", headers=headers) as client:
        client.headers["Host"] = "127.0.0.1:80"
        yield client


def ticket(client: TestClient) -> str:
    return client.post("/receive", json={}).json()["photo"]["ticket"]


def test_what_others_wrote_cannot_reverse_the_text_around_it(client, queue, monkeypatch):
    foreign = {"photo": "s3://uploads/\u202egpj.exe", "label": "bicycle\u2066", "reason": "low\n"}
    monkeypatch.setattr(queue, "receive", lambda patience: ReviewItem("receipt", DETAIL | foreign))
    monkeypatch.setattr(queue, "read_photo", lambda _: (_ for _ in ()).throw(ReviewError("\u202egone")))

    photo = client.post("/receive", json={}).json()["photo"]

    assert photo["photo"] == r"s3://uploads/\u202egpj.exe"
    assert (photo["label"], photo["reason"]) == (r"bicycle\u2066", r"low\n")
    assert client.get(f"/photo/{photo['ticket']}").json() == {"error": r"\u202egone"}


def test_a_received_photo_can_be_shown_and_answered_once(client):
    received = client.post("/receive", json={}).json()
    key = received["photo"].pop("ticket")

    assert received == {"photo": DETAIL, "waiting": 3}
    assert client.get(f"/photo/{key}").headers["Content-Type"] == "image/jpeg"
    answer = {"ticket": key, "label": "bicycle"}
    assert client.post("/answer", json=answer).json() == {
        "status": "superseded",
        "message": "Replaced by a newer upload. Your answer counts as ground truth.",
    }
    again = client.post("/answer", json=answer)
    assert (again.status_code, again.json()) == (409, {"error": "This photo is no longer assigned to you."})


def test_each_error_has_its_status(client, queue):
    queue.content = b"no photo"

    assert client.get(f"/photo/{ticket(client)}").status_code == 422
    denied = client.post("/answer", json={"ticket": ticket(client), "label": "denied"})
    assert (denied.status_code, denied.json()["error"].partition(" (")[0]) == (502, "not yours")
    assert client.post("/answer", json={}).status_code == 400
    for body in (b"no JSON", b"[]", b"7", b"[" * 100_000, b'{"ticket":' * 100_000):
        assert client.post("/answer", content=body).status_code == 400


@pytest.mark.parametrize("path", ["/", "/photo/1", "/nowhere"])
def test_requests_for_another_host_or_from_another_site_are_refused(client, path):
    assert client.get(path, headers={"Host": "evil.example"}).status_code == 421
    assert client.get(path, headers={"Origin": "http://evil.example"}).status_code == 421


def test_everything_but_the_page_needs_the_token(client):
    statuses = {
        path: client.get(path, headers={TOKEN_HEADER: "guessed"}).status_code
        for path in ("/", "/photo/1", "/nowhere")
    }

    assert statuses == {"/": 200, "/photo/1": 403, "/nowhere": 403}


def test_no_response_is_cached(client):
    for response in (client.get("/"), client.get("/photo/1"), client.get("/", headers={"Host": "evil"})):
        assert response.headers["Cache-Control"] == "no-store"


def test_open_photos_are_released_when_the_server_stops(queue):
    session = ReviewSession(queue)
    with TestClient(create_app(session, 80)):
        session.calls["receive"]({})

    assert len(queue.released) == 1
