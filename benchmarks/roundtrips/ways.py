"""Ways that an ONNX file goes on from here: runtimes, simplifiers, converters and quantisers.

A way takes a file, the inputs (one image each) and a folder to write into, and gives what the network answers
there: a list of outputs for each input. Whatever it raises means that the file was not accepted.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

Image = NDArray[np.float32]  # (1, channels, height, width)
Answers = list[list[NDArray[Any]]]  # of each input, the outputs
Way = Callable[[Path, Sequence[Image], Path], Answers]


_LEVEL = ort.GraphOptimizationLevel


def session(path: Path, level: ort.GraphOptimizationLevel = _LEVEL.ORT_ENABLE_ALL) -> ort.InferenceSession:
    """An ONNX Runtime session on one thread of the processor."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = level
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answers(running: ort.InferenceSession, images: Sequence[Image]) -> Answers:
    """What a session answers."""
    (given,) = running.get_inputs()
    return [list(running.run(None, {given.name: image})) for image in images]


def onnxruntime_at(level: ort.GraphOptimizationLevel) -> Way:
    """ONNX Runtime at one level of its optimisations."""
    return lambda path, images, folder: answers(session(path, level), images)


def openvino(path: Path, images: Sequence[Image], folder: Path) -> Answers:
    """OpenVINO on the processor, in single precision."""
    from openvino import Core

    core = Core()
    precision = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(path), "CPU", precision)
    return [list(compiled([image]).to_tuple()) for image in images]


def onnxslim(path: Path, images: Sequence[Image], folder: Path) -> Answers:
    """onnxslim, then ONNX Runtime."""
    from onnxslim import slim

    made = folder / "onnxslim.onnx"
    onnx.save(slim(onnx.load(path)), made)
    return answers(session(made), images)


def onnxsim(path: Path, images: Sequence[Image], folder: Path) -> Answers:
    """onnxsim, then ONNX Runtime."""
    from onnxsim import simplify

    model, same = simplify(onnx.load(path))
    if not same:
        raise ValueError("onnxsim finds its own result different")
    made = folder / "onnxsim.onnx"
    onnx.save(model, made)
    return answers(session(made), images)


def tract(path: Path, images: Sequence[Image], folder: Path) -> Answers:
    """Tract, a runtime in Rust."""
    import tract as library

    model = library.onnx().load(str(path))
    model.set_input_fact(0, ",".join(map(str, images[0].shape)) + ",f32")
    running = model.into_model().into_runnable()
    return [[output.to_numpy() for output in running.run([image])] for image in images]


def ncnn(path: Path, images: Sequence[Image], folder: Path) -> Answers:
    """PNNX, then ncnn in single precision; ncnn knows no batch."""
    import ncnn as library
    import pnnx

    made = folder / "ncnn.onnx"
    made.write_bytes(path.read_bytes())
    shape = "[" + ",".join(map(str, images[0].shape)) + "]f32"
    program = [str(Path(pnnx.EXEC_PATH)), str(made), f"inputshape={shape}", "fp16=0"]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise ValueError(f"pnnx ends with {done.returncode}: {done.stderr.strip()[-200:]}")
    with library.Net() as net:
        net.opt.use_vulkan_compute = False
        net.opt.num_threads = 1
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
        if net.load_param(str(folder / "ncnn.ncnn.param")) or net.load_model(str(folder / "ncnn.ncnn.bin")):
            raise ValueError("ncnn does not load the network")
        return [_ncnn_answers(net, image) for image in images]


def _ncnn_answers(net: Any, image: Image) -> list[NDArray[Any]]:
    import ncnn as library

    with net.create_extractor() as extractor:
        extractor.input(net.input_names()[0], library.Mat(np.ascontiguousarray(image[0])))
        found = [extractor.extract(name) for name in net.output_names()]
    if any(code for code, _ in found):
        raise ValueError("ncnn does not run the network")
    return [np.array(mat)[None] for _, mat in found]


def half_floats(path: Path, images: Sequence[Image], folder: Path) -> Answers:
    """onnxconverter-common's half floats, then ONNX Runtime."""
    from onnxconverter_common import float16

    made = folder / "fp16.onnx"
    onnx.save(float16.convert_float_to_float16(onnx.load(path), keep_io_types=True), made)
    return answers(session(made), images)


class _Images:
    """What ONNX Runtime's quantiser reads activations from."""

    def __init__(self, path: Path, images: Sequence[Image]) -> None:
        (given,) = session(path).get_inputs()
        self.feeds: Iterator[dict[str, Image]] = iter([{given.name: image} for image in images])

    def get_next(self) -> dict[str, Image] | None:
        """The next input, or None."""
        return next(self.feeds, None)


def static_int8(form: str) -> Way:
    """ONNX Runtime's static quantiser in the form ``QDQ`` or ``QOperator``, a scale a channel."""

    def way(path: Path, images: Sequence[Image], folder: Path) -> Answers:
        from onnxruntime.quantization import QuantFormat, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        ready, made = folder / "ready.onnx", folder / f"{form}.onnx"
        quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready), str(made), _Images(ready, images), quant_format=QuantFormat[form], per_channel=True
        )
        return answers(session(made), images)

    return way


def dynamic_int8(path: Path, images: Sequence[Image], folder: Path) -> Answers:
    """ONNX Runtime's dynamic quantiser; its convolutions take unsigned weights."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = folder / "dynamic.onnx"
    quantize_dynamic(str(path), str(made), weight_type=QuantType.QUInt8)
    return answers(session(made), images)


UNOPTIMISED = onnxruntime_at(_LEVEL.ORT_DISABLE_ALL)
# By name: the way, the package that must be there, and the error that is never too much.
WAYS: dict[str, tuple[Way, str, float]] = {
    "ONNX Runtime, none": (UNOPTIMISED, "onnxruntime", 1e-4),
    "ONNX Runtime, basic": (onnxruntime_at(_LEVEL.ORT_ENABLE_BASIC), "onnxruntime", 1e-4),
    "ONNX Runtime, extended": (onnxruntime_at(_LEVEL.ORT_ENABLE_EXTENDED), "onnxruntime", 1e-4),
    "ONNX Runtime, all": (onnxruntime_at(_LEVEL.ORT_ENABLE_ALL), "onnxruntime", 1e-4),
    "OpenVINO": (openvino, "openvino", 1e-4),
    "onnxslim": (onnxslim, "onnxslim", 1e-4),
    "onnxsim": (onnxsim, "onnxsim", 1e-4),
    "tract": (tract, "tract", 1e-4),
    "pnnx, ncnn": (ncnn, "ncnn", 1e-4),
    "half floats": (half_floats, "onnxconverter_common", 1e-2),
    "INT8, QDQ": (static_int8("QDQ"), "onnxruntime", 0.05),
    "INT8, QOperator": (static_int8("QOperator"), "onnxruntime", 0.05),
    "INT8, dynamic": (dynamic_int8, "onnxruntime", 0.05),
}


def missing(package: str) -> bool:
    """Whether a package is not installed."""
    return importlib.util.find_spec(package) is None
