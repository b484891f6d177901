"""Finds a DenseNet in what other tools save, and gives its tensors torchvision's names.

The tensors may lie in containers (``state_dict``, ``model``, ``student``), under a prefix
(``module.encoder_q.``), beside a second encoder, projections and queues. Here a file is a flat list
of keys such as ``state_dict/module.encoder_q.features.conv0.weight``. A key that ends with a name
of the model tells its place, which is all that comes before; the place of the dense layers is the
encoder's. So no list of prefixes or containers is needed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from common.errors import BadInput

DEEPEST = 4
"""Containers within containers; a file may hold itself."""

WRAPPERS = re.compile(
    r"((?:^|[./])(?:features|denseblock\d+|denselayer\d+|transition\d+)\.)"
    r"(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+"
)
"""Names that DataParallel, torch.compile, FSDP and activation checkpointing add within a model."""

DENSE_LAYER = re.compile(r"(denselayer\d+)\.(?:layers\.)?(norm|conv)\.?([12]\.)")
"""``norm1`` in a dense layer; ``norm.1`` in torchvision's downloads, ``layers.norm1`` in MONAI."""

CHILDREN = (
    *("conv0", "norm0", "relu0", "pool0", "denseblock1", "transition1", "denseblock2"),
    *("transition2", "denseblock3", "transition3", "denseblock4", "norm5"),
)
"""The layers of torchvision's ``DenseNet.features``, in order: ``nn.Sequential`` numbers them."""

Layout = Literal["full", "bare", "numbered"]
"""``features.conv0``; ``conv0``, the features alone; ``0``, the features as a plain Sequential."""

FEATURES: dict[Layout, re.Pattern[str]] = {
    "full": re.compile(r"features\."),
    "bare": re.compile(r"(?:conv|norm|denseblock|transition)\d+\."),
    "numbered": re.compile(r"(?:\d|1[01])\."),
}
"""How a key of the features begins, after the prefix."""

SLOW = {"ema", "k", "key", "m", "momentum", "target", "teacher"}
"""Words in the names of an encoder that follows another as its moving average, such as MoCo's
``encoder_k``, solo-learn's ``momentum_backbone`` and lightly's ``backbone_momentum``."""

PROJECTION = re.compile(
    r"(?:^|[./_])(?:projector|projection|predictor|prediction_head|prototypes|queue|mlp)(?:[./_]|$)"
)
"""Names of what self-supervised methods put behind the encoder; not a classifier."""

HEAD = re.compile(r"(?:^|[./])(?:classifier|fc\w*|heads?|class_layers|last_linear)[./]")
"""Usual names of a classifier: torchvision's, ResNet's, timm's, MONAI's, pretrainedmodels'."""


class Place(NamedTuple):
    """Where an encoder is in a file.

    Attributes:
        prefix: All that comes before the encoder's own names, with the containers.
        layout: How its names are written.
    """

    prefix: str
    layout: Layout

    def __str__(self) -> str:
        container, _, prefix = self.prefix.rpartition("/")
        return f"{container or 'a plain state dict'}, prefix {prefix or 'none'}"

    def has(self, key: str) -> bool:
        """Return whether a key is one of the encoder's features."""
        own = key[len(self.prefix) :]
        return key.startswith(self.prefix) and FEATURES[self.layout].match(own) is not None


class Found(NamedTuple):
    """What a file holds.

    Attributes:
        place: Where the encoder is.
        features: The encoder's values in the file's order, under the model's names; what the model
            does not have keeps its own.
        head: Tensors that may be a classifier, by their names after container and prefix.
        left_out: Names of what else the file has.
    """

    place: Place
    features: dict[str, object]
    head: dict[str, Tensor]
    left_out: tuple[str, ...]


def find(content: Mapping[str, object], names: Iterable[str], source: str, remedy: str) -> Found:
    """Return the one encoder in a file, and what may be its classifier.

    Of an encoder and its moving average, the encoder is taken.

    Args:
        content: The file: tensors by name, possibly in containers.
        names: The names of the model's features.
        source: The file, for errors.
        remedy: What to do about a file of another model.

    Raises:
        BadInput: The file has no such encoder, or several that differ.
    """
    values = dict(_flat(content, "", DEEPEST))
    places = _places(values, _endings(names))
    if not places:
        first = next((key for key, value in values.items() if isinstance(value, Tensor)), None)
        if first is None:
            raise BadInput(f"{source}: holds no state_dict; give a checkpoint or a state dict")
        key = first.rpartition("/")[2]
        raise BadInput(f"{source}: key {key} does not belong to the model; {remedy}")
    place = _choose(values, places, source)
    names_of = {key: name for name, key in places[place].items()}
    features, rest = dict[str, object](), dict[str, Tensor]()
    for key, value in values.items():
        if place.has(key):
            features[names_of.get(key, key[len(place.prefix) :])] = value
        elif isinstance(value, Tensor):
            rest[key] = value
    others = [p.prefix for p in places if p.prefix and not place.prefix.startswith(p.prefix)]
    mine = {key: value for key, value in rest.items() if not key.startswith(tuple(others))}
    head = _head(mine, place)
    left_out = {_part_of(key, place): None for key in rest if key not in head}
    container = place.prefix.rpartition("/")[0]
    short = {
        key.removeprefix(place.prefix).removeprefix(f"{container}/"): value
        for key, value in head.items()
    }
    return Found(place, features, short, tuple(left_out))


def _flat(
    content: Mapping[Any, object], container: str, depth: int
) -> Iterator[tuple[str, object]]:
    for name, value in content.items():
        if not isinstance(name, str):
            continue
        if isinstance(value, Mapping):
            if depth:
                yield from _flat(value, f"{container}{name}/", depth - 1)
        else:
            current = DENSE_LAYER.sub(r"\1.\2\3", WRAPPERS.sub(r"\1", name))
            yield container + current, value


def _endings(names: Iterable[str]) -> dict[str, tuple[Layout, str]]:
    """Return the layout and the model's name for every ending that a key may have."""
    endings: dict[str, tuple[Layout, str]] = {}
    for name in names:
        bare = name.removeprefix("features.")
        child, _, tensor = bare.partition(".")
        endings[name] = "full", name
        endings[bare] = "bare", name
        endings[f"{CHILDREN.index(child)}.{tensor}"] = "numbered", name
    return endings


def _places(
    keys: Iterable[str], endings: Mapping[str, tuple[Layout, str]]
) -> dict[Place, dict[str, str]]:
    """Return every place that has dense layers, with the key of each of the model's names."""
    places: dict[Place, dict[str, str]] = {}
    for key in keys:
        for start in (0, *(match.end() for match in re.finditer(r"[./]", key))):
            if key[start:] in endings:
                layout, name = endings[key[start:]]
                places.setdefault(Place(key[:start], layout), {})[name] = key
                break  # the longest ending
    return {
        place: keys_of
        for place, keys_of in places.items()
        if any("denselayer" in name for name in keys_of)
    }


def _choose(
    values: Mapping[str, object], places: Mapping[Place, Mapping[str, str]], source: str
) -> Place:
    """Return the place of the encoder that is not another's moving average.

    Raises:
        BadInput: Several are left, and they differ.
    """
    least = min(_slow_words(place.prefix) for place in places)
    first, *more = (place for place in places if _slow_words(place.prefix) == least)
    for other in more:
        one, two = places[first], places[other]
        if one.keys() != two.keys() or not all(
            _same(values[one[name]], values[two[name]]) for name in one
        ):
            raise BadInput(
                f"{source}: holds several encoders (under {first.prefix or 'no prefix'} and "
                f"{other.prefix or 'no prefix'}); save one of them alone"
            )
    return first


def _slow_words(name: str) -> int:
    return sum(word in SLOW for word in re.split(r"[./_]", name.lower()))


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one is other


def _head(rest: Mapping[str, Tensor], place: Place) -> dict[str, Tensor]:
    """Return layers that are called like a classifier, or are linear and not a projection."""
    layers: set[str] = set()
    for key, tensor in rest.items():
        own = key.removeprefix(place.prefix)
        linear = tensor.ndim == 2 and own.endswith(".weight")
        if not _slow_words(own) and not PROJECTION.search(own) and (linear or HEAD.search(own)):
            layers.add(key.rpartition(".")[0])
    return {key: tensor for key, tensor in rest.items() if key.rpartition(".")[0] in layers}


def _part_of(key: str, place: Place) -> str:
    """Return the first word of a key that the encoder's place does not share."""
    shared = re.split(r"[./]", place.prefix)
    words = re.split(r"[./]", key)
    while len(words) > 1 and shared and words[0] == shared[0]:
        words, shared = words[1:], shared[1:]
    return words[0]
