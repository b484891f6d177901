from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from experiments.local import LocalFederation
from tests.federation.test_federation import log_of, options, wait_until
from tests.helpers import assert_one_line, make_shard, run


def write_tls(folder: Path) -> Path:
    """Write a CA and a server certificate for loopback."""
    folder.mkdir()
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        for name in (f"CA of {folder.name}", "server")
    ]
    for name, key, ca, file in (
        (names[0], keys[0], True, "ca"),
        (names[1], keys[1], False, "server"),
    ):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=1))
            .not_valid_after(datetime.now(UTC) + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]),
                critical=False,
            )
            .sign(keys[0], hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (folder / f"{file}.crt").write_bytes(pem)
    (folder / "server.key").write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder


def test_hospitals_train_over_tls_and_only_with_the_right_ca(tmp_path: Path) -> None:
    ours, others = write_tls(tmp_path / "ours"), write_tls(tmp_path / "others")
    shard = make_shard(tmp_path / "site")
    with LocalFederation(tmp_path / "logs", tls=ours) as federation:
        federation.start_server(options(tmp_path / "run", 1, rounds=1))
        wait_until(lambda: "listening" in log_of(federation, "server"))
        client = ["--server", federation.address, "--data", shard.path, "--patience", 1]
        for wrong in (["--tls", others], ["--insecure"]):
            assert_one_line(run("flower-client", *client, *wrong), 2, "no server within 1 s")
        federation.start_client(shard.path)
        assert federation.wait(120) == {"server": 0, "site": 0}


@pytest.mark.parametrize("name", ["ca.crt", "server.key"])
def test_a_missing_file_of_the_tls_folder_is_named(tmp_path: Path, name: str) -> None:
    folder = write_tls(tmp_path / "tls")
    (folder / name).unlink()
    arguments = options(tmp_path / "run", 1, tls=folder)
    assert_one_line(run("flower-server", *arguments), 2, f"{name}: No such file", "--tls")
