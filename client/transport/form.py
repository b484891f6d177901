"""How this project's messages travel in Flower's, as a client reads and writes them."""

from importlib.metadata import version
from typing import Any

from flwr.proto.transport_pb2 import ClientMessage, Code, Scalar, ServerMessage, Status

from common.envelope import Envelope, enclosed, opened
from common.errors import BadInput
from common.message import ProtocolError, parse_message
from common.protocol import CALL, Check, Farewell, Greeting

SAME_VERSION = "the server sent {}; run the same version of FedCXR on both sides"

OK = Status(code=Code.OK)

INSTRUCTED = (
    ServerMessage.DESCRIPTOR.fields_by_name["fit_ins"].number,
    ServerMessage.FitIns.DESCRIPTOR.fields_by_name["parameters"].number,
)
ANSWERED = (
    ClientMessage.DESCRIPTOR.fields_by_name["get_parameters_res"].number,
    ClientMessage.GetParametersRes.DESCRIPTOR.fields_by_name["parameters"].number,
)
"""Fields that lead to the weights of an instruction, and of an answer."""


def message_of(data: bytes) -> Envelope[ServerMessage]:
    """Return a message as it travelled."""
    if (parts := opened(data, INSTRUCTED)) is not None:
        return Envelope(ServerMessage.FromString(parts[0]), parts[1])
    message = ServerMessage.FromString(data)
    tensors = message.fit_ins.parameters.tensors
    return Envelope(message, tensors[0] if len(tensors) == 1 else b"")


def serialised(answer: Envelope[ClientMessage]) -> bytes:
    """Return an answer as it travels."""
    message = answer.message.SerializeToString()
    return enclosed(message, ANSWERED, answer.weights) if answer.weights else message


def first_of(message: ServerMessage) -> Greeting | Farewell:
    """Return a server's first message.

    Raises:
        BadInput: It is another, or of another protocol.
    """
    try:
        if message.WhichOneof("msg") == "get_properties_ins":
            match parse_message(CALL, text_of(message.get_properties_ins.config)):
                case Greeting() | Farewell() as first:
                    return first
        raise ProtocolError("no greeting")
    except ProtocolError as error:
        raise BadInput(SAME_VERSION.format(error)) from None


def check_of(name: str) -> Envelope[ClientMessage]:
    """Return the answer to a greeting of a hospital that only looks whether it could join."""
    return properties_of(Check(site=name, version=version("fedcxr")).model_dump_json())


def properties_of(message: str) -> Envelope[ClientMessage]:
    """Return a message that is no reply to an instruction as it travels."""
    properties = {"message": Scalar(string=message)}
    res = ClientMessage.GetPropertiesRes(status=OK, properties=properties)
    return Envelope(ClientMessage(get_properties_res=res))


def text_of(config: Any) -> str:
    """Return the message in the configuration of a call of Flower's."""
    return str(config["message"].string) if "message" in config else ""
