"""Each remedy that flower-provision prints is followed here, and helps."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from server.provision.cli import command
from server.provision.federation import new, read_config
from tests.support.disks import needs_root, small_disk
from tests.support.provisioned import provision
from tests.support.remedies import Place, Remedy, Step, each, instead, mended, nothing, now

KITS = "kits"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "place").mkdir()
    provision(tmp_path / "place" / KITS, ["north", "coast"])
    return Place(tmp_path / "place")


def does(name: str, *arguments: str, folder: str = KITS) -> Step:
    """Return a step: a command of flower-provision on a folder."""
    return lambda p: command([name, str(p / folder), *arguments])


def makes(folder: str, *more: str) -> Step:
    """Return a step: ``flower-provision new``."""
    given = more or ("--names", "x")
    return lambda p: command(["new", "--out", str(p / folder), "--server", "a", *given])


def spoils(file: str, content: str = "noise\n") -> Step:
    return lambda p: p.spoil(f"{KITS}/{file}", content)


def restores(file: str) -> Step:
    return lambda p: p.restore(f"{KITS}/{file}")


def removes(name: str) -> Step:
    return lambda p: shutil.rmtree(p / name)


def has_another_kind_of_key(p: Place) -> None:
    """Put a certificate and key in the CA's place that are whole, but of another kind."""
    key = ed25519.Ed25519PrivateKey.generate()
    (p / KITS / "ca" / "ca.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def outlived_its_ca(p: Place) -> None:
    config = read_config(p / KITS)
    shutil.rmtree(p / KITS)
    new(p / KITS, config, ["north"], now() - timedelta(days=3651))


RESTORE = "restore it from a copy"


@each(
    instead(
        "name a folder of flower-provision new",
        lambda p: command(["show", str(p / KITS / "sites")]),
        does("show"),
    ),
    mended(RESTORE, spoils("provision.json", "{}"), does("show"), restores("provision.json")),
    mended(
        RESTORE, spoils("server/sites.json"), does("revoke", "north"), restores("server/sites.json")
    ),
    mended(
        "restore it from a copy, or from the folder server",
        lambda p: (p / KITS / "server/sites.json").unlink(),
        does("add", "west"),
        restores("server/sites.json"),
    ),
    mended(RESTORE, spoils("ca/ca.crt"), does("show"), restores("ca/ca.crt")),
    mended(
        RESTORE,
        spoils("server/server.crt"),
        does("renew", "--server"),
        restores("server/server.crt"),
    ),
    mended(
        "put the CA's key back for this command",
        lambda p: (p / KITS / "ca/ca.key").unlink(),
        does("renew", "coast"),
        restores("ca/ca.key"),
    ),
    mended(
        "put the CA's key back for this command",
        has_another_kind_of_key,
        does("renew", "coast"),
        restores("ca/ca.key"),
    ),
    instead(
        "flower-provision renew gives it a new certificate",
        does("add", "north"),
        does("renew", "north"),
    ),
    instead("it has coast, north", does("revoke", "west"), does("revoke", "coast")),
    instead("choose another name or remove it", makes(KITS), makes("another")),
    mended("choose another name or remove it", nothing, makes(KITS), removes(KITS)),
    mended(
        "choose another name or remove it",
        lambda p: (p / KITS / "sites/west/file").mkdir(parents=True),
        does("add", "west"),
        removes(f"{KITS}/sites/west"),
    ),
    Remedy(
        "make a new federation with flower-provision new",
        outlived_its_ca,
        does("add", "west"),
        makes("fresh"),
        does("add", "west", folder="fresh"),
    ),
    instead(
        "either --sites N or --names A,B",
        makes("another", "--sites", "1", "--names", "x"),
        makes("another", "--names", "x"),
    ),
    instead("either a hospital's NAME or --server", does("renew"), does("renew", "--server")),
    instead("give one of new, add", lambda _: command(["make"]), makes("another")),
)
def test_the_remedy_that_is_printed_helps(place: Place, remedy: Remedy) -> None:
    remedy.helps(place)


@needs_root
def test_below_a_mount_point_a_federation_can_be_made(place: Place) -> None:
    with small_disk(place / "disk"):
        says = "is a mount point; name a folder below it"
        instead(says, makes("disk"), makes("disk/federation")).helps(place)
