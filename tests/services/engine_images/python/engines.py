"""One inference of one number, as a client of each engine sends it.

The test models multiply their input by a factor, so the answer to 1 names the model and its version
even where an engine does not.
"""

import struct
from dataclasses import dataclass

import wire_pb2 as wire

PREDICT = "/tensorflow.serving.PredictionService/Predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"
DT_FLOAT = 1


@dataclass(frozen=True)
class Answer:
    """What an engine says: the result of 1, and which model and version it says it is."""

    factor: float
    model: str
    version: str


def ask(channel, platform, name, *, model_id=None, seconds=5.0):
    """One call for the model that clients call `name`, routed by `model_id` (default: the name).

    Raises grpc.RpcError.
    """
    metadata = (("model-id", model_id or name),)
    if platform == "triton":
        request = wire.ModelInferRequest(model_name=name)
        request.inputs.add(name="x", datatype="FP32", shape=[1])
        request.raw_input_contents.append(struct.pack("<f", 1.0))
        call = channel.unary_unary(
            INFER,
            wire.ModelInferRequest.SerializeToString,
            wire.ModelInferResponse.FromString,
        )
        answer = call(request, metadata=metadata, timeout=seconds)
        (factor,) = struct.unpack("<f", answer.raw_output_contents[0])
        return Answer(factor, answer.model_name, answer.model_version)
    request = wire.PredictRequest()
    request.model_spec.name = name
    request.inputs["x"].dtype = DT_FLOAT
    request.inputs["x"].tensor_shape.dim.add(size=1)
    request.inputs["x"].float_val.append(1.0)
    call = channel.unary_unary(
        PREDICT, wire.PredictRequest.SerializeToString, wire.PredictResponse.FromString
    )
    answer = call(request, metadata=metadata, timeout=seconds)
    spec = answer.model_spec
    return Answer(answer.outputs["y"].float_val[0], spec.name, str(spec.version.value))
