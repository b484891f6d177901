"""What the two adapters rely on in Flower; a version that breaks one of these is seen here."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import flwr.common
import pytest
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage
from flwr.proto.transport_pb2_grpc import FlowerServiceServicer
from flwr.server.superlink.fleet.grpc_bidi.grpc_bridge import (
    GrpcBridge,
    GrpcBridgeClosed,
    InsWrapper,
    ResWrapper,
)
from flwr.server.superlink.fleet.grpc_bidi.grpc_client_proxy import GrpcClientProxy

from tests.support.commands import untouched_environment


def parameters_of(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_version_is_the_one_that_was_measured() -> None:
    assert version("flwr") == "1.41.0"


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (GrpcClientProxy.get_properties, ["self", "ins", "timeout", "group_id"]),
        (GrpcClientProxy.get_parameters, ["self", "ins", "timeout", "group_id"]),
        (GrpcClientProxy.__init__, ["self", "cid", "bridge"]),
        (GrpcBridge.request, ["self", "ins_wrapper"]),
        (GrpcBridge.close, ["self"]),
        (InsWrapper, ["server_message", "timeout"]),
        (GrpcBridge.ins_wrapper_iterator, ["self"]),
        (GrpcBridge.set_res_wrapper, ["self", "res_wrapper"]),
        (ResWrapper, ["client_message"]),
        (FlowerServiceServicer.Join, ["self", "request_iterator", "context"]),
    ],
)
def test_what_is_called_or_overridden_keeps_its_parameters(
    method: Callable[..., Any], parameters: list[str]
) -> None:
    assert parameters_of(method) == parameters


def test_a_closed_bridge_answers_no_request() -> None:
    bridge = GrpcBridge()
    bridge.close()
    with pytest.raises(GrpcBridgeClosed):
        bridge.request(InsWrapper(ServerMessage(), None))


def test_the_messages_have_the_parts_that_are_used() -> None:
    ins = ServerMessage.DESCRIPTOR.oneofs_by_name["msg"].fields
    res = ClientMessage.DESCRIPTOR.oneofs_by_name["msg"].fields
    assert {field.name for field in ins} >= {"get_properties_ins", "get_parameters_ins", "fit_ins"}
    assert {field.name for field in res} >= {"get_properties_res", "get_parameters_res", "fit_res"}


def test_parameters_carry_bytes_of_any_type_and_scalars_carry_text() -> None:
    parameters = flwr.common.Parameters([b"\x00blob"], "safetensors")
    ins = flwr.common.FitIns(parameters, {"message": "{}"})
    from flwr.common import serde

    back = serde.fit_ins_from_proto(serde.fit_ins_to_proto(ins))
    assert back.parameters.tensors == [b"\x00blob"]
    assert back.parameters.tensor_type == "safetensors"
    assert back.config == {"message": "{}"}


def printed(code: str) -> str:
    env = untouched_environment()
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout


def test_what_phones_home_is_off() -> None:
    code = """
import common
from flwr.supercore import telemetry
print(telemetry.FLWR_TELEMETRY_ENABLED)
"""
    assert printed(code) == "0\n"


@pytest.mark.parametrize(
    "adapter",
    [
        "server.transport.service",
        "server.transport.connection",
        "client.transport.messages",
        "client.transport.connection",
    ],
)
def test_an_adapter_sees_to_that_before_it_imports_flower(adapter: str) -> None:
    code = f"""
import os, sys
class Watch:
    def find_spec(self, name, path, target=None):
        if name == "flwr":
            print(os.environ.get("FLWR_TELEMETRY_ENABLED"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
import {adapter}
"""
    assert printed(code) == "0\n"
