"""What a strategy of Flower's remembers between rounds: its attributes, as tensors.

A checkpoint holds tensors, and no object that could run code. Each attribute becomes a tree of
plain values in JSON, whose arrays lie beside it by the attribute's name::

    attributes      {"m_t": {"list": [{"array": "m_t/0"}, {"array": "m_t/1"}]}, "turn": 3}
    m_t/0, m_t/1    the arrays

Kept are plain values, arrays, lists, tuples and dicts of them, Flower's ``Parameters``,
``ArrayRecord`` and ``MetricRecord``, random generators of numpy and Python, and the attributes of a
strategy within the strategy. An attribute of another kind is looked at as well: if it changes, a
warning says so, and the checkpoint too.
"""

import json
import logging
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from types import FunctionType, MethodType
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.common import Parameters

from common.state import State

log = logging.getLogger(__name__)

TREE = "attributes"
"""Name of the tensor with the JSON, UTF-8 in uint8."""

LOST = "not kept"
"""Key in the JSON beside the attributes: what changed and is none of it."""

Made = tuple[type, Callable[[Any], object], Callable[[Any], object]]
"""A type, and the ways from it to plain values and back."""


class NotKept(Exception):  # noqa: N818 - a verdict, not a fault
    """A value cannot be kept; the message names it."""


def _generator(state: Mapping[str, Any]) -> np.random.Generator:
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)


def _random(state: tuple[Any, ...]) -> random.Random:
    drawn = random.Random()  # noqa: S311 - no secret
    drawn.setstate(state)
    return drawn


MADE: dict[str, Made] = {
    "Parameters": (
        Parameters,
        lambda made: (made.tensors, made.tensor_type),
        lambda plain: Parameters(*plain),
    ),
    "ArrayRecord": (
        ArrayRecord,
        lambda made: {name: array.numpy() for name, array in made.items()},
        lambda plain: ArrayRecord({name: Array(array) for name, array in plain.items()}),
    ),
    "MetricRecord": (MetricRecord, dict, MetricRecord),
    "Generator": (np.random.Generator, lambda made: made.bit_generator.state, _generator),
    "Random": (random.Random, random.Random.getstate, _random),
}
"""Types that are kept by what they are made of."""


class Memory:
    """The attributes of a strategy.

    Args:
        called: Name of the strategy, for the warning.
        strategy: As it was made.
        interface: Class of strategies whose attributes are those of the strategy that holds them.
    """

    def __init__(self, called: str, strategy: object, interface: type) -> None:
        self._called = called
        self._strategy = strategy
        self._interface = interface
        self._first = {name: _sign(value) for name, value in self._attributes()}
        self._warned: set[str] = set()

    def state_dict(self) -> State:
        """Return the attributes, and warn of those that have changed and cannot be kept.

        Those that have not changed are kept too: a strategy that is made of a later model, or that
        draws something, may begin with other ones.
        """
        tree: dict[str, object] = {}
        lost: list[str] = []
        state: State = {}
        for name, value in self._attributes():
            arrays: State = {}
            try:
                node = _plain(value, name, arrays)
            except NotKept:
                if _sign(value) != self._first.get(name, ""):
                    lost.append(name)
                continue
            tree[name] = node
            state |= arrays
        if new := sorted(set(lost) - self._warned):
            self._warned.update(new)
            log.warning(
                "--strategy %s changes %s, which no checkpoint keeps: the run goes on, but if it "
                "stops, it cannot be resumed",
                self._called,
                ", ".join(new),
            )
        if tree or lost:
            text = json.dumps({TREE: tree, LOST: lost})
            state[TREE] = np.array(bytearray(text.encode()), np.uint8)
        return state

    def load_state_dict(self, state: State) -> None:
        """Set the attributes.

        Raises:
            NotKept: What had changed was not kept; names it.
        """
        if not state:
            return
        content = json.loads(state[TREE].tobytes())
        if content[LOST]:
            raise NotKept(", ".join(content[LOST]))
        for path, node in content[TREE].items():
            holder, _, name = path.rpartition(".")
            strategy = attrgetter(holder)(self._strategy) if holder else self._strategy
            setattr(strategy, name, _value(node, state))

    def _attributes(self) -> Iterator[tuple[str, object]]:
        """Yield the attributes by name, those of a strategy within by ``NAME.NAME``."""
        open_: list[tuple[str, object]] = [("", self._strategy)]
        for prefix, strategy in open_:
            for name, value in vars(strategy).items():
                if isinstance(value, self._interface):
                    open_.append((f"{prefix}{name}.", value))
                else:
                    yield prefix + name, value


def _sign(value: object) -> str:
    """Return what a value that has no arrays, or cannot be kept, has in common with an equal one.

    Nothing of a function, or of what has no bytes, such as a lock: they are held to stay the same.
    """
    try:
        return json.dumps(_plain(value, "", {}))
    except NotKept:
        pass
    if isinstance(value, FunctionType | MethodType):
        return ""
    try:
        return pickle.dumps(value).hex()  # to be compared, never to be loaded
    except Exception:  # noqa: BLE001 - a value of any type raises what it likes
        return ""


def _plain(value: object, name: str, arrays: State) -> object:
    """Return a value as JSON and put its arrays into ``arrays``, as ``name/NUMBER``.

    Raises:
        NotKept: It holds a value of another type.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        kind = "array" if isinstance(value, np.ndarray) else "number"
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8 or not value.dtype.isnative:
            raise NotKept(name)
        arrays[tensor := f"{name}/{len(arrays)}"] = np.array(value, order="C")
        return {kind: tensor}
    if type(value) is bytes:
        inner = _plain(np.array(bytearray(value), np.uint8), name, arrays)
        return {"bytes": inner}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_plain(each, name, arrays) for each in value]}  # type: ignore[attr-defined]
    if type(value) is dict:
        return {"dict": [[_plain(part, name, arrays) for part in item] for item in value.items()]}
    for kind, (made, to_plain, _) in MADE.items():
        if type(value) is made:
            return {kind: _plain(to_plain(value), name, arrays)}
    raise NotKept(name)


def _value(node: Any, arrays: State) -> Any:
    """Undo :func:`_plain`."""
    if not isinstance(node, dict):
        return node
    ((kind, inner),) = node.items()
    if kind == "array":
        return arrays[inner].copy()
    if kind == "number":
        return arrays[inner][()]
    if kind == "bytes":
        return _value(inner, arrays).tobytes()
    if kind == "dict":
        return {_value(key, arrays): _value(value, arrays) for key, value in inner}
    if kind in ("list", "tuple"):
        values = [_value(each, arrays) for each in inner]
        return values if kind == "list" else tuple(values)
    return MADE[kind][2](_value(inner, arrays))
