"""What the server measures about itself, in Prometheus' text format.

Counters and histograms are kept by the middleware, everything about generation is read from the worker when it is asked
for. Nothing that a client wrote is in a label.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from aquarat_core.serving.guard import App, Message, Receive, Scope, Send
from aquarat_core.serving.worker import Worker

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The server's metrics; `wrapped` puts the middleware around an application."""

    def __init__(self, worker: Worker) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_Generation(worker))
        self._requests = Counter(
            "aquarat_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._first = Histogram(
            "aquarat_first_byte_seconds", "Time to the first byte of an answer's body.", ["route"],
            registry=self._registry, buckets=SECONDS,
        )  # fmt: skip
        self._whole = Histogram(
            "aquarat_request_seconds", "Time to the last byte of an answer.", ["route"],
            registry=self._registry, buckets=SECONDS,
        )  # fmt: skip

    def text(self) -> bytes:
        """All metrics in the form `TYPE`."""
        return generate_latest(self._registry)

    def wrapped(self, app: App) -> App:
        async def measured(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            began = time.monotonic()
            status, first = 0, 0.0

            async def watched(message: Message) -> None:
                nonlocal status, first
                if message["type"] == "http.response.start":
                    status = message["status"]
                elif not first:
                    first = time.monotonic()
                await send(message)

            try:
                await app(scope, receive, watched)
            finally:
                route = getattr(scope.get("route"), "path", "other")
                self._requests.labels(route, str(status or 499)).inc()
                if first:
                    self._first.labels(route).observe(first - began)
                self._whole.labels(route).observe(time.monotonic() - began)

        return measured


class _Generation(Collector):
    """What the worker knows, read when it is asked for."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily("aquarat_generated_tokens", "Tokens that were generated.", labels=["model"])
        steps = CounterMetricFamily("aquarat_decoding_steps", "Decoding steps of the batch.", labels=["model"])
        completions = CounterMetricFamily("aquarat_completions", "Completions that have ended.", labels=["model"])
        running = GaugeMetricFamily("aquarat_running", "Completions that are generated now.", labels=["model"])
        waiting = GaugeMetricFamily("aquarat_waiting", "Completions that wait for a free row.", labels=["model"])
        rows = GaugeMetricFamily("aquarat_rows", "Completions that can be generated at a time.", labels=["model"])
        for name, counts in self._worker.counts.items():
            tokens.add_metric([name], counts.tokens)
            steps.add_metric([name], counts.steps)
            completions.add_metric([name], counts.completions)
            now, later = self._worker.busy(name)
            running.add_metric([name], now)
            waiting.add_metric([name], later)
            rows.add_metric([name], self._worker.limits[name].rows)
        yield from (tokens, steps, completions, running, waiting, rows)
