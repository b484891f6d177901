from pathlib import Path

import pytest

from experiments.launch.local import LocalFederation
from tests.support.commands import assert_one_line, run
from tests.support.federations import log_of, options
from tests.support.provisioned import provision
from tests.support.shards import make_shard
from tests.support.waiting import wait_until


def test_hospitals_train_over_tls_and_only_with_the_right_ca(tmp_path: Path) -> None:
    ours, others = (provision(tmp_path / name, ["site"]) for name in ("ours", "others"))
    shard = make_shard(tmp_path / "site")
    with LocalFederation(tmp_path / "logs", tls=ours) as federation:
        federation.start_server(options(tmp_path / "run", 1, rounds=1))
        wait_until(lambda: "listening" in log_of(federation, "server"))
        client = ["--server", federation.address, "--data", shard.path, "--patience", 1]
        wrong = (
            (["--tls", others / "sites" / "site"], "not accepted: unable to get local issuer"),
            (["--insecure"], ""),
        )
        for options_, why in wrong:
            result = run("flower-client", *client, *options_)
            assert_one_line(result, 2, "no server within 1 s", why)
        federation.start_client(shard.path)
        assert federation.wait(120) == {"server": 0, "site": 0}


@pytest.mark.parametrize("name", ["ca.crt", "server.crt", "server.key", "sites.json"])
def test_a_missing_file_of_the_servers_folder_is_named(tmp_path: Path, name: str) -> None:
    folder = provision(tmp_path / "kits", ["site"]) / "server"
    (folder / name).unlink()
    result = run("flower-server", *options(tmp_path / "run", 1, tls=folder))
    assert_one_line(result, 2, f"{name}: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["another", "garbage"])
def test_a_key_that_is_not_the_certificates_is_named(tmp_path: Path, key: str) -> None:
    folder, other = (provision(tmp_path / name, ["site"]) / "server" for name in ("ours", "others"))
    content = (other / "server.key").read_bytes() if key == "another" else b"garbage"
    (folder / "server.key").write_bytes(content)
    result = run("flower-server", *options(tmp_path / "run", 1, tls=folder))
    assert_one_line(result, 2, f"{folder / 'server.key'}: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["ca.crt", "site.pem"])
def test_a_missing_file_of_a_kit_is_named(tmp_path: Path, name: str) -> None:
    kit = provision(tmp_path / "kits", ["site"]) / "sites" / "site"
    (kit / name).unlink()
    shard = make_shard(tmp_path / "site")
    client = ["--server", "127.0.0.1:9", "--data", shard.path, "--tls", kit]
    assert_one_line(run("flower-client", *client), 2, f"{name}: ")
