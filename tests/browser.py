"""Drive a real browser over a pipe with the DevTools protocol, which needs nothing but Chromium.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tests.waiting import PATIENCE, eventually

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class Tab:
    """A tab of the browser."""

    def __init__(self, browser: "Browser", target: str, session: str) -> None:
        self.browser, self.target, self.session = browser, target, session
        for domain in ("Page", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser(method, self.session, **parameters)

    def go(self, url: str) -> None:
        self("Page.navigate", url=url)

    def js(self, expression: str) -> Any:
        """Return the value of an expression on the page."""
        found = self("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, text=key if kind == "keyDown" else "")

    def until(self, expression: str) -> Any:
        """Return the value of an expression as soon as it is true."""
        return eventually(lambda: self.js(expression), pause=0.05)

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self.browser("Target.closeTarget", targetId=self.target)


class Browser:
    """A browser with a new, temporary profile."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = os.fdopen(commands, "wb", 0), os.fdopen(answers, "rb", 0)
        self._ids, self._rest = itertools.count(1), b""
        self.events: list[dict[str, Any]] = []

    @classmethod
    @contextmanager
    def running(cls, profile: Path) -> Iterator[Self]:
        (reads, commands), (answers, writes) = os.pipe(), os.pipe()
        # Chromium reads commands from file descriptor 3 and writes answers to 4.
        assert CHROMIUM, "no chromium on the path"
        command = ["bash", "-c", f'exec 3<&{reads} 4>&{writes}; exec "$@"', "bash", CHROMIUM, *QUIET]
        process = subprocess.Popen(
            [*command, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(reads, writes),
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        browser = cls(commands, answers)
        try:
            yield browser
            browser("Browser.close")
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            browser._commands.close()
            browser._answers.close()

    def __call__(self, method: str, session: str | None = None, /, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        request = {"id": number, "method": method, "params": parameters}
        request |= {"sessionId": session} if session else {}
        self._commands.write(json.dumps(request).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)

    def tab(self) -> Tab:
        target = self("Target.createTarget", url="about:blank")["targetId"]
        session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Tab(self, target, session)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._answers.read(65536)
            assert more, "the browser has exited"
            self._rest += more
        content, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(content)
        return message
