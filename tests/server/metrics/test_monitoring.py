"""The alert rules, the dashboard and the docs follow the metrics; Grafana itself is not run."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from server.metrics.names import METRICS, PREFIX
from server.metrics.rejections import REASONS
from server.run.live import Doing
from tests.support.prometheus import (
    CONFIG,
    MONITORING,
    RULES,
    alert_rules,
    dashboard,
    dashboard_targets,
    names_in,
    needs_prometheus,
)

ROOT = MONITORING.parents[1]
PAGE = (ROOT / "docs/monitoring.md").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
EXPORTED = {PREFIX + name for name in METRICS}


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("sum by (part) (a_b) > 1e9 + 2 * c", {"a_b", "c"}),
        ('max without (state) (0 * (x{state="a or b"} == 1) or y[5m])', {"x", "y"}),
        ("time() - a > on (job, instance) 60 + 2 * sum (b * on(job) c)", {"a", "b", "c"}),
        ('ALERTS{alertstate="firing"}', set()),
    ],
)
def test_the_names_in_an_expression_are_found(expression: str, names: set[str]) -> None:
    assert names_in(expression) == names


def test_rules_and_dashboard_name_no_metric_that_is_not_exported() -> None:
    in_rules = [names_in(rule["expr"]) for rule in alert_rules()]
    in_dashboard = [names_in(target["expr"]) for target in dashboard_targets()]
    assert set().union(*in_rules, *in_dashboard) <= EXPORTED
    assert all(in_rules)
    assert EXPORTED - set().union(*in_rules, *in_dashboard) <= {PREFIX + "attempt"}


def test_the_page_has_every_metric_with_its_labels_and_every_alert() -> None:
    rows = re.findall(r"^\| `fedcxr_(\w+)` \|([^|]*)\| (.*) \|$", PAGE, re.MULTILINE)
    assert [(n, tuple(re.findall(r"`(\w+)`", labels)), text) for n, labels, text in rows] == [
        (name, described.labels, described.text) for name, described in METRICS.items()
    ]
    for reason in REASONS:
        assert f"\n| `{reason}` |" in PAGE
    for rule in alert_rules():
        assert f"| `{rule['alert']}` |" in PAGE


@needs_prometheus
def test_promtool_accepts_configuration_and_rules() -> None:
    for command in (("config", CONFIG), ("rules", RULES)):
        result = subprocess.run(
            ["promtool", "check", *command], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr


@needs_prometheus
def test_each_alert_fires_when_it_should(tmp_path: Path) -> None:
    cases = Path(__file__).parent / "alerts.test.yml"
    for file in (RULES, cases):
        shutil.copy(file, tmp_path)
    result = subprocess.run(
        ["promtool", "test", "rules", tmp_path / cases.name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    fired = {
        case["alertname"]
        for test in yaml.safe_load(cases.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in alert_rules()}


def through_grafanas_types(told: dict[str, Any]) -> dict[str, Any]:
    """Return a dashboard as Grafana's own types keep it: without fields that they do not know."""
    register_default_plugins()
    return dict(json.loads(json.dumps(Dashboard.from_json(told), cls=JSONEncoder)))


def is_kept(told: object, kept: object) -> bool:
    """Return whether everything that is told is kept; defaults may be added."""
    if isinstance(told, dict):
        return isinstance(kept, dict) and all(
            name in kept and is_kept(value, kept[name]) for name, value in told.items()
        )
    if isinstance(told, list):
        return isinstance(kept, list) and all(map(is_kept, told, kept)) and len(told) == len(kept)
    return told == kept


def test_the_dashboard_has_only_fields_that_grafanas_types_know() -> None:
    told = dashboard()
    assert is_kept(told, through_grafanas_types(told))
    told["panels"][1]["targets"][0]["legendFromat"] = "x"
    assert not is_kept(told, through_grafanas_types(told))


def test_the_dashboard_has_everything_a_hospital_may_do() -> None:
    (panel,) = [panel for panel in dashboard()["panels"] if panel["type"] == "state-timeline"]
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    shown = {int(number): to["text"] for number, to in mapping["options"].items()}
    expression = panel["targets"][0]["expr"]
    computed = {int(n): s for n, s in re.findall(r'(\d) \* \(\w+\{state="(\w+)"\}', expression)}
    assert shown == computed == dict(enumerate(get_args(Doing)))


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells


def test_server_prometheus_and_grafana_find_each_other() -> None:
    services = COMPOSE["services"]
    (job,) = yaml.safe_load(CONFIG.read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target == services["server"]["environment"]["FLOWER_SERVER_METRICS"]
    assert services["server"]["networks"]["monitoring"]["aliases"] == [target.partition(":")[0]]
    (source,) = yaml.safe_load((MONITORING / "grafana/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    used = {panel["datasource"]["uid"] for panel in dashboard()["panels"] if "datasource" in panel}
    assert used == {source["uid"]}
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((MONITORING / "grafana/dashboards/dashboards.yml").read_text())[
        "providers"
    ]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    assert mounts["./server/monitoring/grafana"] == "/etc/grafana/provisioning"
    assert provider["options"]["path"] == "/etc/grafana/provisioning/dashboards"


def test_hospitals_and_others_do_not_reach_the_metrics() -> None:
    """Whoever does sees the numbers of each hospital."""
    services = COMPOSE["services"]
    on = {name for name, s in services.items() if "monitoring" in s.get("networks", ())}
    assert on == {"server", "prometheus", "grafana"}
    assert COMPOSE["networks"]["monitoring"] == {"internal": True}
    published = {name: s["ports"] for name, s in services.items() if "ports" in s}
    assert published == {"grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"]}
    for name in ("prometheus", "grafana"):
        assert services[name]["profiles"] == ["monitoring"]
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", services[name]["image"])
