"""Each remedy that a hospital's client prints is followed here, and helps.

What needs whole runs is in tests/federation/test_remedies.py.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch

import pytest

from client.check import findings
from client.cli import ClientSettings
from client.kit import read_kit
from client.policy import Policy, read_policy
from client.slots import check_slots
from client.state import ClientState
from client.transport.connection import take_part
from client.transport.messages import MessageHandler
from common.errors import BadInput
from common.model import choose_device
from common.options import Training
from common.protocol import Greeting
from common.runtime.cli import parse
from experiments.launch.local import free_port
from server.members.admission import Admission
from server.members.roster import Roster
from server.members.sites import SiteList
from server.provision.cli import command
from server.provision.federation import renew, renew_server
from server.run.folder import RunFolder
from server.transport.service import listening
from server.transport.tls import ServerTLS
from tests.support.doc_commands import DOCS
from tests.support.hospitals import GREETING, hospital_of
from tests.support.messages import HELLO
from tests.support.provisioned import provision
from tests.support.remedies import Place, Remedy, Step, each, instead, mended, now
from tests.support.shards import make_shard

KIT = "kits/sites/north"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    path = tmp_path / "place"
    make_shard(path / "north")
    for name in ("kits", "others"):
        provision(path / name, ["north", "coast"])
    return Place(path)


def reads(kit: str = KIT, name: str = "north", days: int = 0) -> Step:
    """Return a step: a kit is read, so many days from now; a warning is an error."""

    def step(p: Place) -> None:
        if notice := read_kit(p / kit, now() + timedelta(days=days), name).notice:
            raise BadInput(notice)

    return step


def since(days: int) -> Step:
    """Return a step: the certificate is so old; it is valid for 90 days."""
    return lambda p: renew(p / "kits", "north", now() - timedelta(days=days))


def loses(name: str) -> Step:
    return lambda p: (p / KIT / name).unlink()


def spoils(name: str) -> Step:
    return lambda p: p.spoil(f"{KIT}/{name}")


def is_a_servers(p: Place) -> None:
    pem = b"".join((p / "kits/server" / f"server.{end}").read_bytes() for end in ("key", "crt"))
    (p / KIT / "site.pem").write_bytes(pem)


def from_the_operator(*files: str) -> Step:
    return lambda p: p.restore(*(f"{KIT}/{name}" for name in files))


def renewed(p: Place) -> None:
    command(["renew", str(p / "kits"), "north"])


ASK = "ask the federation's operator for this hospital's kit"


@each(
    *(
        mended(ASK, before(name), reads(), from_the_operator(name))
        for before in (loses, spoils)
        for name in ("ca.crt", "site.pem")
    ),
    mended(
        ASK,
        lambda p: p.put(f"{KIT}/ca.crt", "others/ca/ca.crt"),
        reads(),
        from_the_operator("ca.crt"),
    ),
    mended(ASK, is_a_servers, reads(), from_the_operator("site.pem")),
    instead(ASK, reads("kits/sites/coast"), reads()),
    mended(f"{ASK}, renewed", since(91), reads(), renewed),
    mended(f"{ASK}, renewed", since(80), reads(), renewed),
    instead("set the clock", reads(days=-2), reads()),
    mended(
        "chmod 600 it",
        lambda p: (p / KIT / "site.pem").chmod(0o644),
        reads(),
        lambda p: (p / KIT / "site.pem").chmod(0o600),
    ),
)
def test_a_kit_can_be_used(place: Place, remedy: Remedy) -> None:
    remedy.helps(place)


def has_policy(p: Place, *fields: str, **values: object) -> None:
    policy = {name: getattr(Policy(), name) for name in fields} | values
    (p / "policy.json").write_text(json.dumps(policy))


def as_documented(p: Place) -> None:
    """Write a policy with the fields that docs/deploy.md has."""
    rows = re.findall(r"\| `(\w+)` \|.*\|\n", (DOCS / "deploy.md").read_text())
    fields = [name for name in rows if name in Policy.model_fields]
    assert set(fields) == set(Policy.model_fields)
    has_policy(p, *fields)


def obeys(p: Place) -> None:
    read_policy(p / "policy.json")


def hospital(
    images: int = 40, policy: Policy | None = None, name: str = "x", **changes: Any
) -> Step:
    """Return a step: a hospital with such a shard is greeted."""
    training = changes.pop("training", {})
    greeting = GREETING.model_copy(update={"training": Training.model_validate(training)})

    def step(p: Place) -> None:
        shard = make_shard(Path(mkdtemp(dir=p / "north")) / name, images=images, **changes)
        hospital_of(shard.path, policy=policy, greeting=greeting)

    return step


def options(*given: str, server: str = "127.0.0.1:1", data: str = "north") -> Step:
    return lambda p: parse(ClientSettings, ["--server", server, "--data", str(p / data), *given])


@each(
    instead("--policy needs a file", lambda p: read_policy(p / "north"), obeys, has_policy),
    mended("see docs/deploy.md", lambda p: p.spoil("policy.json"), obeys, as_documented),
    mended("see docs/deploy.md", lambda p: has_policy(p, epochs=1), obeys, as_documented),
    instead("give a shard with labels", hospital(unlabelled=range(40)), hospital()),
    instead(
        "give a shard with more patients",
        hospital(images=2, name="x31"),  # whose only patient is kept for validation
        hospital(),
    ),
    instead(
        "give a larger shard",
        hospital(policy=Policy(min_group=100)),
        hospital(images=160, policy=Policy(min_group=100)),
    ),
    instead(
        "give a shard with more images",
        hospital(training={"label_fraction": 0.02}),
        hospital(images=160, training={"label_fraction": 0.02}),
    ),
    instead(
        "give another folder",
        lambda p: check_slots(p / "north/index.csv", 1),
        lambda p: check_slots(p / "slots", 1),
    ),
    instead(
        "or give --state another folder",
        lambda p: ClientState(p / "north/index.csv"),
        lambda p: ClientState(p / "state"),
    ),
    mended(
        "move the file away and keep it, and another is begun",
        lambda p: p.spoil("audit.jsonl"),
        lambda p: ClientState(p / "."),
        lambda p: (p / "audit.jsonl").rename(p / "kept.jsonl"),
    ),
    instead(
        "try --device cpu",
        lambda _: choose_device("cuda:99"),
        lambda _: choose_device("cpu"),
    ),
    instead("give cpu or cuda", lambda _: choose_device("meta"), lambda _: choose_device("cpu")),
    instead("give either --tls DIR or --insecure", options(), options("--insecure")),
    instead(
        "give --name",
        options("--insecure", data="a b"),
        options("--insecure", "--name", "x", data="a b"),
    ),
)
def test_a_client_can_start(place: Place, remedy: Remedy) -> None:
    remedy.helps(place)


@contextmanager
def server(p: Place, tls: bool = True) -> Iterator[str]:
    """Run a server that says farewell to whoever joins; yield its address."""
    address = f"127.0.0.1:{free_port()}"
    folder = RunFolder.create(Path(mkdtemp(dir=p / ".")) / "run", {})
    sites = SiteList(p / "kits/server/sites.json") if tls else None
    roster = Roster(Admission(Greeting(run="r", seed=5), 40, folder, sites), folder)
    roster.say_farewell("over")
    with listening(roster, address, ServerTLS(p / "kits/server") if tls else None):
        yield address


def checks(shard: str = "north", host: str = "127.0.0.1", up: bool = True) -> Step:
    """Return a step: ``flower-client --check``, of a server that is up or not."""

    def step(p: Place) -> None:
        with server(p) as address:
            port = address.partition(":")[2] if up else free_port()
            given = ["--server", f"{host}:{port}", "--tls", str(p / KIT), "--data", str(p / shard)]
            found = [
                each.line() for each in findings(parse(ClientSettings, given)) if not each.good
            ]
        if found:
            raise BadInput("\n".join(found))

    return step


class Somebody:
    """A hospital that says hello."""

    name, device, precision = "north", "cpu", "fp32"

    def greet(self, _greeting: Greeting) -> Any:
        return HELLO.model_copy(update={"site": self.name, "image_size": 40})


def joins(kit: str | None = KIT, up: bool = True, tls: bool = True, patience: float = 0.1) -> Step:
    """Return a step: a client takes part."""

    def step(p: Place) -> None:
        handler = MessageHandler(Somebody(), ClientState(None))  # type: ignore[arg-type]
        folder = None if kit is None else p / kit
        with server(p, tls) as address:
            place = address if up else f"127.0.0.1:{free_port()}"
            take_part(handler, place, folder, patience)

    return step


def made_again(p: Place) -> None:
    shutil.rmtree(p / "wide")
    make_shard(p / "wide/north", size=40)


def was_renewed_before_this_client_was(p: Place) -> None:
    p.put("old.pem", f"{KIT}/site.pem")
    renewed(p)
    p.put("sent.pem", f"{KIT}/site.pem")
    p.put(f"{KIT}/site.pem", "old.pem")


def meets_an_expired_server(p: Place) -> None:
    """Join a server whose certificate has expired while it ran."""
    with patch("server.transport.tls.check_valid"):
        joins()(p)


CHECK = "check that it runs, that the address is right, and that both sides use --tls or both"


@each(
    Remedy(
        "make the shard again with --size 40",
        lambda p: make_shard(p / "wide/north", size=48),
        checks("wide/north"),
        made_again,
        checks("wide/north"),
    ),
    mended(
        "use the one sent last",
        was_renewed_before_this_client_was,
        checks(),
        lambda p: p.put(f"{KIT}/site.pem", "sent.pem"),
    ),
    instead("does the server run", checks(up=False), checks()),
    instead("ask the operator for the address", checks(host="server.invalid"), checks()),
    instead(CHECK, joins(up=False), joins(patience=10)),
    instead(CHECK, joins(kit=None), joins(patience=10)),
    instead(CHECK, joins(tls=False), joins(patience=10)),
    instead(
        "use the kit of this server's federation",
        joins("others/sites/north"),
        joins(patience=10),
    ),
    Remedy(
        "the server's certificate has expired; tell the operator",
        lambda p: renew_server(p / "kits", now() - timedelta(days=91)),
        meets_an_expired_server,
        lambda p: command(["renew", str(p / "kits"), "--server"]),
        joins(patience=10),
    ),
)
def test_a_client_can_connect(place: Place, remedy: Remedy) -> None:
    remedy.helps(place)
