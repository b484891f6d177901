"""The model that a hospital receives: whole, or the head alone for a backbone that it has."""

import torch

from common.model import build_model, load_state, state_of
from common.options import Architecture
from common.protocol import Instruction
from common.state import Spec, State, select, spec_of
from common.wire import WireError, fingerprint, pack, unpack


class ReceivedModel:
    """Holds one model from round to round, and its backbone while that is frozen.

    Attributes:
        backbone: Hash of the frozen backbone; None: none is held.
    """

    def __init__(self) -> None:
        self.backbone: str | None = None
        self._model: torch.nn.Module | None = None
        self._architecture: Architecture | None = None
        self._spec: Spec = {}
        self._frozen: State = {}  # on the CPU, which may have to take over

    def forget(self) -> None:
        """Give up the model, but not the frozen backbone: the next one may be on another device."""
        self._model = None

    def receive(
        self, instruction: Instruction, blob: bytes, device: torch.device
    ) -> torch.nn.Module:
        """Return the model with the received weights in it.

        Args:
            instruction: Says what the blob is.
            blob: The weights.
            device: Where the model is to be, the same one until it is forgotten.

        Raises:
            WireError: The blob is not what the instruction says, or a head came to a client
                that has no backbone.
        """
        if self._architecture != instruction.architecture:
            self._model = None
            self._frozen, self.backbone = {}, None
            self._architecture = instruction.architecture
        if self._model is None:
            model = build_model(instruction.architecture)
            self._spec = spec_of(state_of(model))
            self._model = model.to(device)
        if instruction.weights == "head" and self.backbone is None:
            raise WireError("the head alone came before any backbone")
        spec = select(self._spec, instruction.weights)
        state = unpack(blob, spec)
        if instruction.training.mode == "finetune":
            self._frozen, self.backbone = {}, None
        elif instruction.weights == "all":
            self._frozen = select(state, "backbone")
            self.backbone = fingerprint(pack(self._frozen))
        load_state(self._model, {**self._frozen, **state})
        return self._model
