"""A web page of another site can neither use the local stack nor reset it; what runs here can."""

from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import quote, unquote, urlsplit

import httpx
import pytest

from tests.browser import CHROMIUM, Browser

OTHER_SITE = {"Origin": "https://example.com"}
FUNCTIONS = "/2015-03-31/functions"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("OPTIONS", FUNCTIONS),
        ("POST", FUNCTIONS),
        ("GET", FUNCTIONS),
        ("POST", "/_ministack/reset"),
        ("GET", "/_ministack/health"),
        ("POST", "/endpoints/vehicle-classifier/invocations"),
        ("GET", "/"),
    ],
)
@pytest.mark.parametrize("server", ["endpoint_url", "sagemaker_runtime_url"])
def test_no_path_of_the_servers_answers_another_site(stack, server, method, path):
    answer = httpx.request(method, getattr(stack, server) + path, headers=OTHER_SITE)

    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_a_name_that_was_bound_to_this_machine_is_refused(stack):
    port = urlsplit(stack.endpoint_url).port

    answer = httpx.get(f"{stack.endpoint_url}/", headers={"Host": f"rebound.example.com:{port}"})

    assert answer.status_code == 403


@pytest.fixture
def other_site(tmp_path) -> Iterator[str]:
    """The address of a site with an empty page."""
    (tmp_path / "index.html").write_text("<title>Another site</title>")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def do_GET(self) -> None:
            """Redirect to the address in the query, if there is one."""
            if target := unquote(urlsplit(self.path).query):
                self.send_response(302)
                self.send_header("Location", target)
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever).start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_a_page_in_a_browser_neither_reads_nor_resets_the_stack(stack, other_site, tmp_path):
    stack.client("s3").put_object(
        Bucket=stack.outputs["UploadBucketName"], Key="archive/kept.txt", Body=b"kept"
    )

    with Browser.running(tmp_path / "profile") as browser:
        tab = browser.tab()
        tab.go(other_site)
        tab.until("document.title == 'Another site'")
        # A simple request needs no permission by CORS; only its answer is hidden from the page.
        reset = f"'{stack.endpoint_url}/_ministack/reset', {{method: 'POST', mode: 'no-cors'}}"
        tab.js(f"fetch({reset}).then(() => 1)")
        listed = tab.js(
            f"fetch('{stack.endpoint_url}{FUNCTIONS}', {{headers: {{Authorization: 'AWS4-HMAC-SHA256 "
            "Credential=test/20260101/us-east-1/lambda/aws4_request'}}).then(a => a.text(), e => 'refused')"
        )

    assert listed == "refused"
    kept = stack.client("s3").get_object(Bucket=stack.outputs["UploadBucketName"], Key="archive/kept.txt")
    assert kept["Body"].read() == b"kept"


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_an_opened_address_cannot_redirect_to_the_stack(stack, other_site, tmp_path):
    """Browsers call a redirect of what the user opened the user's own request: `Sec-Fetch-Site: none`."""
    iam = stack.client("iam")
    created = iam.generate_presigned_url("create_user", {"UserName": "redirected"}, HttpMethod="GET")

    with Browser.running(tmp_path / "profile") as browser:
        tab = browser.tab()
        tab.go(f"{other_site}?{quote(created, safe='')}")
        tab.until(f"location.href.startsWith('{stack.endpoint_url}') && document.readyState == 'complete'")

    assert "redirected" not in [user["UserName"] for user in iam.list_users()["Users"]]
