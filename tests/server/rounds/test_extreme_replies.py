"""Whatever one hospital says and sends: the round counts, and all its numbers are finite."""

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.certificates import Peer
from common.checkpoint import read_checkpoint
from common.findings import FINDINGS
from common.message import Identity, parse_message
from common.model import build_model, state_of
from common.options import StrategyName
from common.protocol import REPLY, Hello, Instruction, Reply
from common.provenance import Provenance
from common.secure.messages import SecureAnswer, SecureCall
from common.state import State, is_float
from common.wire import fingerprint, pack
from server.rounds.ask import Connection, Weights
from server.rounds.loop import Rounds
from server.run.folder import RunFolder
from tests.support.hospitals import plan_of
from tests.support.messages import HELLO_WORDS, REPLY_WORDS, SCORES

BEFORE = state_of(build_model("densenet-tiny", 1))

NUMBERS = st.sampled_from(
    [
        *(0, 1, 7, 2**24, 2**24 + 1, 2**53, 2**63, 10**400, -1, 0.5, 1.0, 5e-324, 1e9, 1e308),
        *(-1e308, math.inf, math.nan, None, True, "1"),
    ]
)
FLOATS = st.sampled_from([0.0, 1.1, 1e-45, 2.0**17, 2.0**23, 2.0**40, 3e38, -3e38, np.inf, np.nan])
COUNTERS = st.sampled_from([7, 7, 7, 0, 6, 8, 2**24, 2**63 - 1, -1, -(2**63)])

PLACES = [
    *(("examples",), ("loss",), ("validation",), ("seconds", "wait"), ("seconds", "train")),
    ("histograms",),
    *(("validation", name) for name in SCORES),
    *(("validation", "auc_by_finding", finding) for finding in (FINDINGS[0], FINDINGS[13], "<b>")),
]


def changed(words: Any, place: Sequence[str], value: object) -> Any:
    """Return words with another value in one place."""
    if not place:
        return value
    inner = words if isinstance(words, dict) else {}
    return {**inner, place[0]: changed(inner.get(place[0]), place[1:], value)}


AUCS = ["validation", "auc_by_finding"]
ANYTHING = {**HELLO_WORDS, "examples": 2**24, "validation": 2**24}


@st.composite
def replies(draw: Any) -> dict[str, Any]:
    """An ordinary reply with an extreme in one place or two."""
    words = REPLY_WORDS
    for place in draw(st.lists(st.sampled_from(PLACES), max_size=2)):
        words = changed(words, place, draw(NUMBERS))
    if draw(st.integers(0, 9)) == 9:
        words = words | {"status": "failed", "reason": draw(st.text(max_size=20))}
    return words


HELLOS = st.fixed_dictionaries(
    {
        **{name: st.just(value) for name, value in HELLO_WORDS.items()},
        "examples": st.sampled_from([100, 2**24]),
        "validation": st.sampled_from([10, 2**24]),
    }
)


class Scripted:
    """A hospital that says and sends what is written."""

    def __init__(self, hello: dict[str, Any], words: dict[str, Any], state: State) -> None:
        self.hello = Hello.model_validate(hello)
        self.peer: Peer | None = None
        self.backbone: str | None = None
        self.holds: str | None = None
        self.own: set[int] = set()
        self._words = words
        self._blob = pack(state)

    def ask(
        self, instruction: Instruction, weights: Weights, timeout: float, follow: object
    ) -> Reply:
        del weights, timeout, follow
        identity = instruction.identity.model_dump()
        changes = {"identity": identity, "weights": fingerprint(self._blob)}
        return parse_message(REPLY, json.dumps({**self._words, **changes}))

    def fetch(self, identity: Identity, timeout: float) -> bytes:
        del identity, timeout
        return self._blob

    def secure(self, call: SecureCall, timeout: float) -> SecureAnswer:
        raise NotImplementedError

    def tell(self, identity: Identity, reason: str) -> None:
        del identity
        assert reason.isprintable()


class ScriptedHospitals:
    def __init__(self, connections: dict[str, Connection]) -> None:
        self._connections = connections

    def wait_for(self, count: int, timeout: float) -> bool:
        del timeout
        return len(self._connections) >= count

    def wait_for_return(self, names: Collection[str], timeout: float) -> None:
        pass

    def present(self) -> dict[str, Connection]:
        return dict(self._connections)

    def standing(self, connection: Connection) -> str | None:
        del connection
        return None

    def dismiss(self, name: str, reason: str) -> None:
        raise AssertionError((name, reason))


def filled(value: float, tensors: int, counter: int) -> State:
    """Return the model with some of its floating tensors and all of its counters set."""
    floats = [name for name, array in BEFORE.items() if is_float(array)][:tensors]
    return {
        name: np.full_like(array, value)
        if name in floats
        else (array.copy() if is_float(array) else np.full_like(array, counter))
        for name, array in BEFORE.items()
    }


def ordinary(step: float) -> Scripted:
    state = {
        name: array + np.float32(step) if is_float(array) else array + 7
        for name, array in BEFORE.items()
    }
    return Scripted({**HELLO_WORDS, "validation": 10}, REPLY_WORDS, state)


@pytest.mark.fault(
    "a reply claims a loss of 1e308, 10^400 images, an AUC of 7 or other extremes",
    "it is rejected; the round counts, and every number in its line is finite",
)
@pytest.mark.parametrize("strategy", ["fedavg", "clipped", "trimmed-mean", "median"])
@settings(deadline=None, max_examples=40)
@given(HELLOS, replies(), FLOATS, st.integers(0, 2), COUNTERS, st.sampled_from([0, 10]))
@example(ANYTHING, changed(REPLY_WORDS, ["loss"], 1e308), 1.1, 0, 7, 0)
@example(ANYTHING, changed(REPLY_WORDS, ["examples"], 10**400), 1.1, 0, 7, 0)
@example(ANYTHING, changed(REPLY_WORDS, ["examples"], 2**24), 2.0**17, 1, 7, 0)
@example(ANYTHING, changed(REPLY_WORDS, ["validation", "images"], 10**400), 1.1, 0, 7, 0)
@example(ANYTHING, changed(REPLY_WORDS, [*AUCS, FINDINGS[0]], 1e308), 1.1, 0, 7, 0)
@example(ANYTHING, REPLY_WORDS, 1.1, 0, 2**63 - 1, 0)
def test_no_reply_ends_a_run(
    strategy: StrategyName,
    hello: dict[str, Any],
    words: dict[str, Any],
    value: float,
    tensors: int,
    counter: int,
    norm_limit: float,
) -> None:
    connections: dict[str, Connection] = {
        "a": ordinary(0.001),
        "b": ordinary(0.002),
        "c": Scripted(hello, words, filled(value, tensors, counter)),
    }
    plan = plan_of(strategy=strategy, rounds=1, norm_limit=norm_limit)
    with TemporaryDirectory() as path:
        folder = RunFolder.create(Path(path) / "run", {})
        provenance = Provenance(method="fedavg", run=plan.run)
        result = Rounds(
            plan, ScriptedHospitals(connections), folder, BEFORE, provenance, None
        ).run()
        (line,) = folder.rounds()
        state, _ = read_checkpoint(folder.path / "final.pt", "densenet-tiny", 0)
        folder.log.close()
    assert line.hospitals.keys() >= {"a", "b"}
    assert line.hospitals.keys() | line.rejected.keys() == {"a", "b", "c"}
    for record in (line, result):
        json.dumps(record.model_dump(mode="json"), allow_nan=False)
    assert line.auc is not None
    assert 0 <= line.auc <= 1
    for name, array in state.items():
        assert np.isfinite(array).all(), name
        assert is_float(array) or (array == 7).all(), name
