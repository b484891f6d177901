"""What the adapters rely on in Flower; a version that breaks one of these is seen here."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from flwr.proto.transport_pb2 import DESCRIPTOR, ClientMessage, Parameters, Scalar, ServerMessage

from tests.support.commands import untouched_environment


def test_the_version_is_the_one_that_was_measured() -> None:
    assert version("flwr") == "1.41.0"


def test_the_messages_have_the_parts_that_are_used() -> None:
    ins = ServerMessage.DESCRIPTOR.oneofs_by_name["msg"].fields
    res = ClientMessage.DESCRIPTOR.oneofs_by_name["msg"].fields
    assert {field.name for field in ins} >= {"get_properties_ins", "get_parameters_ins", "fit_ins"}
    assert {field.name for field in res} >= {"get_properties_res", "get_parameters_res", "fit_res"}


def test_the_stream_has_its_name_and_its_messages() -> None:
    (join,) = DESCRIPTOR.services_by_name["FlowerService"].methods
    assert (join.name, join.client_streaming, join.server_streaming) == ("Join", True, True)
    assert join.input_type.full_name == ClientMessage.DESCRIPTOR.full_name
    assert join.output_type.full_name == ServerMessage.DESCRIPTOR.full_name


def test_parameters_carry_bytes_of_any_type_and_scalars_carry_text() -> None:
    parameters = Parameters(tensors=[b"\x00blob"], tensor_type="safetensors")
    ins = ServerMessage.FitIns(parameters=parameters, config={"message": Scalar(string="{}")})
    back = ServerMessage.FitIns.FromString(ins.SerializeToString())
    assert back.parameters.tensors == [b"\x00blob"]
    assert back.config["message"].string == "{}"


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
        "server.transport.stream",
        "server.strategies.flower.load",
        "client.transport.form",
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
