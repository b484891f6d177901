"""What a hospital makes of an instruction's weights, and what it keeps and returns in the end."""

from typing import NamedTuple

import torch

from client.local import LOCAL
from client.local.base import LocalTraining
from client.own import OwnLost, OwnStates, spec_of_own
from client.received import ReceivedModel
from common.codec.change import sent
from common.options import Wire
from common.protocol import Instruction
from common.seeds import generator
from common.state import (
    OF_LOCAL,
    RESIDUAL,
    WEIGHTS,
    State,
    join,
    kept_back,
    parameters_of,
    returned,
)
from common.wire import Blob


class Begun(NamedTuple):
    """A model to score and to train.

    Attributes:
        model: With the received weights.
        local: How it is trained.
        residual: What has not travelled of earlier rounds; empty: nothing.
    """

    model: torch.nn.Module
    local: LocalTraining
    residual: State


class Exchange:
    """Holds what a hospital has from round to round: the model, and what is its own.

    Args:
        own: Keeps what is its own.
        site: The hospital's name.

    Attributes:
        own: The same.
        model: The model that it received last.
        in_sums: Whether the run's updates are summed under masks.
    """

    def __init__(self, own: OwnStates, site: str) -> None:
        self.own = own
        self._site = site
        self.model = ReceivedModel()
        self.in_sums = False

    def begin(self, instruction: Instruction, blob: Blob, device: torch.device) -> Begun:
        """Return the model with what was received, and with what is the hospital's own, in it.

        Args:
            instruction: Says what the blob is, and after which round the hospital's own counts.
            blob: What came with it.
            device: Where the model is to be.

        Raises:
            WireError: The blob is not what the instruction says, or is of no use here.
            OwnLost: What the hospital kept is lost, and the server does not know.
        """
        training = instruction.training
        whole = self.model.spec(instruction.architecture, device)
        spec = spec_of_own(whole, training, self._wire_up(instruction))
        own = self.own.load(instruction.identity.run, instruction.counted, spec)
        lost = instruction.counted > 0 and not own
        if lost and instruction.task == "train" and not instruction.begins_again:
            raise OwnLost("what was kept of its own")
        received = self.model.receive(instruction, blob, own.get(WEIGHTS, {}), device)
        method = LOCAL[training.local]
        if instruction.task == "evaluate":
            method = LocalTraining
        before = parameters_of(returned(received.state, training))
        local = method(training, before, received.beside, own.get(OF_LOCAL, {}), device)
        return Begun(received.model, local, own.get(RESIDUAL, {}))

    def end(self, instruction: Instruction, state: State, begun: Begun, steps: int) -> bytes:
        """Keep what is the hospital's own; return what goes to the server, as it travels.

        Args:
            instruction: That was followed.
            state: The model after training.
            begun: As it was before.
            steps: How many steps the training took.

        Raises:
            Unwritable: What is the hospital's own cannot be written.
        """
        training, identity = instruction.training, instruction.identity
        after = returned(state, training)
        rng = generator(instruction.seed, "wire", identity.round, self._site)
        up = sent(begun.local.before, after, begun.residual, self._wire_up(instruction), rng)
        if training.keeps_state:
            own = {
                WEIGHTS: kept_back(state, training),
                OF_LOCAL: begun.local.learned(parameters_of(up.state), steps),
                RESIDUAL: up.residual,
            }
            self.own.keep(identity.run, instruction.counted, identity.round, join(own))
        self.model.hold()
        return up.blob

    def _wire_up(self, instruction: Instruction) -> Wire:
        """Return how trained weights travel; a secure sum's have an encoding of their own."""
        return "fp32" if self.in_sums else instruction.wire
