"""A hospital in a federation: its shard, its model, and its answers to the server's messages."""

import logging
import time
from importlib.metadata import version
from pathlib import Path

import torch

from client.slots import slot
from client.training import labelled_fraction, train
from common.data.shard import Shard
from common.errors import BadInput
from common.evaluation import evaluate
from common.model import build_model, load_state, state_of
from common.protocol import Greeting, Hello, Instruction, Reply
from common.wire import (
    Spec,
    WireError,
    backbone_of,
    fingerprint,
    head_of,
    pack,
    spec_of,
    unpack,
)

log = logging.getLogger(__name__)


class Hospital:
    """Holds a shard for the length of a run and does what the server asks of it.

    Args:
        name: How the hospital is known to the server.
        shard: A labelled shard.
        device: Where to compute.
        slots: How many clients on this machine may compute at once.
        slots_folder: The folder through which they take turns; None: no turns.
    """

    def __init__(
        self,
        name: str,
        shard: Shard,
        device: torch.device,
        slots: int = 1,
        slots_folder: Path | None = None,
    ) -> None:
        shard.labelled()
        self.name = name
        self._shard = shard
        self._device = device
        self._slots = slots
        self._slots_folder = slots_folder
        self._model: torch.nn.Module | None = None
        self._architecture: str | None = None
        self._spec: Spec = {}
        self._backbone: str | None = None

    def greet(self, greeting: Greeting) -> Hello:
        """Introduce the hospital to a run.

        Raises:
            BadInput: No image is left for training.
        """
        training, _ = self._shard.split(greeting.seed)
        if not len(training):
            raise BadInput(
                f"{self._shard.path}: no image is left for training, since all its patients are "
                "kept for validation; give a shard with more patients"
            )
        return Hello(
            site=self.name,
            version=version("fedcxr"),
            examples=len(training),
            image_size=self._shard.manifest.size,
            backbone=self._backbone,
        )

    def answer(self, instruction: Instruction, blob: bytes) -> tuple[Reply, bytes]:
        """Score the received weights, train them if asked, and return the reply and new weights.

        Never raises for a fault of its own: a failed reply carries the exception's type alone,
        since its text may hold patient data.
        """
        try:
            return self._answer(instruction, blob)
        except Exception as error:
            log.error("round %d failed: %s", instruction.identity.round, type(error).__name__)
            log.debug("the fault", exc_info=True)
            reason = type(error).__name__
            return Reply(identity=instruction.identity, status="failed", reason=reason), b""

    def _answer(self, instruction: Instruction, blob: bytes) -> tuple[Reply, bytes]:
        model = self._receive(instruction, blob)
        training, validation = self._shard.split(instruction.seed)
        with slot(self._slots_folder, self._slots) as waited:
            start = time.monotonic()
            scores = evaluate(model, self._shard, validation, self._device)
            evaluated = time.monotonic()
            seconds = {"wait": waited, "evaluate": evaluated - start, "train": 0.0}
            if instruction.task == "evaluate":
                return self._reply(instruction, seconds, validation=scores), b""
            chosen = labelled_fraction(
                training, instruction.label_fraction, instruction.seed, self.name
            )
            loss = train(model, self._shard, chosen, instruction, self.name, self._device)
            seconds["train"] = time.monotonic() - evaluated
        state = state_of(model)
        weights = pack(state if instruction.mode == "finetune" else head_of(state))
        reply = self._reply(
            instruction,
            seconds,
            validation=scores,
            examples=len(chosen),
            loss=loss,
            weights=fingerprint(weights),
        )
        return reply, weights

    @staticmethod
    def _reply(instruction: Instruction, seconds: dict[str, float], **fields: object) -> Reply:
        return Reply.model_validate(
            {"identity": instruction.identity, "status": "ok", "seconds": seconds, **fields}
        )

    def _receive(self, instruction: Instruction, blob: bytes) -> torch.nn.Module:
        """Return the model with the received weights in it.

        Raises:
            WireError: The blob is not what the instruction says, or a head came to a client
                that has no backbone.
        """
        if self._model is None or self._architecture != instruction.architecture:
            self._model = build_model(instruction.architecture).to(self._device)
            self._architecture = instruction.architecture
            self._spec = spec_of(state_of(self._model))
            self._backbone = None
        if instruction.weights == "head" and self._backbone is None:
            raise WireError("the head alone came before any backbone")
        spec = self._spec if instruction.weights == "all" else head_of(self._spec)
        state = unpack(blob, spec)
        load_state(self._model, state)
        if instruction.mode == "finetune":
            self._backbone = None
        elif instruction.weights == "all":
            self._backbone = fingerprint(pack(backbone_of(state)))
        return self._model
