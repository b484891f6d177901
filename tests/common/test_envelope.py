"""Weights in a message are what any protobuf library reads; none are copied on the way out."""

import numpy as np
from flwr.proto.transport_pb2 import ClientMessage, Parameters, Scalar, ServerMessage
from hypothesis import given
from hypothesis import strategies as st

import common as common  # switches off the telemetry before Flower is imported
from common.envelope import ALIGNMENT, enclosed, opened

INSTRUCTION = (4, 1)
ANSWER = (3, 2)


@given(st.text(max_size=300), st.binary(max_size=300))
def test_protobuf_reads_what_was_enclosed(text: str, weights: bytes) -> None:
    ins = ServerMessage.FitIns(config={"message": Scalar(string=text)})
    message = ServerMessage(fit_ins=ins).SerializeToString()
    data = enclosed(message, INSTRUCTION, weights)
    assert (len(data) - len(weights)) % ALIGNMENT == 0
    read = ServerMessage.FromString(data)
    assert read.WhichOneof("msg") == "fit_ins"
    assert read.fit_ins.config["message"].string == text
    assert read.fit_ins.parameters.tensors == [weights]
    parts = opened(data, INSTRUCTION)
    assert parts is not None
    assert (parts[0], bytes(parts[1])) == (message, weights)
    assert opened(data, ANSWER) is None


def test_weights_of_a_real_size_lie_in_the_message_where_arrays_can_be_read() -> None:
    weights = bytes(28_300_007)
    message = ClientMessage(get_parameters_res=ClientMessage.GetParametersRes())
    data = enclosed(message.SerializeToString(), ANSWER, weights)
    assert ClientMessage.FromString(data).get_parameters_res.parameters.tensors == [weights]
    parts = opened(data, ANSWER)
    assert parts is not None
    found = np.frombuffer(parts[1], np.uint8)
    assert parts[1].obj is data
    assert found.ctypes.data % ALIGNMENT == 0


@given(st.binary(max_size=100) | st.lists(st.sampled_from([0x12, 0x1A, 0x0A, 0, 2, 5, 0x80]))
       .map(bytes))  # fmt: skip
def test_whatever_bytes_arrive_no_more_than_they_have_is_taken(data: bytes) -> None:
    if (parts := opened(data, ANSWER)) is not None:
        rest, weights = parts
        assert data.startswith(rest)
        assert data.endswith(bytes(weights))


def test_weights_that_protobuf_put_elsewhere_are_left_to_it() -> None:
    parameters = Parameters(tensors=[b"weights"], tensor_type="safetensors")
    res = ClientMessage.GetParametersRes(parameters=parameters)
    data = ClientMessage(get_parameters_res=res).SerializeToString()
    assert opened(data, ANSWER) is None
