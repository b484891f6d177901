"""Strategies of Flower's two interfaces against their own arithmetic, on small states."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.common import parameters_to_ndarrays
from flwr.server import strategy as legacy
from flwr.serverapp import strategy as records
from pydantic import JsonValue

from common.errors import BadInput, FedCXRError
from common.options import Training
from common.state import State, is_parameter, parameters_of, spec_of
from common.wire import pack
from server.rounds.pace import norm_of, squared_change
from server.run.spool import Spool, SpooledUpdates
from server.strategies import make_strategy
from server.strategies.base import RoundInfo, Strategy, UpdateInfo
from server.strategies.settings import StrategySettings
from tests.support.states import same_bits

BEFORE: State = {
    "conv.weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "norm.weight": np.array(2, np.float32),
    "norm.running_mean": np.array([0.5, 1], np.float32),
    "norm.running_var": np.array([1, 2], np.float32),
    "norm.num_batches_tracked": np.array(5),
}
INTERFACES = ["flwr.server.strategy", "flwr.serverapp.strategy"]
HERE = "tests.server.strategies.test_flower"


def about(number: int) -> RoundInfo:
    return RoundInfo(number, Training(), 5)


def spooled(
    folder: Path, number: int, hospitals: int = 5, before: State = BEFORE, outlier: bool = False
) -> SpooledUpdates:
    """Return what hospitals return in a round; the last one is far off, or none is."""
    rng = np.random.default_rng(number)
    spool = Spool(folder / f"replies-{number}", spec_of(before))
    for i in range(hospitals):
        far = 100 if outlier and i == hospitals - 1 else 1
        state = {
            name: np.asarray(array + far * rng.random(array.shape), array.dtype)
            if array.dtype == np.float32
            else np.array(5 + i)
            for name, array in before.items()
        }
        info = UpdateInfo(10 * (i + 1), norm_of(squared_change(before, state)), loss=0.5 + i)
        spool.put(f"hospital-{i:02d}", pack(state), info)
    return spool.updates([f"hospital-{i:02d}" for i in range(hospitals)])


def made(
    called: str, args: dict[str, JsonValue] | None = None, average: str = "weighted"
) -> Strategy:
    settings = {"strategy": called, "strategy_args": args or {}, "average": average}
    return make_strategy(StrategySettings.model_validate(settings), BEFORE)


def close(one: State, other: State) -> bool:
    assert one.keys() == other.keys()
    return all(np.allclose(one[name], other[name], rtol=1e-6, atol=1e-7) for name in one)


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize(("theirs", "ours"), [("FedAvg", "fedavg"), ("FedMedian", "median")])
def test_flowers_own_mean_and_median_are_ours(
    tmp_path: Path, interface: str, theirs: str, ours: str
) -> None:
    updates = spooled(tmp_path, 1)
    result = made(f"{interface}:{theirs}").combine(BEFORE, updates, about(1))
    assert spec_of(result) == spec_of(BEFORE)
    expected = make_strategy(StrategySettings.model_validate({"strategy": ours}))
    assert close(parameters_of(result), parameters_of(expected.combine(BEFORE, updates, about(1))))


@pytest.mark.parametrize("interface", INTERFACES)
def test_flowers_fedavgm_is_ours_round_by_round(tmp_path: Path, interface: str) -> None:
    args: dict[str, JsonValue] = {"server_learning_rate": 0.7, "server_momentum": 0.6}
    theirs = made(f"{interface}:FedAvgM", args)
    settings = {"strategy": "fedavgm", "server_lr": 0.7, "server_momentum": 0.6}
    ours = make_strategy(StrategySettings.model_validate(settings))
    one = other = BEFORE
    for number in (1, 2, 3):
        updates = spooled(tmp_path, number)
        one = theirs.combine(one, updates, about(number))
        other = ours.combine(other, updates, about(number))
        assert close(parameters_of(one), parameters_of(other)), number


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize(("average", "ours"), [("weighted", "fedavg"), ("median", "median")])
def test_statistics_are_averaged_as_the_run_says(
    tmp_path: Path, interface: str, average: str, ours: str
) -> None:
    updates = spooled(tmp_path, 1)
    result = made(f"{interface}:FedMedian", average=average).combine(BEFORE, updates, about(1))
    strategy = make_strategy(StrategySettings.model_validate({"strategy": ours}))
    expected = strategy.combine(BEFORE, updates, about(1))
    statistics = [name for name in BEFORE if not is_parameter(name)]
    assert len(statistics) == 3
    assert same_bits(*({name: s[name] for name in statistics} for s in (result, expected)))


@pytest.mark.parametrize(
    ("interface", "word"), [(INTERFACES[0], "clients"), (INTERFACES[1], "nodes")]
)
def test_krum_picks_an_update_that_is_not_far_off(
    tmp_path: Path, interface: str, word: str
) -> None:
    updates = spooled(tmp_path, 1, outlier=True)
    strategy = made(f"{interface}:Krum", {f"num_malicious_{word}": 1})
    result = parameters_of(strategy.combine(BEFORE, updates, about(1)))
    models = [parameters_of(update.weights) for update in updates]

    def distances(model: State) -> float:
        """Return the sum of the squares to the two nearest others: n - f - 2 of five."""
        squares = (sum(np.sum((model[n] - other[n]) ** 2) for n in model) for other in models)
        return float(sum(sorted(squares)[1:3]))

    assert same_bits(result, min(models, key=distances))


def adam(changes: list[State], before: State, eta: float, tau: float) -> State:
    """Return Flower's FedAdam, weight by weight, in Python's floats."""
    after: State = {}
    for name, first in before.items():
        after[name] = first.copy()
        for index in np.ndindex(first.shape):
            x, m, v = float(first[index]), 0.0, 0.0
            for number, change in enumerate(changes, start=1):
                delta = float(change[name][index])
                m = 0.9 * m + 0.1 * delta
                v = 0.99 * v + 0.01 * delta**2
                rate = eta * (1 - 0.99 ** (number + 1)) ** 0.5 / (1 - 0.9 ** (number + 1))
                x = float(np.float32(x + rate * m / (v**0.5 + tau)))
            after[name][index] = x
    return after


@pytest.mark.parametrize("interface", INTERFACES)
def test_fedadam_goes_as_flowers_arithmetic_does(tmp_path: Path, interface: str) -> None:
    strategy = made(f"{interface}:FedAdam", {"eta": 0.01, "tau": 0.1})
    before, changes = BEFORE, []
    for number in (1, 2, 3):
        updates = spooled(tmp_path, number, before=before)
        mean = make_strategy(StrategySettings()).combine(before, updates, about(number))
        changes.append({n: mean[n] - before[n] for n in parameters_of(before)})
        before = strategy.combine(before, updates, about(number))
    assert close(parameters_of(before), adam(changes, parameters_of(BEFORE), 0.01, 0.1))


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize(
    ("name", "settings"),
    [("FedAdam", {"eta": 1e-4}), ("FedAvgM", {"server_learning_rate": 1e-3})],
)
def test_a_step_begins_at_the_model_that_was_sent(
    tmp_path: Path, interface: str, name: str, settings: dict[str, Any]
) -> None:
    strategy = made(f"{interface}:{name}", settings)
    strategy.combine(BEFORE, spooled(tmp_path, 1), about(1))
    elsewhere = {name: np.asarray(array + 5) for name, array in BEFORE.items()}
    result = strategy.combine(elsewhere, spooled(tmp_path, 2, before=elsewhere), about(2))
    for name in parameters_of(BEFORE):
        np.testing.assert_allclose(result[name], elsewhere[name], atol=1e-2)


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize("name", ["FedAdam", "FedYogi", "FedAdagrad", "FedAvgM", "FedMedian"])
def test_a_strategy_goes_on_bit_for_bit(tmp_path: Path, interface: str, name: str) -> None:
    settings = StrategySettings(
        strategy=f"{interface}:{name}",
        strategy_args={"server_momentum": 0.5} if name == "FedAvgM" else {},
    )
    strategy, state = make_strategy(settings, BEFORE), BEFORE
    kept: list[tuple[State, State]] = []
    for number in (1, 2, 3):
        state = strategy.combine(state, spooled(tmp_path, number), about(number))
        kept.append((state, strategy.state_dict()))
    for done in (1, 2):
        state, remembered = kept[done - 1]
        strategy = make_strategy(settings, state)
        strategy.load_state_dict(remembered)
        for number in range(done + 1, 4):
            state = strategy.combine(state, spooled(tmp_path, number), about(number))
            assert same_bits(state, kept[number - 1][0])
    assert any(array.ndim > 1 for array in kept[0][1].values()) == (name != "FedMedian")


class Restless(records.FedAvg):
    """Remembers a bit of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = records.FedAdam()
        self.rng = np.random.default_rng(3)
        self.seen: dict[str, Any] = {"rounds": [], "none": None, "raw": b"", "mean": np.float64(1)}
        self.names = {"a", "b"}  # cannot be kept and stays as it is

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        made, metrics = super().aggregate_train(server_round, replies)
        assert made is not None
        self.inner.m_t = {n: a.numpy() + self.rng.random() for n, a in made.items()}
        self.seen["rounds"].append((server_round, True, bytes([server_round])))
        self.seen["mean"] += np.float64(0.1)
        self.last, self.metrics = made, metrics
        return made, metrics


class Forgetful(Restless):
    """Remembers what no checkpoint keeps."""

    def configure_train(self, server_round: int, *rest: Any) -> Iterable[Message]:
        self.names.add(f"{server_round}")
        return super().configure_train(server_round, *rest)


def test_all_that_is_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    first = made(f"{HERE}:Restless")
    assert first.state_dict().keys() == {"attributes", "seen/0", "seen/1"}
    for number in (1, 2):
        first.combine(BEFORE, spooled(tmp_path, number), about(number))
    kept = first.state_dict()
    second = made(f"{HERE}:Restless")
    second.load_state_dict(kept)
    assert same_bits(second.state_dict(), kept)
    one, other = (vars(s)["_strategy"] for s in (first, second))
    assert other.seen == one.seen
    assert type(other.seen["mean"]) is np.float64
    assert type(other.seen["rounds"][0]) is tuple
    assert other.rng.random() == one.rng.random()
    assert list(other.last) == list(one.last)
    assert other.metrics == one.metrics
    assert same_bits(other.inner.m_t, one.inner.m_t)


def test_what_changes_and_cannot_be_kept_is_said_once_and_ends_a_resumption(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "server")
    strategy = made(f"{HERE}:Forgetful")
    strategy.state_dict()
    assert not caplog.records
    for number in (1, 2):
        strategy.combine(BEFORE, spooled(tmp_path, number), about(number))
        kept = strategy.state_dict()
    (line,) = caplog.messages
    assert "Forgetful changes names, which no checkpoint keeps" in line
    with pytest.raises(BadInput, match="Forgetful changed names"):
        made(f"{HERE}:Forgetful").load_state_dict(kept)


class Watched(legacy.FedAvg):
    """Notes what it is given, and returns what it is told to."""

    def __init__(self, returns: str = "mean", **rest: Any) -> None:
        super().__init__(**rest)
        self.returns = returns

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        self.sent = parameters_to_ndarrays(parameters)
        self.chosen = super().configure_fit(server_round, parameters, client_manager)
        return self.chosen

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        self.results = [(proxy.cid, reply.num_examples, reply.metrics) for proxy, reply in results]
        made, metrics = super().aggregate_fit(server_round, results, failures)
        assert made is not None
        if self.returns == "none":
            return None, {}
        if self.returns == "less":
            made.tensors.pop()
        if self.returns == "turned":
            made.tensors.reverse()
        if self.returns == "error":
            raise ValueError("too bad\nand more")
        return made, metrics


def test_a_strategy_is_given_what_flower_would_give(tmp_path: Path) -> None:
    strategy = made(f"{HERE}:Watched", {"fraction_fit": 0.5, "min_available_clients": 50})
    strategy.combine(BEFORE, spooled(tmp_path, 1), about(1))
    theirs = vars(strategy)["_strategy"]
    sent = dict(zip(parameters_of(BEFORE), theirs.sent, strict=True))
    assert same_bits(sent, parameters_of(BEFORE))
    assert len(theirs.chosen) == 2
    assert theirs.results == [
        (f"hospital-{i:02d}", 10 * (i + 1), {"train_loss": 0.5 + i}) for i in range(5)
    ]


def test_no_strategy_waits_for_hospitals_that_are_not_in_the_round(tmp_path: Path) -> None:
    updates = spooled(tmp_path, 1, hospitals=1)
    for interface, word in zip(INTERFACES, ("clients", "nodes"), strict=True):
        strategy = made(f"{interface}:FedAvg", {f"min_available_{word}": 9})
        result = strategy.combine(BEFORE, updates, about(1))
        assert same_bits(result, next(iter(updates)).weights)


@pytest.mark.parametrize(
    ("returns", "reason"),
    [
        ("none", "returned NoneType where a round needs Parameters"),
        ("less", "returned 1 arrays; return as many as it was given, 2"),
        ("turned", r"returned conv.weight with shape \(\); return it .* \(3, 4\)"),
        ("error", "ValueError: too bad; no model was sent"),
    ],
)
def test_what_is_no_model_ends_the_run(tmp_path: Path, returns: str, reason: str) -> None:
    strategy = made(f"{HERE}:Watched", {"returns": returns})
    with pytest.raises(FedCXRError, match=f"round 1: --strategy .*Watched: .*{reason}") as caught:
        strategy.combine(BEFORE, spooled(tmp_path, 1), about(1))
    assert "go on with --resume" in str(caught.value)


class Renames(records.FedAvg):
    """Returns other names."""

    def aggregate_train(self, *given: Any) -> Any:
        made, metrics = super().aggregate_train(*given)
        assert made is not None
        return ArrayRecord({f"x.{name}": array for name, array in made.items()}), metrics


class Asks(records.FedAvg):
    """Wants to ask the hospitals itself."""

    def configure_train(self, *given: Any) -> Any:
        given[3].send_and_receive([])


@pytest.mark.parametrize(
    ("called", "reason"),
    [("Renames", "conv.weight is not in both"), ("Asks", "cannot ask the hospitals itself")],
)
def test_a_record_of_other_names_or_a_question_ends_the_run(
    tmp_path: Path, called: str, reason: str
) -> None:
    with pytest.raises(FedCXRError, match=reason):
        made(f"{HERE}:{called}").combine(BEFORE, spooled(tmp_path, 1), about(1))


def not_a_class() -> None:
    """Be what it is named."""


@pytest.mark.parametrize(
    ("called", "args", "reason"),
    [
        ("nowhere.at_all:Mine", {}, "there is no module nowhere; give a file"),
        (f"{HERE}:Mine", {}, "has no Mine; its strategies are Asks, Forgetful, Renames, Restless"),
        (f"{HERE}:not_a_class", {}, "no class, but a function"),
        (f"{HERE}:Path", {}, "neither flwr.server.strategy.Strategy nor"),
        ("flwr.server.strategy:FedAdam", {"etta": 1}, "'etta'; --strategy-args .* eta, eta_l"),
        ("flwr.server.strategy:Strategy", {}, "abstract"),
    ],
)
def test_what_is_no_strategy_is_refused(
    called: str, args: dict[str, JsonValue], reason: str
) -> None:
    with pytest.raises(BadInput, match=reason):
        made(called, args)


@pytest.mark.parametrize("interface", INTERFACES)
def test_flowers_fedprox_is_said_to_be_fedavg(
    interface: str, caplog: pytest.LogCaptureFixture
) -> None:
    made(f"{interface}:FedProx", {"proximal_mu": 0.1})
    assert "Give --local fedprox --mu in its place" in caplog.text
    caplog.clear()
    made(f"{interface}:FedAvg")
    assert not caplog.records
