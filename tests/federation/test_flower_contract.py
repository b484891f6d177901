"""What the two adapters rely on in Flower; a version that breaks one of these is seen here."""

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest

import client.flower
import server.flower
from common.logs import quiet_flower

quiet_flower()

import flwr.client  # noqa: E402
import flwr.common  # noqa: E402
import flwr.server  # noqa: E402
from flwr.server.client_proxy import ClientProxy  # noqa: E402


def parameters_of(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_version_is_the_one_that_was_measured() -> None:
    assert version("flwr") == "1.41.0"


@pytest.mark.parametrize(
    ("function", "used"),
    [
        (flwr.server.start_server, {"server_address", "server", "config", "certificates"}),
        (
            flwr.client.start_client,
            {"server_address", "client", "insecure", "root_certificates"},
        ),
    ],
)
def test_the_two_functions_take_what_is_given_to_them(
    function: Callable[..., Any], used: set[str]
) -> None:
    assert used <= set(parameters_of(function))


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (ClientProxy.get_properties, ["self", "ins", "timeout", "group_id"]),
        (ClientProxy.fit, ["self", "ins", "timeout", "group_id"]),
        (ClientProxy.reconnect, ["self", "ins", "timeout", "group_id"]),
        (flwr.server.Server.fit, ["self", "num_rounds", "timeout"]),
        (flwr.server.Server.disconnect_all_clients, ["self", "timeout"]),
        (flwr.server.SimpleClientManager.register, ["self", "client"]),
        (flwr.server.SimpleClientManager.unregister, ["self", "client"]),
        (flwr.server.SimpleClientManager.wait_for, ["self", "num_clients", "timeout"]),
        (flwr.client.Client.get_properties, ["self", "ins"]),
        (flwr.client.Client.fit, ["self", "ins"]),
    ],
)
def test_methods_that_are_called_or_overridden_keep_their_parameters(
    method: Callable[..., Any], parameters: list[str]
) -> None:
    assert parameters_of(method) == parameters


def test_parameters_carry_bytes_of_any_type_and_scalars_carry_text() -> None:
    parameters = flwr.common.Parameters([b"\x00blob"], "safetensors")
    ins = flwr.common.FitIns(parameters, {"message": "{}"})
    from flwr.common import serde

    back = serde.fit_ins_from_proto(serde.fit_ins_to_proto(ins))
    assert back.parameters.tensors == [b"\x00blob"]
    assert back.parameters.tensor_type == "safetensors"
    assert back.config == {"message": "{}"}


def test_what_phones_home_is_off_before_flower_is_imported() -> None:
    from flwr.supercore import telemetry

    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
    for module in (client.flower, server.flower):
        source = inspect.getsource(module)
        assert source.index("\nquiet_flower()") < source.index("from flwr")
