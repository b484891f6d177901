"""The model that a hospital receives: whole, or the part of it that the hospital does not hold."""

from typing import NamedTuple

import torch

from client.own import OwnLost
from common.codec.change import received
from common.model import build_model, load_state, state_of
from common.options import Architecture, Training
from common.protocol import Instruction
from common.state import (
    CONTROL,
    WEIGHTS,
    Spec,
    State,
    join,
    parameters_of,
    returned,
    select,
    spec_of,
    split,
)
from common.wire import Blob, WireError, fingerprint, pack, unpack


class Received(NamedTuple):
    """A model, its state, and the named states that came beside it."""

    model: torch.nn.Module
    state: State
    beside: dict[str, State]


def spec_beside(model: Spec, training: Training) -> dict[str, Spec]:
    """Return what comes beside the weights to train with, by name."""
    control = parameters_of(returned(model, training))
    return {CONTROL: control} if training.local == "scaffold" else {}


class ReceivedModel:
    """Holds one model from round to round, and its backbone while that is frozen.

    Attributes:
        backbone: Hash of the frozen backbone; None: none is held.
        holds: Hash of what is trained of the model as it was received; None: nothing is held, as
            no changes of it are to come.
    """

    def __init__(self) -> None:
        self.backbone: str | None = None
        self.holds: str | None = None
        self._held: State = {}
        self._to_hold: State | None = None  # until the answer: the CPU may have to begin again
        self._model: torch.nn.Module | None = None
        self._architecture: Architecture | None = None
        self._spec: Spec = {}
        self._frozen: State = {}  # on the CPU, which may have to take over

    def forget(self) -> None:
        """Give up the model, but not the frozen backbone: the next one may be on another device."""
        self._model = None

    def hold(self) -> None:
        """Hold what was received last, as changes of it may come; its instruction is followed."""
        if self._to_hold is not None:
            self._held, self.holds = self._to_hold, fingerprint(pack(self._to_hold))
            self._to_hold = None

    def spec(self, architecture: Architecture, device: torch.device) -> Spec:
        """Return the tensors of the models to come.

        Args:
            architecture: Theirs.
            device: Where they are to be, the same one until the model is forgotten.
        """
        if self._architecture != architecture:
            self._model = None
            self._frozen, self.backbone = {}, None
            self._held, self.holds, self._to_hold = {}, None, None
            self._architecture = architecture
        if self._model is None:
            model = build_model(architecture)
            self._spec = spec_of(state_of(model))
            self._model = model.to(device)
        return self._spec

    def receive(
        self, instruction: Instruction, blob: Blob, own: State, device: torch.device
    ) -> Received:
        """Return the model with the received weights in it; :meth:`hold` keeps them.

        Args:
            instruction: Says what the blob is.
            blob: The weights, and what came beside them.
            own: The hospital's own part of the model, which it does not share.
            device: Where the model is to be, the same one until it is forgotten.

        Raises:
            WireError: The blob is not what the instruction says, or a part or a change came to a
                client that does not hold the rest.
            OwnLost: A part came to a hospital that has lost its own.
        """
        training, part = instruction.training, instruction.weights
        whole = self.spec(instruction.architecture, device)
        held = self._frozen if training.mode == "linear" else own
        if missing := whole.keys() - select(whole, part).keys() - held.keys():
            lost = WireError if training.mode == "linear" else OwnLost
            raise lost(f"{part} came alone, and {min(missing)} is not held here")
        beside = spec_beside(whole, training) if instruction.task == "train" else {}
        spec = join({WEIGHTS: select(whole, part), **beside})
        states = split(self._unpacked(instruction, blob, spec))
        state = states.pop(WEIGHTS)
        if training.mode == "finetune":
            self._frozen, self.backbone = {}, None
        elif part == "all":
            self._frozen = select(state, "backbone")
            self.backbone = fingerprint(pack(self._frozen))
        assert self._model is not None  # noqa: S101 - spec() has made it
        state = {**self._frozen, **state, **own}
        load_state(self._model, state)
        changes = instruction.task == "train" and instruction.wire != "fp32"
        self._to_hold = returned(state, training) if changes else None
        return Received(self._model, state, states)

    def _unpacked(self, instruction: Instruction, blob: Blob, spec: Spec) -> State:
        """Return the joined states in a blob, which may be changes of what is held.

        Raises:
            WireError: It is not what the instruction says.
        """
        if instruction.base is None:
            return unpack(blob, spec)
        if instruction.base != self.holds:
            raise WireError("a change came of a model that is not held here")
        return received(blob, self._held, spec, instruction.wire)
