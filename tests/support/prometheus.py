"""The monitoring that is shipped, and a real Prometheus on it, such as Debian's."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from experiments.launch.local import free_port
from tests.support.waiting import wait_until

MONITORING = Path(__file__).parents[2] / "server" / "monitoring"
RULES = MONITORING / "prometheus" / "alerts.yml"
CONFIG = MONITORING / "prometheus" / "prometheus.yml"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "fedcxr.json"

PROMETHEUS = shutil.which("prometheus")

needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or shutil.which("promtool") is None, reason="Prometheus is not installed"
)

WORDS = frozenset({"and", "or", "unless", "bool", "offset"})
"""PromQL's words that are no names: https://prometheus.io/docs/prometheus/latest/querying/."""

BUILT_IN = frozenset({"ALERTS", "up"})
"""Names that Prometheus itself has."""


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def dashboard_targets() -> list[dict[str, str]]:
    """Return all targets of the dashboard's panels, each with its expression."""
    return [target for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def alert_rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def names_in(expression: str) -> set[str]:
    """Return the metrics that an expression of PromQL names."""
    plain = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", plain)
    plain = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", plain)
    found = re.findall(r"(?<![\w.:])[A-Za-z_:][\w:]*(?!\w)(?!\s*\()", plain)
    return set(found) - WORDS - BUILT_IN


class Prometheus:
    """A running Prometheus, and what it is asked."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, **parameters: str) -> Any:
        url = f"http://{self.address}/api/v1/{path}?{urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression has now."""
        return list(self.ask("query", query=expression)["result"])

    def value(self, expression: str) -> float | None:
        """Return the value of an expression that has one series; None: it has none."""
        found = self.query(expression)
        assert len(found) < 2, found
        return float(found[0]["value"][1]) if found else None

    def is_ready(self) -> bool:
        try:
            self.ask("query", query="1")
        except OSError:
            return False
        return True


@contextmanager
def scraping(target: str, folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus with the configuration that is shipped, but for the target and its pace."""
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
    config["rule_files"] = [str(RULES)]
    (config["scrape_configs"][0]["static_configs"][0])["targets"] = [target]
    config["scrape_configs"][0]["scrape_timeout"] = "200ms"
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    prometheus = Prometheus(f"127.0.0.1:{free_port()}")
    options = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={prometheus.address}",
        "--query.lookback-delta=1h",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *options], stdout=log, stderr=log)
        try:
            wait_until(prometheus.is_ready)
            yield prometheus
        finally:
            process.terminate()
            process.wait(20)
