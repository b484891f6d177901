import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.errors import BadInput
from common.net import split_address
from experiments.launch.local import free_port
from server.metrics.port import CONNECTIONS, MetricsPort
from tests.support.waiting import wait_until


class OneMetric(Collector):
    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("fedcxr_round", "Round", value=3)


class Broken(Collector):
    def collect(self) -> Iterator[Metric]:
        raise ValueError("/secret/place")


@contextmanager
def serving(metrics: Collector | None = None) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    with MetricsPort(address).serving(metrics or OneMetric(), lambda: '{"round": 3}'):
        yield address


def ask(address: str, path: str, method: str = "GET", accept: str = "*/*") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(*split_address(address), timeout=10)
    connection.request(method, path, headers={"Accept": accept})
    response = connection.getresponse()
    answer = response.status, response.headers["Content-Type"], response.read().decode()
    connection.close()
    return answer


def test_metrics_are_told_in_both_formats_and_the_run_as_json() -> None:
    with serving() as address:
        status, kind, text = ask(address, "/metrics")
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert text.endswith("fedcxr_round 3.0\n")
        _, kind, text = ask(address, "/metrics", accept="application/openmetrics-text")
        assert kind.startswith("application/openmetrics-text")
        assert text.endswith("fedcxr_round 3.0\n# EOF\n")
        assert ask(address, "/run.json") == (200, "application/json", '{"round": 3}')


def test_nothing_else_is_answered() -> None:
    with serving() as address:
        assert ask(address, "/")[0] == 404
        assert ask(address, "/../etc/passwd")[0] == 404
        assert ask(address, "/metrics", "POST")[0] == 501
        assert ask(address, "/metrics", "DELETE")[0] == 501


def test_what_fails_is_answered_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Broken()) as address:
        status, _, text = ask(address, "/metrics")
    assert (status, text) == (500, "see the server's log\n")
    assert [record.getMessage() for record in caplog.records][-1] == "no metrics: ValueError"


def test_many_connections_that_say_nothing_take_few_threads_and_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.metrics.port._Handler.timeout", 5)
    before = set(threading.enumerate())

    def begun() -> int:
        return len(set(threading.enumerate()) - before)

    with serving() as address, ExitStack() as stack:
        for _ in range(5 * CONNECTIONS):
            stack.enter_context(socket.create_connection(split_address(address), 5))
        wait_until(lambda: begun() > CONNECTIONS)
        assert begun() <= CONNECTIONS + 1
        wait_until(lambda: answers(address))  # the others are still open, and were ended


def answers(address: str) -> bool:
    try:
        return ask(address, "/metrics")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_an_address_that_is_taken_or_another_machines_is_named() -> None:
    with serving() as address, pytest.raises(BadInput, match=f"--metrics {address}: Address.* in"):
        MetricsPort(address)
    with pytest.raises(BadInput, match=r"--metrics 192\.0\.2\.1:9464: .*; give an address of this"):
        MetricsPort("192.0.2.1:9464")
    with pytest.raises(
        BadInput, match=r"--metrics no-such-host\.invalid:9464: Name or service not"
    ):
        MetricsPort("no-such-host.invalid:9464")
