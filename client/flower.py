"""The client's side of Flower; no other file under ``client`` imports it.

Flower 1.41's ``start_client`` holds one bidirectional gRPC stream. A hospital is greeted through
``get_properties`` and trains through ``fit``. See docs/decisions/0001-flower-transport.md.
"""

import logging
import random
import time
from collections.abc import Mapping
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from common.logs import quiet_flower

quiet_flower()

import grpc  # noqa: E402
from flwr.client import Client, start_client  # noqa: E402
from flwr.common import (  # noqa: E402
    Code,
    FitIns,
    FitRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Parameters,
    Scalar,
    Status,
)

from client.hospital import Hospital  # noqa: E402
from common.errors import BadInput, Refused  # noqa: E402
from common.protocol import CALL, Farewell, Instruction  # noqa: E402

log = logging.getLogger(__name__)

INSTRUCTION = TypeAdapter(Instruction)
MessageT = TypeVar("MessageT")

OK = Status(Code.OK, "")
LONGEST_PAUSE = 30.0
"""Seconds between two attempts to connect, at most."""


class FlowerHospital(Client):
    """Hands Flower's calls to a hospital and remembers how the run ended.

    Attributes:
        farewell: The server's last words, once they have come.
        heard: When the server was last heard of, by the monotonic clock.
    """

    def __init__(self, hospital: Hospital) -> None:
        self._hospital = hospital
        self.farewell: Farewell | None = None
        self.heard = time.monotonic()

    def get_properties(self, ins: GetPropertiesIns) -> GetPropertiesRes:
        """Answer a greeting with a hello; take a farewell to heart."""
        self.heard = time.monotonic()
        call = _understood(CALL, ins.config)
        if isinstance(call, Farewell):
            self.farewell = call
            return GetPropertiesRes(OK, {})
        hello = self._hospital.greet(call)
        log.info("%s joins run %s with %d images", hello.site, call.run, hello.examples)
        return GetPropertiesRes(OK, {"message": hello.model_dump_json()})

    def fit(self, ins: FitIns) -> FitRes:
        """Take part in a round."""
        self.heard = time.monotonic()
        instruction = _understood(INSTRUCTION, ins.config)
        blob = ins.parameters.tensors[0]
        number = instruction.identity.round
        if instruction.task == "train":
            log.info("round %d: %.1f MB received", number, len(blob) / 1e6)
        else:
            log.info("scoring the final model, %.1f MB received", len(blob) / 1e6)
        reply, weights = self._hospital.answer(instruction, blob)
        if reply.loss is not None:
            log.info(
                "round %d: loss %.4f over %d images in %.1f s, %.1f MB to send",
                number,
                reply.loss,
                reply.examples,
                reply.seconds.train,
                len(weights) / 1e6,
            )
        self.heard = time.monotonic()
        return FitRes(
            status=OK,
            parameters=Parameters([weights], "safetensors"),
            num_examples=reply.examples,
            metrics={"message": reply.model_dump_json()},
        )


def _understood(messages: TypeAdapter[MessageT], config: Mapping[str, Scalar]) -> MessageT:
    """Return the message in a call of Flower's.

    Raises:
        BadInput: The server speaks another protocol; leaves ``start_client`` as it is.
    """
    try:
        return messages.validate_json(str(config.get("message")))
    except ValidationError:
        raise BadInput(
            "the server sent a message that this client does not understand; "
            "run the same version of FedCXR on both sides"
        ) from None


def take_part(
    hospital: Hospital, server: str, root_certificate: bytes | None, patience: float
) -> None:
    """Connect to the server and take part until it says that the run is over.

    Args:
        hospital: Who takes part.
        server: ``HOST:PORT``.
        root_certificate: The CA's certificate, PEM; None: an unencrypted connection.
        patience: Seconds for which the server may be out of reach, at the start or later.

    Raises:
        Refused: The server does not let this hospital take part.
        BadInput: The server was out of reach for too long, or the shard is of no use to the run.
    """
    client = FlowerHospital(hospital)
    pause = 0.5
    client.heard = time.monotonic()
    while client.farewell is None:
        before = client.heard
        reason = "the connection was closed"
        try:
            start_client(
                server_address=server,
                client=client.to_client(),
                insecure=root_certificate is None,
                root_certificates=root_certificate,
            )
        except grpc.RpcError as error:
            reason = error.code().name if isinstance(error, grpc.Call) else type(error).__name__
        if client.farewell is not None:
            break
        silent = time.monotonic() - client.heard
        if silent > patience:
            raise BadInput(
                f"{server}: no server within {patience:.0f} s ({reason}); check that it runs, that "
                "the address is right, and that both sides use --tls or both --insecure"
            )
        pause = 0.5 if client.heard != before else min(pause * 2, LONGEST_PAUSE)
        log.info("%s is out of reach (%s); trying again", server, reason)
        time.sleep(min(pause * random.uniform(0.5, 1), patience))  # noqa: S311 - not a secret
    if client.farewell.outcome == "refused":
        raise Refused(f"{server} refused {hospital.name}: {client.farewell.reason}")
    log.info("the run is over: %s", client.farewell.reason)
