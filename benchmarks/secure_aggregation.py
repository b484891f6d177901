"""What a secure sum costs beside plain updates: CPU seconds and bytes of a round, without training.

A DenseNet-121 (7.0 million floats). The hospitals' and the server's own code, called one after the
other in one process and without a transport, so that each side's CPU time is its own:

- plain: a hospital packs and hashes its weights; the server checks each update, keeps it as a file
  and takes the weighted mean.
- secure: keys with signatures, shares, masks; the server adds up, recovers the secrets and takes
  the masks away. One hospital in ten is lost after it has made shares.
- secure, int8: the same with half a word for each parameter, as from the second round on.

Three hospitals mask an update; the others send random words, since masks for all would take
minutes. The mean is then made of a sum of which no mask is left. Tests see that sums are right.

    python -m benchmarks.secure_aggregation [HOSPITALS ...]
"""

import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding

from client.secure.sums import SecureSums
from common.message import Identity
from common.model import build_model, state_of
from common.options import Training
from common.protocol import Instruction, Reply, Seconds
from common.secure.fixed import from_words, length, to_words
from common.secure.keys import SignedKeys, Signer
from common.secure.messages import Confirmed, Masked, Revealed, Shares
from common.secure.settings import SecureSettings
from common.secure.terms import terms_of
from common.state import State, is_float, spec_of
from common.wire import fingerprint, pack
from server.provision.certificates import issue_site, new_authority, new_key
from server.rounds.checks import check_weights
from server.run.spool import Spool
from server.secure.aggregation import Aggregation
from server.strategies.base import RoundInfo, UpdateInfo
from server.strategies.fedavg import FedAvg

IDENTITY = Identity(run="benchmark", round=1, attempt=1)
INSTRUCTION = Instruction(
    identity=IDENTITY,
    task="train",
    weights="all",
    architecture="densenet121",
    training=Training(),
    seed=0,
    seconds=60,
)
FILMS = 1000
STEPS = ("begin", "share", "mask", "confirm", "reveal")
MASKING = 3
"""Hospitals that mask a whole update."""

Times = dict[str, list[float]]


@contextmanager
def timed(times: Times, role: str) -> Iterator[None]:
    """Note the CPU seconds of the block."""
    start = time.process_time()
    yield
    times.setdefault(role, []).append(time.process_time() - start)


def changed(before: State) -> State:
    """Return what a hospital makes of a model: a change of about norm 2.6."""
    rng = np.random.default_rng(0)
    return {
        name: array + rng.normal(0, 1e-3, array.shape).astype(array.dtype)
        if is_float(array) and not name.endswith("running_var")
        else array
        for name, array in before.items()
    }


def plain(before: State, after: State, hospitals: int) -> tuple[Times, int]:
    """Return the CPU seconds of both sides, and the bytes of an update."""
    times: Times = {}
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "replies", spec_of(before))
        for i in range(hospitals):
            with timed(times, "hospital"):
                blob = pack(after)
                reply = Reply(
                    identity=IDENTITY,
                    status="ok",
                    examples=FILMS,
                    loss=0.5,
                    seconds=Seconds(wait=0, evaluate=0, train=0),
                    weights=fingerprint(blob),
                )
            with timed(times, "server"):
                received = fingerprint(blob)
                check_weights(reply, blob, received, before, INSTRUCTION)
                spool.put(f"hospital-{i:02d}", blob, UpdateInfo(FILMS, 1.0))
        with timed(times, "server"):
            updates = spool.updates([f"hospital-{i:02d}" for i in range(hospitals)])
            FedAvg().combine(before, updates, RoundInfo(1, INSTRUCTION.training, hospitals))
    return times, len(blob)


def secure(
    before: State, after: State, hospitals: int, rotation: int | None
) -> tuple[Times, dict[str, int]]:
    """Return the CPU seconds of the server and of each step at a hospital, and the bytes."""
    names = [f"hospital-{i:02d}" for i in range(hospitals)]
    gone = set(names[::10])
    masking = [name for name in names if name not in gone][:MASKING]
    settings = SecureSettings(
        clip=10, films=FILMS, total=FILMS * hospitals, threshold=2 / 3, rotation=rotation
    )
    instruction = INSTRUCTION.model_copy(update={"secure": settings})
    now = datetime.now(UTC)
    authority = new_authority(now, 30)
    times: Times = {}
    size: dict[str, int] = {}
    sums: dict[str, SecureSums] = {}
    keys: dict[str, SignedKeys] = {}
    for name in names:
        key = new_key()
        certificate = issue_site(authority, key.public_key(), name, now, 30)
        signer = Signer(key, certificate.public_bytes(Encoding.DER), authority.certificate)
        sums[name] = SecureSums(name, lambda signer=signer: signer)  # type: ignore[misc]
        with timed(times, "begin"):
            terms = terms_of(instruction, before, None)
            attempt = sums[name].begin(IDENTITY, settings, 0, terms)
            if name in masking:
                attempt.hold_change(before, after, FILMS, 0.5)
            else:
                attempt.hold(np.zeros(1, np.uint32))
        keys[name] = attempt.keys
        size["keys"] = len(attempt.keys.model_dump_json())
    with timed(times, "server"):
        digest = terms_of(instruction, before, None).digest
    server = Aggregation(IDENTITY, keys, settings, 0, digest, length(before, settings))
    for name, call in server.share_calls().items():
        with timed(times, "share"):
            answer, _ = sums[name].answer(call)
        assert isinstance(answer, Shares)  # noqa: S101 - or the benchmark is wrong
        size |= {
            "keys of all": len(call.model_dump_json()),
            "shares": len(answer.model_dump_json()),
        }
        server.add_shares(name, answer)
    noise = np.random.default_rng(0).bytes(4 * length(before, settings))
    for name, mask_call in server.mask_calls().items():
        if name in gone:
            continue
        with timed(times, "mask"):
            masked, blob = sums[name].answer(mask_call)
        assert isinstance(masked, Masked)  # noqa: S101 - the same
        blob = blob if name in masking else noise
        with timed(times, "server"):
            server.add_update(name, blob)
    size["masked update"] = len(blob)
    for name, confirm_call in server.confirm_calls().items():
        with timed(times, "confirm"):
            confirmed, _ = sums[name].answer(confirm_call)
        assert isinstance(confirmed, Confirmed)  # noqa: S101 - the same
        with timed(times, "server"):
            server.add_confirmed(name, confirmed)
    for name, reveal_call in server.reveal_calls().items():
        with timed(times, "reveal"):
            revealed, _ = sums[name].answer(reveal_call)
        assert isinstance(revealed, Revealed)  # noqa: S101 - the same
        size["revealed"] = len(revealed.model_dump_json())
        with timed(times, "server"):
            server.add_revealed(name, revealed)
    with timed(times, "server"):
        server.result()
    words = to_words(before, after, FILMS, 0.5, settings, np.random.default_rng(0))
    words *= np.uint32(hospitals)
    with timed(times, "server"):
        from_words(words, before, hospitals, settings)
    return times, size


def main() -> None:
    """Print a table for each number of hospitals."""
    logging.disable()
    before = state_of(build_model("densenet121", 0))
    after = changed(before)
    print("| hospitals | | a hospital, CPU s | the server, CPU s | a hospital sends, MB |")
    print("|---|---|---|---|---|")
    for count in [int(text) for text in sys.argv[1:]] or [10, 50]:
        times, sent = plain(before, after, count)
        row("plain", count, statistics.median(times["hospital"]), sum(times["server"]), sent)
        for what, rotation in {"secure": None, "secure, int8": 1}.items():
            times, sizes = secure(before, after, count, rotation)
            steps = {
                step: max(times[step]) for step in ("begin", "share", "mask", "confirm", "reveal")
            }
            sent = sum(sizes[each] for each in ("keys", "shares", "masked update", "revealed"))
            row(what, count, sum(steps.values()), sum(times["server"]), sent)
            seconds = {step: round(value, 2) for step, value in steps.items()}
            print(f"\na hospital's steps, CPU s: {seconds}; bytes: {sizes}\n")


def row(what: str, count: int, hospital: float, server: float, sent: int) -> None:
    """Print a row of the table."""
    print(f"| {count} | {what} | {hospital:.2f} | {server:.2f} | {sent / 1e6:.2f} |")


if __name__ == "__main__":
    main()
