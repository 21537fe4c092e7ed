"""A closed loop of clients of the inference server: each sends its next photo when it has the last answer.

The clients are as cheap as Python allows (one write and one read a request), because they share the cores
with the server.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Load:
    """What the clients saw; times are in seconds since they began."""

    seconds: float
    answered: list[tuple[float, float]] = field(default_factory=list)  # at, after
    refused: list[float] = field(default_factory=list)  # after
    lost: int = 0  # not answered within the client's patience
    other: int = 0  # any other status
    cpu: float = 0.0  # of the clients' process

    def goodput(self, warm_up: float = 2.0) -> float:
        """Return the photos answered a second, after a warm-up."""
        return sum(at > warm_up for at, _ in self.answered) / (self.seconds - warm_up)

    def refusal_p99(self) -> float:
        """Return the seconds within which 99% of the refusals arrived."""
        return quantile(self.refused, 0.99)


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile; 0 for no values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


@dataclass(frozen=True)
class Clients:
    """How the clients behave.

    They hang up after `patience` seconds. After that and after a refusal they pause for up to `pause`
    seconds, or, if they `heed` it, for the time that the refusal names.
    """

    url: str
    photo: bytes
    patience: float = 4.0
    pause: float = 1.0
    heed: bool = False
    slow_readers: bool = False  # read the answer only after the pause

    async def load(self, clients: int, seconds: float) -> Load:
        """Run this many clients for a time."""
        load = Load(seconds)
        started_at, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(self._client(load, started_at) for _ in range(clients)))
        load.cpu = time.process_time() - cpu
        return load

    async def _client(self, load: Load, started_at: float) -> None:
        connection = None
        while (asked_at := time.monotonic()) < started_at + load.seconds:
            try:
                async with asyncio.timeout(self.patience):
                    connection = connection or await self._connect()
                    status, retry_after = await self._ask(*connection)
            except (TimeoutError, OSError, asyncio.IncompleteReadError):
                load.lost += 1
                if connection:
                    connection[1].transport.abort()
                connection = None
            else:
                now = time.monotonic()
                if status == 200:
                    load.answered.append((now - started_at, now - asked_at))
                    continue
                if status in {429, 503}:
                    load.refused.append(now - asked_at)
                    if self.heed:
                        await asyncio.sleep(min(retry_after, started_at + load.seconds - now))
                        continue
                else:
                    load.other += 1
            await asyncio.sleep(self.pause * random.random())
        if connection:
            connection[1].close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = urlsplit(self.url)
        return await asyncio.open_connection(address.hostname, address.port)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, float]:
        """Return the status, and the seconds of Retry-After."""
        path = urlsplit(self.url).path
        head = f"POST {path} HTTP/1.1\r\nHost: endpoint\r\nContent-Type: image/jpeg\r\n"
        writer.write(f"{head}Content-Length: {len(self.photo)}\r\n\r\n".encode() + self.photo)
        if self.slow_readers:
            await asyncio.sleep(self.pause * random.random())
        header = await reader.readuntil(b"\r\n\r\n")
        lines = [line.partition(b":") for line in header.lower().split(b"\r\n")[1:]]
        fields = {name: value for name, _, value in lines}
        await reader.readexactly(int(fields[b"content-length"]))
        return int(header.split(b" ", 2)[1]), float(fields.get(b"retry-after", 0))
