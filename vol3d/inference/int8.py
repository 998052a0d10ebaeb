"""A network in 8-bit integers on a CPU, by OpenVINO: faster, and nearly the same answers."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vol3d.errors import ModelError
from vol3d.networks import LogPool
from vol3d.networks.blocks import pad_end
from vol3d.networks.network import Network

INT8_NEEDS = ("openvino", "nncf")
_TELEMETRY, _ABSENT = "openvino_telemetry", object()
_REMEDY = "Predict in float32."


class Int8Network(Network):
    """(N, C, *S) → logits (N, K, *S − margin), float32, of a network whose layers compute in 8-bit integers.

    Weights and maps are rounded to 256 steps, whose ranges are taken from what the network makes of examples (Jacob et
    al. 2018, arXiv 1712.05877; NNCF does it). network: in evaluation mode; it stays as it is. examples: float32
    (N, C, *S). For prediction on a CPU; takes any size that the network takes.
    Raises `ModelError` where OpenVINO or NNCF are not installed, or do not know what the network is made of, and for
    networks that look at all of their input: they are converted at one size.
    """

    def __init__(self, network: Network, examples: Sequence[Tensor]) -> None:
        super().__init__(network.config, network.in_channels, network.classes)
        if not network.local:
            raise ModelError(f"a {network.config.kind} looks at all of its input and is not had in int8. {_REMEDY}")
        self._compiled = _compiled(network, examples)

    @property
    def local(self) -> bool:
        """Whether an answer depends on its surroundings alone."""
        return True

    def maps(self, image: Tensor) -> Tensor:
        """Logits of an image of a size the strides divide."""
        try:
            return torch.from_numpy(self._compiled(image.contiguous().numpy())[0])
        except RuntimeError as error:
            raise ModelError(f"OpenVINO failed: {_first_line(error)}. {_REMEDY}") from error

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8Network:
        """The same: what is compiled does not change."""
        return self


def in_int8(network: nn.Module, examples: Sequence[Tensor]) -> nn.Module:
    """The same network with its own layers in 8-bit integers; what it is pooled with stays as it is.

    examples: what the whole network takes, float32 (N, C, *S). Raises `ModelError` as `Int8Network` does.
    """
    if isinstance(network, LogPool):
        own = [example[:, : network.network.in_channels] for example in examples]
        return LogPool(Int8Network(network.network, own), network.weight).eval()
    if isinstance(network, Network):
        return Int8Network(network, examples).eval()
    raise ModelError(f"int8 is for vol3d's networks, found {type(network).__name__}. {_REMEDY}")


class _Maps(nn.Module):
    """What is converted: the layers without the checks and paddings around them."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Any:  # noqa: ANN401  whatever the layers answer
        return self.network.maps(image)


def _compiled(network: Network, examples: Sequence[Tensor]) -> Any:  # noqa: ANN401  a model of OpenVINO
    openvino, convert_model, nncf = _tools()
    geometry = network.geometry
    least = geometry.padded_size(geometry.input_size([1] * geometry.dimensions))
    traced = torch.zeros((1, network.in_channels, *least))
    given = [pad_end(example, geometry.padded_size(example.shape[2:])).contiguous().numpy() for example in examples]
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    anything = openvino.PartialShape([-1, network.in_channels, *[-1] * geometry.dimensions])
    try:
        with _silent(), torch.no_grad():
            model = convert_model(_Maps(network), example_input=traced, input=[anything])
            model = nncf.quantize(
                model,
                nncf.Dataset(given),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(given),
            )
            return openvino.compile_model(model, "CPU", settings)
    except Exception as error:  # theirs have no common base
        raise ModelError(f"this network cannot be computed in int8: {_first_line(error)}. {_REMEDY}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].removesuffix(".")


def _tools() -> tuple[Any, Any, Any]:
    """OpenVINO, its converter and NNCF; imported so that they report to nobody that they are used."""
    modules: dict[str, Any] = sys.modules
    before = modules.get(_TELEMETRY, _ABSENT)
    modules[_TELEMETRY] = None  # importing it is an ImportError from now on: their own way of being without it
    try:
        with _silent():
            openvino = importlib.import_module("openvino")
            converter = importlib.import_module("openvino.tools.ovc")
            nncf = importlib.import_module("nncf")
    except ImportError as error:
        raise ModelError(f"int8 needs OpenVINO and NNCF ({error}): pip install 'vol3d[cpu]'. {_REMEDY}") from error
    finally:
        if before is _ABSENT:
            del modules[_TELEMETRY]
        else:
            modules[_TELEMETRY] = before
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return openvino, converter.convert_model, nncf


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """No bars and no warnings of libraries about each other."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
