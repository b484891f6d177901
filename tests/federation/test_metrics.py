"""A real Prometheus scrapes a real server."""

import json
import subprocess
import urllib.request
from pathlib import Path

from common.wire import pack
from experiments.launch.local import free_port
from server.watch.source import server_source
from tests.support.faults import FaultyFederation, trains_slowly
from tests.support.federations import SEED, lines_of, options, status_of
from tests.support.hospitals import STATE, hospital_of, instruction_of, plan_of
from tests.support.prometheus import dashboard_targets, needs_prometheus, scraping
from tests.support.shards import make_shard
from tests.support.waiting import wait_until

WITHOUT_DATA = {'ALERTS{alertstate="firing"}', "fedcxr_hospital_epsilon"}
"""Queries of the dashboard that have no answer while all goes well and no noise is added."""


def findings_told_without_a_policy(shard: Path) -> set[str]:
    reply, _ = hospital_of(shard).answer(instruction_of(plan_of(seed=SEED), 1), pack(STATE))
    assert reply.validation is not None
    return {f for f, auc in reply.validation.auc_by_finding.items() if auc is not None}


@needs_prometheus
def test_a_run_in_prometheus(federation: FaultyFederation, tmp_path: Path) -> None:
    names = ["hospital-00", "hospital-01", "hospital-02"]
    shards = [make_shard(tmp_path / n, images=80, seed=i).path for i, n in enumerate(names)]
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"min_group": 3}))
    address, run = f"127.0.0.1:{free_port()}", tmp_path / "run"
    test = make_shard(tmp_path / "test", seed=9).path
    more = {"rounds": 100_000, "metrics": address, "test": test}
    federation.start_server(options(run, len(shards), **more))
    with scraping(address, tmp_path / "prometheus") as prometheus:
        wait_until(lambda: prometheus.value('fedcxr_run_state{state="waiting"}') == 1)
        for shard in shards:
            federation.preludes[shard.name] = trains_slowly(0.3)  # or rounds take all the CPU
            given = ["--policy", str(policy)] if shard.name == "hospital-01" else []
            federation.start_client(shard, given)
        wait_until(lambda: (prometheus.value("fedcxr_completed_rounds_total") or 0) > 2)

        answers = {t["expr"]: prometheus.query(t["expr"]) for t in dashboard_targets()}
        assert {e for e, found in answers.items() if not found} <= WITHOUT_DATA | {
            "sum by (hospital, reason) (fedcxr_rejections_total) > 0"
        }
        assert prometheus.value("fedcxr_hospitals_connected") == len(names)
        assert prometheus.value("sum(fedcxr_hospital_state)") == len(names)

        told = {name: set[str]() for name in names}
        for series in prometheus.query("fedcxr_hospital_finding_auc"):
            told[series["metric"]["hospital"]].add(series["metric"]["finding"])
        known = {shard.name: findings_told_without_a_policy(shard) for shard in shards}
        record = lines_of(run)[0]["hospitals"]["hospital-01"]
        reported = {f for f, auc in record["auc_by_finding"].items() if auc is not None}
        assert told["hospital-00"] == known["hospital-00"]
        assert told["hospital-01"] == reported
        assert reported < known["hospital-01"]

        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            lint = ["promtool", "check", "metrics"]
            assert subprocess.run(lint, input=answer.read(), check=False).returncode == 0
        assert server_source(address)().live is not None

        federation.clients["hospital-02"].kill()
        firing = 'ALERTS{alertname="HospitalMissesRounds", alertstate="firing"}'
        wait_until(lambda: bool(prometheus.query(firing)))
        (alert,) = prometheus.query(firing)
        assert alert["metric"]["hospital"] == "hospital-02"
        assert prometheus.value('fedcxr_hospital_state{hospital="hospital-02", state="gone"}') == 1
    assert status_of(run)["state"] == "running"
