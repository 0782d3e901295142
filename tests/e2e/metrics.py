"""Receives Airflow's StatsD packets in the tests, and gives the metrics to Prometheus as the StatsD exporter does."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sandbox.settings import HOST

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Packet:
    """A value that Airflow has sent: its type is ``c``, ``g`` or ``ms``."""

    name: str
    labels: Labels
    value: float
    type: str

    @classmethod
    def of(cls, line: str) -> Packet:
        """Read a line of StatsD with the tags of InfluxDB: ``airflow.name,tag=value:1|c``."""
        named, _, rest = line.rpartition(":")
        value, kind = rest.split("|")[:2]
        name, *tags = named.split(",")
        labels = frozenset((key, value) for key, _, value in (tag.partition("=") for tag in tags))
        return cls(name, labels, float(value), kind)


@dataclass
class StatsdReceiver:
    """
    The end of Airflow's StatsD client.

    It stands in for the StatsD exporter, which has no package: dots in names become underscores, and a timer in
    milliseconds becomes a sum in seconds and a count.
    """

    port: int = 0
    lines: list[str] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    _samples: dict[tuple[str, Labels], float] = field(default_factory=lambda: defaultdict(float))

    def of_the_share(self) -> list[Packet]:
        """Return what this project has sent."""
        return [packet for packet in self.packets if packet.name.startswith("airflow.data_share.")]

    def take(self, line: str) -> None:
        self.lines.append(line)
        packet = Packet.of(line)
        self.packets.append(packet)
        name = packet.name.replace(".", "_").replace("-", "_")
        if packet.type == "g":
            self._samples[name, packet.labels] = packet.value
        elif packet.type == "ms":
            self._samples[f"{name}_sum", packet.labels] += packet.value / 1000
            self._samples[f"{name}_count", packet.labels] += 1
        else:
            self._samples[name, packet.labels] += packet.value

    def page(self) -> str:
        """Return all metrics in the text format that Prometheus reads."""
        lines = []
        for (name, labels), value in sorted(self._samples.items(), key=repr):
            told = ",".join(f'{key}="{text}"' for key, text in sorted(labels))
            lines.append(f"{name}{{{told}}} {value!r}")
        return "\n".join(lines) + "\n"


@contextmanager
def receiver() -> Iterator[StatsdReceiver]:
    """Receive packets on a free port of loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind((HOST, 0))
        end.settimeout(0.2)
        received = StatsdReceiver(port=end.getsockname()[1])
        stopping = threading.Event()

        def listen() -> None:
            while not stopping.is_set():
                try:
                    data = end.recv(65536)
                except TimeoutError:
                    continue
                for line in data.decode().splitlines():
                    received.take(line)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield received
        finally:
            stopping.set()
            thread.join(timeout=5)


@contextmanager
def served(received: StatsdReceiver) -> Iterator[int]:
    """Serve the metrics to Prometheus; return the port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = received.page().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer((HOST, 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(timeout=5)
