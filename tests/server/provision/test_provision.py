import json
import os
import shutil
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from client.kit import read_kit
from common.certificates import common_name, fingerprint_of, hosts_of, read_certificate
from common.errors import BadInput
from common.net import split_address
from common.runtime.files import locked
from server.members.sites import SiteList, read_sites
from server.provision.cli import command
from server.provision.federation import Config, add, new, renew, renew_server, revoke
from server.transport.tls import ServerTLS
from tests.support.commands import assert_one_line, run

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
CONFIG = Config(hosts=["localhost", "127.0.0.1", "::1"], port=8443, days=30)
KIT = [".env", "README.md", "ca.crt", "client.env", "docker-compose.yml", "policy.json", "site.pem"]


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    new(tmp_path / "federation", CONFIG, ["north", "coast"], NOW)
    return tmp_path / "federation"


def test_a_kit_can_be_used_whatever_the_umask_was(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        new(tmp_path / "federation", CONFIG, ["north"], NOW)
        add(tmp_path / "federation", "coast", NOW)
    finally:
        os.umask(before)
    for name in ("north", "coast"):
        kit = tmp_path / "federation" / "sites" / name
        modes = {file.name: file.stat().st_mode & 0o777 for file in kit.iterdir()}
        assert kit.stat().st_mode & 0o777 == 0o755
        assert modes.pop("site.pem") == 0o600
        assert set(modes.values()) == {0o644}


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and the inode of each file below a folder."""
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_ino)
        for file in folder.rglob("*")
        if file.is_file()
    }


def changed(folder: Path, before: dict[str, tuple[bytes, int]]) -> set[str]:
    after = contents(folder)
    return {name for name in before | after if before.get(name) != after.get(name)}


def greet(server: Path, root: Path, host: str, address: str = "127.0.0.1") -> str:
    """Shake hands over loopback; return what the client said of the server's certificate."""
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(server / "server.crt", server / "server.key")
    theirs = ssl.create_default_context(cafile=str(root))
    theirs.verify_flags |= ssl.VERIFY_X509_STRICT
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            try:
                ours.wrap_socket(connection, server_side=True).close()
            except OSError:  # the client hung up, and says why itself
                connection.close()

        thread = Thread(target=answer)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname()[:2], timeout=10) as plain,
                theirs.wrap_socket(plain, server_hostname=host),
            ):
                return "trusted"
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        finally:
            thread.join(10)


def test_hospitals_trust_the_server_under_each_of_its_names_and_no_other(
    federation: Path, tmp_path: Path
) -> None:
    new(tmp_path / "other", CONFIG, ["north"], NOW)
    server, root = federation / "server", federation / "sites" / "north" / "ca.crt"
    assert greet(server, root, "localhost") == "trusted"
    assert greet(server, root, "127.0.0.1") == "trusted"
    assert "Hostname mismatch" in greet(server, root, "elsewhere.example")
    assert "IP address mismatch" in greet(server, root, "127.0.0.2")
    other = tmp_path / "other" / "sites" / "north" / "ca.crt"
    assert greet(server, other, "localhost") != "trusted"


def test_a_renewed_certificate_of_the_server_is_trusted_and_is_all_that_changes(
    federation: Path,
) -> None:
    before = contents(federation)
    certificate = renew_server(federation, NOW + 10 * DAY)
    assert changed(federation, before) == {"server/server.crt"}
    assert certificate.not_valid_after_utc == NOW + 40 * DAY
    renew_server(federation, NOW)
    assert greet(federation / "server", federation / "ca" / "ca.crt", "localhost") == "trusted"


def test_a_hospital_cannot_pass_for_the_server(federation: Path) -> None:
    add(federation, "localhost", NOW)
    kit = federation / "sites" / "localhost"
    for name in ("server.crt", "server.key"):
        (federation / "server" / name).write_bytes((kit / "site.pem").read_bytes())
    assert greet(federation / "server", kit / "ca.crt", "localhost") != "trusted"


def test_an_expired_certificate_is_not_trusted(federation: Path) -> None:
    renew_server(federation, NOW - 31 * DAY)
    assert "expired" in greet(federation / "server", federation / "ca" / "ca.crt", "localhost")


def test_certificates_say_what_they_are_for(federation: Path) -> None:
    ca = read_certificate(federation / "ca" / "ca.crt")
    server = read_certificate(federation / "server" / "server.crt")
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert (basic.value.ca, basic.value.path_length) == (True, 0)
    assert ca.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    site = read_certificate(federation / "sites" / "north" / "site.pem")
    usage = site.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert (common_name(site), hosts_of(site)) == ("north", [])
    subject = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer = server.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer.key_identifier == subject.digest
    assert server.not_valid_before_utc == ca.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert server.not_valid_after_utc == NOW + 30 * DAY
    assert ca.not_valid_after_utc == NOW + 300 * DAY


def test_no_certificate_outlives_its_ca_and_no_ca_ten_years(tmp_path: Path) -> None:
    folder = tmp_path / "federation"
    new(folder, CONFIG.model_copy(update={"days": 400}), ["north"], NOW)
    end = NOW + 3650 * DAY
    assert read_certificate(folder / "ca" / "ca.crt").not_valid_after_utc == end
    assert renew(folder, "north", NOW + 3600 * DAY).expires == end
    assert renew_server(folder, NOW + 3600 * DAY).not_valid_after_utc == end
    before = contents(folder)
    for sign in (renew_server, lambda *at: renew(at[0], "north", at[1])):
        with pytest.raises(BadInput, match=r"the CA expired on .* flower-provision new"):
            sign(folder, end)
    assert changed(folder, before) == set()


def test_a_new_folder_has_a_kit_for_each_hospital_and_only_owners_read_keys(
    federation: Path,
) -> None:
    files = contents(federation)
    assert sorted(files) == sorted(
        [
            "provision.json",
            "ca/ca.crt",
            "ca/ca.key",
            *(f"server/{name}" for name in ("ca.crt", "server.crt", "server.key", "sites.json")),
            *(f"sites/{site}/{name}" for site in ("north", "coast") for name in KIT),
        ]
    )
    modes = {name: (federation / name).stat().st_mode & 0o777 for name in files}
    assert {name for name, mode in modes.items() if mode == 0o600} == {
        name for name in files if name.endswith((".key", ".pem"))
    }
    assert federation.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in federation.parent.iterdir()] == ["federation"]
    listed = read_sites(federation / "server" / "sites.json")
    assert list(listed) == ["coast", "north"]
    for name, site in listed.items():
        kit = federation / "sites" / name
        assert fingerprint_of(read_certificate(kit / "site.pem")) == site.certificate
        assert (kit / "ca.crt").read_bytes() == (federation / "ca" / "ca.crt").read_bytes()
        assert (site.added, site.expires, site.revoked) == (NOW, NOW + 30 * DAY, None)


def test_a_kit_is_read_as_it_was_written_or_refused_by_name(
    federation: Path, tmp_path: Path
) -> None:
    kit = federation / "sites" / "north"
    assert read_kit(kit, NOW, "north").name == "north"
    new(tmp_path / "other", CONFIG, ["north"], NOW)
    for spoil, now, what in (
        (None, NOW + 30 * DAY, "its certificate expired on .*renewed"),
        (None, NOW - DAY, "set the clock"),
        (lambda: (kit / "site.pem").chmod(0o640), NOW, "chmod 600"),
        (lambda: shutil.copy(tmp_path / "other/ca/ca.crt", kit), NOW, "not of the CA in ca.crt"),
        (lambda: (kit / "site.pem").write_text("noise"), NOW, "site.pem: not a certificate"),
        (lambda: (kit / "site.pem").unlink(), NOW, "site.pem: cannot be read.*operator"),
    ):
        if spoil is not None:
            spoil()
        with pytest.raises(BadInput, match=what):
            read_kit(kit, now)
        if what == "chmod 600":
            (kit / "site.pem").chmod(0o600)
    coast = federation / "sites" / "coast"
    with pytest.raises(BadInput, match="is the kit of coast, not of north"):
        read_kit(coast, NOW, "north")


def test_thirty_days_before_its_end_a_certificate_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "fresh"
    new(folder, CONFIG.model_copy(update={"days": 60}), ["north"], NOW)
    kit, sites = folder / "sites" / "north", SiteList(folder / "server" / "sites.json")
    assert read_kit(kit, NOW + 29 * DAY).notice is None
    assert sites.expiring(NOW + 29 * DAY) == []
    notice = read_kit(kit, NOW + 31 * DAY).notice
    assert notice is not None
    assert "site.pem: the certificate expires on" in notice
    assert "in 29 days; ask the federation's operator for this hospital's kit, renewed" in notice
    (warning,) = sites.expiring(NOW + 31 * DAY)
    assert "flower-provision renew FOLDER north makes a new one" in warning
    revoke(folder, "north", NOW)
    assert sites.expiring(NOW + 31 * DAY) == []
    renew_server(folder, datetime.now(UTC) - 40 * DAY)
    ServerTLS(folder / "server")
    assert "server.crt: the certificate expires on" in caplog.text
    assert "flower-provision renew FOLDER --server" in caplog.text


def test_a_kit_is_filled_in(federation: Path) -> None:
    kit = federation / "sites" / "north"
    lines = (kit / "client.env").read_text().splitlines()
    options = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert options == {
        "FLOWER_CLIENT_SERVER": "localhost:8443",
        "FLOWER_CLIENT_NAME": "north",
        "FLOWER_CLIENT_TLS": "/kit",
        "FLOWER_CLIENT_DATA": "/data/shard",
        "FLOWER_CLIENT_POLICY": "/kit/policy.json",
        "FLOWER_CLIENT_STATE": "/state",
        "FLOWER_CLIENT_STAY": "true",
    }
    for name in options:
        above = lines[lines.index(f"{name}={options[name]}") - 1]
        assert above.startswith("# "), name
    assert json.loads((kit / "policy.json").read_text()) == {
        "max_local_epochs": 5,
        "max_examples": None,
        "tasks": ["train", "evaluate"],
        "modes": ["finetune", "linear"],
        "min_group": 5,
        "histograms": True,
    }
    page = (kit / "README.md").read_text()
    for value in ("localhost:8443", "north", f"{NOW + 30 * DAY:%Y-%m-%d}", "chown -R 10001 ."):
        assert value in page
    assert "$" not in page
    compose = (kit / "docker-compose.yml").read_text()
    assert "${DATA:?" in compose
    image = f"fedcxr-client:{version('fedcxr')}"
    assert f"Load the image `{image}`, of this version" in page
    settings = (kit / ".env").read_text().splitlines()
    expected = {f"IMAGE={image}", "SIZE=256", "SHARD=shard", "COMPOSE_PROJECT_NAME=fedcxr-north"}
    assert expected <= set(settings)


def test_a_kit_says_which_image_and_which_films(tmp_path: Path) -> None:
    image = ("--image", "registry.example/fedcxr-client:7", "--image-id", f"sha256:{'a' * 64}")
    made = ("--out", tmp_path / "f", "--server", "localhost", "--names", "north")
    assert run("flower-provision", "new", *made, *image, "--image-size", 96).returncode == 0
    kit = tmp_path / "f" / "sites" / "north"
    assert "IMAGE=registry.example/fedcxr-client:7\nSIZE=96\n" in (kit / ".env").read_text()
    for renewed in (False, True):
        if renewed:
            assert run("flower-provision", "renew", tmp_path / "f", "north").returncode == 0
        page = (kit / "README.md").read_text()
        assert f"`registry.example/fedcxr-client:7`, with the ID `sha256:{'a' * 64}`" in page
        assert "The films become 96 pixels wide" in page


def test_the_address_of_an_ipv6_server_can_be_split() -> None:
    address = Config(hosts=["::1"], port=8080, days=1).address
    assert address == "[::1]:8080"
    assert split_address(address) == ("::1", 8080)


@pytest.mark.parametrize(
    "address", ["h", "h:", ":8080", "http://h:8080", "h/x:8080", "::1:8080", "[::1:8080", "[]:8080"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="not HOST:PORT"):
        split_address(address)


def test_what_changes_for_one_hospital_changes_nothing_for_others(federation: Path) -> None:
    sites = federation / "server" / "sites.json"
    before, others = contents(federation), read_sites(sites)["coast"]
    add(federation, "west", NOW)
    assert changed(federation, before) == {
        "server/sites.json", *(f"sites/west/{name}" for name in KIT)
    }  # fmt: skip
    before = contents(federation)
    renew(federation, "north", NOW + DAY)
    assert changed(federation, before) == {
        "server/sites.json", "sites/north/site.pem", "sites/north/README.md"
    }  # fmt: skip
    before = contents(federation)
    revoke(federation, "north", NOW)
    assert changed(federation, before) == {"server/sites.json"}
    assert read_sites(sites)["coast"] == others


def test_a_hospital_is_shut_out_at_once_and_comes_back_with_a_new_certificate_alone(
    federation: Path,
) -> None:
    listed = SiteList(federation / "server" / "sites.json")
    old = listed.lookup("north")
    assert old is not None
    revoke(federation, "north", NOW)
    revoke(federation, "north", NOW + DAY)
    assert listed.refusal("north", NOW) == f"north was revoked on {NOW:%Y-%m-%d}"
    with pytest.raises(BadInput, match=r"north: is on the list already.*renew"):
        add(federation, "north", NOW)
    assert listed.refusal("north", NOW) is not None
    renew(federation, "north", NOW + 5 * DAY)
    assert listed.refusal("north", NOW + 34 * DAY) is None
    site, kit = listed.lookup("north"), federation / "sites" / "north"
    assert site is not None
    assert site.certificate == fingerprint_of(read_certificate(kit / "site.pem"))
    assert site.certificate != old.certificate
    assert (site.added, site.expires) == (NOW, NOW + 35 * DAY)
    assert (kit / "site.pem").stat().st_mode & 0o777 == 0o600
    assert f"{NOW + 35 * DAY:%Y-%m-%d}" in (kit / "README.md").read_text()


def test_a_kit_that_was_sent_and_removed_is_written_again(federation: Path) -> None:
    kit = federation / "sites" / "north"
    shutil.rmtree(kit)
    site = renew(federation, "north", NOW)
    assert sorted(file.name for file in kit.iterdir()) == sorted(KIT)
    assert fingerprint_of(read_certificate(kit / "site.pem")) == site.certificate


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        (lambda folder: new(folder.parent / "another", CONFIG, ["north"], NOW), None),
        (lambda folder: add(folder, "west", NOW), None),
        (lambda folder: renew(folder, "north", NOW), None),
        (lambda folder: renew(folder, "north", NOW), "north"),
        (lambda folder: revoke(folder, "north", NOW), None),
    ],
    ids=["new", "add", "renew", "renew a kit that is gone", "revoke"],
)
def test_a_full_disk_leaves_everything_as_it_was(
    federation: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], object],
    gone: str | None,
) -> None:
    if gone:
        shutil.rmtree(federation / "sites" / gone)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = contents(federation.parent)
    monkeypatch.setattr("server.provision.federation.write_sites", fail)
    with pytest.raises(BadInput, match=r"cannot be written: No space left on device"):
        change(federation)
    assert changed(federation.parent, before) == set()
    assert [path.name for path in federation.parent.iterdir()] == ["federation"]
    assert {path.name for path in (federation / "sites").iterdir()} == {"north", "coast"} - {gone}


def test_another_cas_key_signs_nothing(federation: Path, tmp_path: Path) -> None:
    new(tmp_path / "other", CONFIG, ["north"], NOW)
    (tmp_path / "other" / "ca" / "ca.key").replace(federation / "ca" / "ca.key")
    before = contents(federation)
    with pytest.raises(BadInput, match=r"ca\.key: not the key of .*ca\.crt"):
        renew_server(federation, NOW)
    assert changed(federation, before) == set()


def test_two_commands_do_not_change_a_federation_at_once(federation: Path) -> None:
    with (
        locked(federation, federation),
        pytest.raises(BadInput, match="another process is writing it"),
    ):
        add(federation, "west", NOW)


def test_the_commands_end_to_end(tmp_path: Path) -> None:
    folder = tmp_path / "federation"
    environment = {"FLOWER_PROVISION_SERVER": "fed.example.org, 192.0.2.7"}

    def provision(*arguments: object) -> str:
        result = run("flower-provision", *arguments, environment=environment)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        return result.stdout

    made = provision("new", "--out", folder, "--sites", 2, "--days", 1, "--port", 443)
    assert "reached at fed.example.org:443\n" in made
    assert "expires in 1 day, on" in made
    names = read_certificate(folder / "server" / "server.crt").extensions
    alternatives = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.DNSName) == ["fed.example.org"]
    assert [str(ip) for ip in alternatives.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    assert str(folder / "sites" / "west") in provision("add", folder, "west")
    assert "the old one is void" in provision("renew", folder, "hospital-01")
    assert "server.crt: expires in 1 day" in provision("renew", folder, "--server")
    assert "hospital-00: revoked since" in provision("revoke", folder, "hospital-00")
    table = provision("show", folder).splitlines()
    assert [line.split("  ")[0] for line in table] == [
        "CA", "server fed.example.org:443", "hospital-00", "hospital-01", "west",
    ]  # fmt: skip
    assert [" ".join(line[27:].split()[:-1]) for line in table] == [
        "expires in 10 days, on", "expires in 1 day, on", "revoked since",
        "expires in 1 day, on", "expires in 1 day, on",
    ]  # fmt: skip


def test_what_is_past_is_shown_as_expired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "federation"
    new(folder, CONFIG, ["north"], NOW - 31 * DAY)
    command(["show", str(folder)])
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].endswith(f"expired on {NOW - DAY:%Y-%m-%d}")
    assert shown[2].split() == ["north", "expired", "on", f"{NOW - DAY:%Y-%m-%d}"]


NEW = ["new", "--out", "{at}/new", "--server"]


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["frob"], ["'frob' is not a command", "new, add"]),
        (["new", "--server", "a"], ["--out (or FLOWER_PROVISION_OUT) is required"]),
        (["new", "--out", "{at}/federation", "--server", "a"], ["federation: is there already"]),
        (["new", "--out", "{at}/federation/provision.json/x", "--server", "a"], ["cannot be made"]),
        ([*NEW, "a:80"], ["--server (or FLOWER_PROVISION_SERVER): neither a DNS name", "'a:80'"]),
        ([*NEW, "[::1]"], ["--server", "neither", "'[::1]'"]),
        ([*NEW, "*.example.org"], ["--server", "neither", "'*.example.org'"]),
        ([*NEW, "fe80::1%eth0"], ["--server", "neither"]),
        ([*NEW, "999.1.1.1"], ["--server", "neither"]),
        ([*NEW, "a,,b"], ["--server", "neither", "''"]),
        ([*NEW, "a,b,a"], ["--server", "a is there twice"]),
        ([*NEW, "a", "--names", "x,../y"], ["--names", "'../y'"]),
        ([*NEW, "a", "--names", "x,x"], ["--names", "x is there twice"]),
        ([*NEW, "a", "--names", "x", "--sites", "1"], ["either --sites N or --names"]),
        ([*NEW, "a", "--sites", "0"], ["--sites", "'0'"]),
        ([*NEW, "a", "--days", "0"], ["--days", "'0'"]),
        ([*NEW, "a", "--days", "3651"], ["--days", "'3651'"]),
        ([*NEW, "a", "--port", "65536"], ["--port", "'65536'"]),
        (["add", "{at}/federation", "north"], ["north: is on the list already", "renew"]),
        (["add", "{at}/federation", "../north"], ["NAME: ", "'../north'"]),
        (["add", "{at}/federation"], ["required: NAME"]),
        (["add", "{at}/federation", "stray"], ["sites/stray: is there already"]),
        (["add", "{at}/none", "north"], ["none/provision.json: cannot be read: No such file"]),
        (["renew", "{at}/federation"], ["either a hospital's NAME or --server"]),
        (
            ["renew", "--server", "{at}/federation", "north"],
            ["either a hospital's NAME or --server"],
        ),
        (
            ["renew", "{at}/federation", "west"],
            ["west: not on the list", "sites.json", "coast, north"],
        ),
        (["revoke", "{at}/federation", "west"], ["west: not on the list"]),
        (["show", "{at}"], ["provision.json: cannot be read"]),
        (["show", "{at}/broken"], ["provision.json: port: Field required"]),
    ],
)
def test_a_mistake_is_one_line(
    federation: Path, arguments: list[str], fragments: list[str]
) -> None:
    (federation / "sites" / "stray").mkdir()
    (federation / "sites" / "stray" / "file").touch()
    (federation.parent / "broken").mkdir()
    (federation.parent / "broken" / "provision.json").write_text('{"hosts": ["a"], "days": 1}')
    before = contents(federation.parent)
    with pytest.raises(BadInput) as refused:
        command([argument.replace("{at}", str(federation.parent)) for argument in arguments])
    assert "\n" not in str(refused.value)
    for fragment in fragments:
        assert fragment in str(refused.value)
    assert changed(federation.parent, before) == set()


def test_a_mistake_ends_the_command_with_one_line(federation: Path) -> None:
    assert_one_line(run("flower-provision", "add", federation, "north"), 2, "north: is on the list")


@pytest.mark.parametrize(
    ("file", "arguments", "what"),
    [
        ("server/sites.json", ["revoke", "north"], "sites.json: not a list of hospitals"),
        ("ca/ca.key", ["renew", "--server"], "ca.key: no private key in PEM"),
        ("ca/ca.key", ["add", "west"], "ca.key: no private key in PEM"),
        ("ca/ca.crt", ["add", "west"], "ca.crt: not a certificate in PEM"),
        ("ca/ca.crt", ["show"], "ca.crt: not a certificate in PEM"),
        ("server/server.crt", ["renew", "--server"], "server.crt: not a certificate in PEM"),
    ],
)
def test_a_damaged_or_missing_file_is_named(
    federation: Path, file: str, arguments: list[str], what: str
) -> None:
    given = [arguments[0], str(federation), *arguments[1:]]
    (federation / file).write_text("noise")
    with pytest.raises(BadInput, match=what):
        command(given)
    (federation / file).unlink()
    with pytest.raises(BadInput, match=f"{file}: cannot be read: No such file"):
        command(given)
