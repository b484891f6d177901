"""Each remedy that the server prints is followed here, and helps.

What needs hospitals too is in tests/federation/test_remedies.py.
"""

import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from common.checkpoint import write_checkpoint
from common.errors import BadInput
from common.model import build_model, state_of
from common.protocol import Greeting
from common.provenance import Provenance
from common.runtime.cli import parse
from experiments.launch.local import free_port
from server import serving
from server.cli import ServerSettings
from server.members.admission import Admission
from server.members.roster import Roster
from server.members.sites import SiteList
from server.provision.cli import command
from server.provision.federation import renew, renew_server
from server.report.cli import write_report
from server.rounds.loop import Rounds
from server.run.folder import RunFolder
from server.run.records import RunStatus
from server.run.start import Start, start_run
from server.transport.port import check_free
from server.transport.service import listening
from server.transport.tls import ServerTLS
from tests.support.federations import options
from tests.support.hospitals import GREETING, LocalHospitals
from tests.support.messages import HELLO
from tests.support.provisioned import provision
from tests.support.remedies import (
    Place,
    Remedy,
    Step,
    each,
    instead,
    mended,
    nothing,
    now,
    without_warnings,
)
from tests.support.shards import make_shard

SERVER = "kits/server"


def settings_of(run: Path, *more: object, **changes: object) -> ServerSettings:
    given = [*options(run, 1, **changes), "--insecure", *map(str, more)]
    return parse(ServerSettings, given)


def start(run: Path, *more: object, **changes: object) -> Start:
    """Begin a run, or go on with it, as far as its first instruction."""
    begun = start_run(settings_of(run, *more, **changes), 40)
    begun.folder.log.close()
    return begun


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two rounds."""
    folder = tmp_path_factory.mktemp("done")
    begun = start_run(settings_of(folder / "run"), 40)
    plan = replace(begun.plan, run=GREETING.run)
    hospitals = LocalHospitals([make_shard(folder / "north").path], plan.seed, {})
    rounds = Rounds(plan, hospitals, begun.folder, begun.state, begun.provenance, None)
    begun.folder.status.end(RunStatus(state="finished", **dict(rounds.run())))
    begun.folder.log.close()
    return folder / "run"


@pytest.fixture
def place(tmp_path: Path, done: Path) -> Place:
    path = tmp_path / "place"
    shutil.copytree(done, path / "run")
    provision(path / "kits", ["north"])
    provision(path / "others", ["north"])
    return Place(path)


def begins(name: str = "another", *more: object, **changes: object) -> Step:
    """Return a step: ``flower-server`` in a new folder."""
    return lambda p: start(p / name, *more, **changes)


def goes_on(*more: object, **changes: object) -> Step:
    """Return a step: ``flower-server --resume`` in the folder of the run that is done."""
    return lambda p: start(p / "run", "--resume", *more, **changes)


def spoils(file: str, content: str = "noise\n") -> Step:
    return lambda p: p.spoil(file, content)


def restores(*files: str) -> Step:
    return lambda p: p.restore(*files)


def has_a_first_model(p: Place) -> None:
    """Begin a run with a checkpoint, which is another one then."""
    for name, seed in (("first.pt", 1), ("other.pt", 2)):
        state = state_of(build_model("densenet-tiny", seed))
        write_checkpoint(p / name, state, "densenet-tiny", Provenance(method="random"))
    shutil.copy(p / "first.pt", p / "init.pt")
    start(p / "another", init=p / "init.pt")
    p.put("init.pt", "other.pt")


def with_init(name: str, *more: object) -> Step:
    return lambda p: start(p / name, *more, init=p / "init.pt")


LAST = "run/checkpoints/round-0002.pt"


@each(
    instead("give --run a new folder", begins("run"), begins()),
    instead("or --resume to go on with it", begins("run"), goes_on()),
    instead("--resume needs the folder of a run", begins("kits", "--resume"), goes_on()),
    instead("or give --run another folder", begins("kits/provision.json/run"), begins()),
    instead("give the same", goes_on(lr=0.01), goes_on()),
    instead("add --change lr=0.01", goes_on(lr=0.01), goes_on("--change", "lr=0.01", lr=0.01)),
    instead("or start another run", goes_on(lr=0.01), begins(lr=0.01)),
    mended(
        "give that one",
        has_a_first_model,
        with_init("another", "--resume"),
        lambda p: p.put("init.pt", "first.pt"),
    ),
    instead(
        "or start another run",
        with_init("another", "--resume"),
        with_init("third"),
        before=has_a_first_model,
    ),
    instead("leave the option out", begins("new", "--resume", "--change", "lr=0.1"), begins()),
    instead(
        "give the option itself to a new run", begins("new", "--change", "lr=0.1"), begins(lr=0.1)
    ),
    instead("give 2 or more", goes_on(rounds=1), goes_on(rounds=2)),
    mended(
        "restore it from a backup of the run",
        lambda p: (p / LAST).unlink(),
        goes_on(),
        restores(LAST),
    ),
    mended(
        "restore both from a backup",
        lambda p: p.put(LAST, "run/checkpoints/round-0001.pt"),
        goes_on(),
        restores(LAST, "run/rounds.jsonl"),
    ),
    mended(
        "restore it from a backup",
        spoils("run/rounds.jsonl"),
        goes_on(),
        restores("run/rounds.jsonl"),
    ),
    mended(
        "move the file away and keep it, and another is begun",
        spoils("run/audit.jsonl"),
        goes_on(),
        lambda p: (p / "run/audit.jsonl").rename(p / "kept.jsonl"),
    ),
    instead("give either --tls DIR or --insecure", begins("new", "--tls", "x"), begins()),
    instead("a share up to 1 nor a whole", begins("new", quorum=1.5), begins(quorum=0.5)),
    instead(
        "give --fraction below 1",
        begins("new", sample="size"),
        begins(sample="size", fraction=0.5),
    ),
    instead(
        "give --sample uniform",
        begins("new", fraction=0.5, sample="size", strategy="median"),
        begins(fraction=0.5, sample="uniform", strategy="median"),
    ),
    instead("give at most that", begins("new", rounds_end=2), begins(rounds_end=1)),
    instead(
        "or a higher --min-clients",
        begins("new", rounds_end=2),
        begins(rounds_end=2, min_clients=2),
    ),
    instead(
        "give --local sgd or fedprox, and a --strategy such as fedavg",
        begins("new", dp="sample", strategy="scaffold"),
        begins(dp="sample", strategy="fedavg", local="sgd"),
    ),
    instead(
        "leave --mu out",
        begins("new", strategy="scaffold", mu=0.5),
        begins(strategy="scaffold"),
    ),
    instead(
        "leave --rounds-end out",
        begins("new", rounds_end=1, strategy="scaffold"),
        begins(strategy="scaffold"),
    ),
)
def test_a_run_can_be_begun_or_gone_on_with(place: Place, remedy: Remedy) -> None:
    remedy.helps(place)


def test_a_model_whose_unshared_rest_is_frozen_is_a_whole_one(tmp_path: Path) -> None:
    begun = start_run(settings_of(tmp_path / "run", mode="linear", shared="head"), 40)
    file = tmp_path / "final.pt"
    write_checkpoint(file, begun.state, "densenet-tiny", begun.provenance)
    start_run(settings_of(tmp_path / "next", init=file), 40)


def reports(*runs: str, out: str = "page.html", figures: str | None = None) -> Step:
    def step(p: Place) -> None:
        write_report([p / run for run in runs], p / out, p / figures if figures else None)

    return step


@each(
    instead("name the folder of a run that was started", reports("kits"), reports("run")),
    *(
        mended("restore it from a backup", spoils(file), reports("run"), restores(file))
        for file in ("run/config.json", "run/status.json", "run/rounds.jsonl")
    ),
    instead("give --out another file", reports("run", out="kits"), reports("run")),
    instead(
        "give --figures another folder",
        reports("run", figures="run/config.json"),
        reports("run", figures="figures"),
    ),
    instead("leave one out", reports("run", "run"), reports("run")),
)
def test_a_run_can_be_reported(
    place: Place, remedy: Remedy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Figures take a second and are none of this.
    monkeypatch.setattr("server.report.page.page_of", lambda _: "a page")
    monkeypatch.setattr("server.report.page.files_in", lambda _: [("auc.csv", b"a table")])
    remedy.helps(place)


def other_size(p: Place) -> Path:
    return make_shard(p / "test", size=48).path


def scores_on(*more: object) -> Step:
    """Return a step: ``flower-server --test`` as far as the test shard."""

    def step(p: Place) -> object:
        given = ["--init", "random", "--run", p / "new", "--insecure", "--test", p / "test"]
        settings = parse(ServerSettings, [str(word) for word in (*given, *more)])
        return serving.tester_of(settings, settings.mode)

    return step


def made_again(p: Place) -> None:
    shutil.rmtree(p / "test")
    make_shard(p / "test", size=40)


SIZE_40 = ("--image-size", 40, "--architecture", "densenet-tiny")


@each(
    mended("make the shard again", other_size, scores_on(*SIZE_40), made_again),
    instead(
        "leave the option out", scores_on(*SIZE_40), scores_on(*SIZE_40[2:]), before=other_size
    ),
)
def test_a_test_shard_fits(place: Place, remedy: Remedy) -> None:
    remedy.helps(place)


def uses(folder: str) -> Step:
    """Return a step: ``flower-server --tls``; a warning is an error."""

    def step(p: Place) -> None:
        with without_warnings():
            ServerTLS(p / folder)
        if expiring := SiteList(p / folder / "sites.json").expiring(now()):
            raise BadInput("\n".join(expiring))

    return step


def puts(name: str, *others: str) -> Step:
    def step(p: Place) -> None:
        for other in others:
            p.put(f"{SERVER}/{name}", other)

    return step


def shows_a_hospitals_certificate(p: Place) -> None:
    for name in ("server.crt", "server.key"):
        p.put(f"{SERVER}/{name}", "kits/sites/north/site.pem")


def since(days: int, what: str = "server") -> Step:
    """Return a step: the certificate is so old; it is valid for 90 days."""

    def step(p: Place) -> None:
        then = now() - timedelta(days=days)
        renew_server(p / "kits", then) if what == "server" else renew(p / "kits", what, then)

    return step


def renews(what: str) -> Step:
    return lambda p: command(["renew", str(p / "kits"), what])


FOLDER = "give --tls the folder server of flower-provision"
RENEW = "flower-provision renew FOLDER --server makes a new one"


@each(
    instead(FOLDER, uses("kits"), uses(SERVER)),
    *(
        mended(FOLDER, spoils(f"{SERVER}/{name}"), uses(SERVER), restores(f"{SERVER}/{name}"))
        for name in ("ca.crt", "server.crt", "server.key")
    ),
    mended(
        FOLDER,
        puts("server.key", "others/server/server.key"),
        uses(SERVER),
        restores(f"{SERVER}/server.key"),
    ),
    mended(FOLDER, puts("ca.crt", "others/ca/ca.crt"), uses(SERVER), restores(f"{SERVER}/ca.crt")),
    mended(
        FOLDER,
        shows_a_hospitals_certificate,
        uses(SERVER),
        restores(f"{SERVER}/server.crt", f"{SERVER}/server.key"),
    ),
    mended(RENEW, since(91), uses(SERVER), renews("--server")),
    mended(RENEW, since(80), uses(SERVER), renews("--server")),
    mended(
        "flower-provision renew FOLDER north makes a new one",
        since(80, "north"),
        uses(SERVER),
        renews("north"),
    ),
    mended(
        "restore it from a copy, or from the folder server of flower-provision",
        lambda p: (p / SERVER / "sites.json").unlink(),
        uses(SERVER),
        restores(f"{SERVER}/sites.json"),
    ),
    mended(
        "restore it from a copy",
        spoils(f"{SERVER}/sites.json"),
        uses(SERVER),
        restores(f"{SERVER}/sites.json"),
    ),
    Remedy(
        "make the federation with this version's flower-provision new",
        spoils(f"{SERVER}/sites.json", '{"version": 1, "sites": {}}'),
        uses(SERVER),
        lambda p: command(["new", "--out", str(p / "new"), "--server", "a", "--names", "x"]),
        uses("new/server"),
    ),
)
def test_the_folder_of_flower_provision_can_be_used(place: Place, remedy: Remedy) -> None:
    remedy.helps(place)


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def roster_with(path: Path, max_examples: int = 1000) -> Roster:
    folder = RunFolder.create(path, {})
    greeting = Greeting(run="r", seed=0)
    return Roster(Admission(greeting, 40, folder, max_examples=max_examples), folder)


def listens(p: Place, port: int) -> None:
    with listening(roster_with(p / f"run-{port}"), f"127.0.0.1:{port}", None):
        pass


def test_a_port_can_be_listened_on(place: Place, taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    used, free = f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}"
    for remedy in (
        instead("choose another port", lambda _: check_free(used), lambda _: check_free(free)),
        instead(
            "choose another port", lambda p: listens(p, port), lambda p: listens(p, free_port())
        ),
        instead(
            "give an address of this machine",
            lambda _: check_free("192.0.2.1:8080"),
            lambda _: check_free(free),
        ),
        mended("or end what uses it", nothing, lambda _: check_free(used), lambda _: taken.close()),
    ):
        remedy.helps(place)


def test_the_operator_may_let_in_who_announces_many_images(place: Place) -> None:
    def refuses(most: int) -> Step:
        def step(p: Place) -> None:
            admission = roster_with(p / f"run-{most}", most).admission
            hello = HELLO.model_copy(update={"image_size": 40})
            if (reason := admission.refusal(None, hello)) is not None:
                raise BadInput(reason)

        return step

    says = "the operator may give more with --resume"
    instead(says, refuses(HELLO.examples - 1), refuses(HELLO.examples)).helps(place)
    goes_on(max_examples=5)(place)
