"""A quicker precision than float32, used where it gives the same labels on parts of the very scan."""

from __future__ import annotations

import importlib.util
import itertools
import time
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vol3d.bundle import ModelBundle
from vol3d.errors import ConfigError
from vol3d.inference import Tile, TilePlan
from vol3d.inference.blend import most_probable
from vol3d.inference.forward import Image, Runner
from vol3d.inference.int8 import INT8_NEEDS, in_int8
from vol3d.volume import Box
from vol3d.workflows.device import Device, PredictPrecision, require_bf16
from vol3d.workflows.listener import Listener
from vol3d.workflows.outputs import PredictOptions

LEAST_AGREEMENT, LEAST_DICE = 0.999, 0.99
_SIDE, _PLANES = 64, 4  # voxels of a tile's answer along an axis; planes of a tile that a 2-D network sees


@dataclass(frozen=True, eq=False)
class Trial:
    """How a precision did against float32 on parts of a scan.

    wanted: the precision. counts: (K, K), voxels by class in float32 and in that precision. names: of the classes.
    speed: how many times as fast it was.
    """

    wanted: PredictPrecision
    counts: NDArray[np.int64]
    names: tuple[str, ...]
    speed: float

    @property
    def agreement(self) -> float:
        """Share of voxels with the same label."""
        return float(self.counts.trace() / self.counts.sum())

    @property
    def objection(self) -> str | None:
        """Why float32 is used all the same; None where the precision is used."""
        if self.agreement < LEAST_AGREEMENT:
            return f"fewer than {100 * LEAST_AGREEMENT:g} %"
        for k, name in enumerate(self.names):
            exact, found = int(self.counts[k].sum()), int(self.counts[:, k].sum())
            if not exact:
                return f"class {name} was not among them"
            dice = 2 * int(self.counts[k, k]) / (exact + found)
            if dice < LEAST_DICE:
                return f"class {name} has a Dice of {dice:.3f}, less than {LEAST_DICE:g}"
        return None

    @property
    def said(self) -> str:
        """For people."""
        told = (
            f"{self.wanted}: {100 * self.agreement:.3f} % of the labels in parts of this scan are those of float32, "
            f"{self.speed:.1f} × as fast"
        )
        return told if self.objection is None else f"{told}; {self.objection}: predicting in float32"


def require_precision(bundle: ModelBundle, choice: PredictOptions, device: Device) -> None:
    """Raise `ConfigError` where a precision is none, or cannot be had here, or not for what is asked for."""
    wanted, known = choice.precision, typing.get_args(PredictPrecision)
    if wanted not in known:
        raise ConfigError(f"expected precision {', '.join(known)}, found {wanted!r}")
    if wanted == "float32":
        return
    asked = {
        "--uncertainty": choice.uncertainty,
        "--probabilities": choice.probabilities,
        f"task {bundle.task.kind}": bundle.task.kind != "semantic",
    }
    for what, is_asked in asked.items():
        if is_asked:
            raise ConfigError(f"{what} goes with float32 alone, since only labels are compared; leave --precision out")
    if wanted == "bf16" and not device.is_gpu:
        require_bf16()
    if wanted == "int8" and device.is_gpu:
        raise ConfigError("precision int8 is for CPUs; leave --precision out, or take bf16")
    if wanted == "int8" and not all(importlib.util.find_spec(name) for name in INT8_NEEDS):
        raise ConfigError("int8 needs OpenVINO and NNCF. Install them (pip install 'vol3d[cpu]') or leave it out.")


def tried(
    network: Any,  # noqa: ANN401  any module that states its margin, stride and input sizes
    image: Image,
    plans: Sequence[TilePlan],
    wanted: PredictPrecision,
    device: Device,
    names: tuple[str, ...],
) -> tuple[Any, str, Trial | None]:
    """The network and the precision to predict with: those that are wanted, if they prove themselves on this image.

    Eight tiles lie in the eight octants of the volume. Of four of them the ranges for int8 are taken; on all of them
    the labels are compared with those of float32, both as prediction computes them. Float32 is used where fewer than
    `LEAST_AGREEMENT` of them are the same, a class has a Dice below `LEAST_DICE`, or a class does not occur, so that
    nothing is known about it. image, plans: as `predict_axes` takes them. names: of the classes. Raises `ModelError`
    where a network cannot be had in int8.
    """
    if wanted == "float32":
        return network, device.precision, None
    given, kind = network, torch.device(device.name)
    exact = Runner(network, image, plans[0], kind, device.precision)
    if wanted == "int8":
        examples = [exact.read(tile.input, plan.seen) for plan in plans for tile in _tiles(network, plan)[:4]]
        network, precision = in_int8(network, examples), device.precision
    else:
        precision = "bf16"
    quicker = Runner(network, image, plans[0], kind, precision)
    counts, seconds = np.zeros((len(names), len(names)), np.int64), [0.0, 0.0]
    for plan in plans:
        for tile in _tiles(network, plan):
            before, after = (_labels(one, tile, plan, seconds, n) for n, one in enumerate((exact, quicker)))
            counts += np.bincount(before * len(names) + after, minlength=len(names) ** 2).reshape(counts.shape)
    trial = Trial(wanted, counts, names, seconds[0] / seconds[1])
    return (network, precision, trial) if trial.objection is None else (given, device.precision, trial)


def tell_trial(trial: Trial | None, name: str, tell: Listener) -> None:
    """Say how a precision did, where one was tried. name: of the scan."""
    if trial is not None:
        tell.note(f"{name}: {trial.said}")


def _labels(runner: Runner, tile: Tile, plan: TilePlan, seconds: list[float], number: int) -> NDArray[np.int64]:
    """The classes of a tile's voxels; what they take is added to `seconds[number]`."""
    begin = time.perf_counter()
    answer = next(runner.answers([tile], plan, logits=True)).wait()
    seconds[number] += time.perf_counter() - begin
    found: NDArray[np.int64] = most_probable(answer).numpy().ravel()
    return found


def _tiles(network: Any, plan: TilePlan) -> list[Tile]:  # noqa: ANN401  as above
    """A tile around the middle of every octant; four that share no face, then the other four."""
    size = [min(n, _PLANES) for n in plan.shape]
    for axis, n in zip(plan.seen, network.input_size([min(plan.shape[a], _SIDE) for a in plan.seen]), strict=True):
        size[axis] = n if getattr(network, "local", False) else plan.size[axis]
    tiles = []
    for octant in sorted(itertools.product((0, 1), repeat=3), key=lambda one: sum(one) % 2):
        middle = [(1 + 2 * half) * n // 4 for half, n in zip(octant, plan.shape, strict=True)]
        x, y, z = (m - n // 2 for m, n in zip(middle, size, strict=True))
        box = Box((x, y, z), (size[0], size[1], size[2]))
        tiles.append(Tile(box, box.grow(tuple(-margin // 2 for margin in plan.margin))))
    return tiles
