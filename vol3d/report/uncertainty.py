"""A picture of an uncertainty map: heat over three planes through the region that is most uncertain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import GeometryError
from vol3d.report import figure as paper
from vol3d.report import marks
from vol3d.report.layout import lay_out
from vol3d.report.overlay import to_gray
from vol3d.report.planes import Voxel, planes_through
from vol3d.volume import Affine

_HEAT = np.array([[38, 84, 170], [55, 166, 190], [134, 201, 94], [250, 208, 66], [240, 120, 45], [206, 30, 44]]) / 255
_SHOWN = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the legend
_COVER, _FULL = 0.75, 0.4  # how much of the image heat covers, and from which value on
_WINDOW = (0.5, 99.7)  # percentiles of intensities shown as black and white
_HIGHEST = 99.8  # percentile of a map that its colours have to hold
_STRETCHES = (100, 50, 20, 10, 5, 2)
_LOOK_AT = 2_000_000  # voxels that percentiles are taken from
_REGION = 8  # voxels along every axis of what counts as a region


def uncertainty_png(
    path: str | os.PathLike[str],
    image: NDArray[Any],
    affine: Affine,
    maps: NDArray[np.float32],
    names: Sequence[str],
    *,
    through: Voxel | None = None,
    title: str = "",
) -> Path:
    """Write the image, and under it every map as heat over it. Returns the path.

    image: (X, Y, Z) or (C, X, Y, Z), of which the mean is shown. maps: (M, X, Y, Z), 0 … 1, on its grid; names: of the
    maps. A map of small values is shown stretched, its title says how far. through: the voxel whose planes are shown;
    None: the middle of the region, 8 voxels along every axis, where the first map is highest in the mean.
    Raises `GeometryError` where image and maps differ in shape.
    """
    channels = image if image.ndim == 4 else image[None]
    if channels.ndim != 4 or maps.ndim != 4 or channels.shape[1:] != maps.shape[1:] or len(names) != len(maps):
        raise GeometryError(
            f"{path}: expected an image and {len(names)} maps on one grid, found {image.shape} and {maps.shape}"
        )
    shape = (maps.shape[1], maps.shape[2], maps.shape[3])
    planes = planes_through(through if through is not None else most_uncertain(maps[0]), shape, affine)
    layout = lay_out(planes, 1 + len(maps), bool(title), 0)
    lines = marks.legend_lines([marks.Entry(f"{value:g}", _color(value)) for value in _SHOWN], layout)
    layout = lay_out(planes, 1 + len(maps), bool(title), len(lines))
    windows = [_window(channel) for channel in channels]
    stretches = [_stretch(values) for values in maps]
    drawing = paper.new_figure(layout.width, layout.height)
    marks.page_title(drawing, layout, title)
    said = [name if times == 1 else f"{name} × {times}" for name, times in zip(names, stretches, strict=True)]
    for row, name in enumerate(["scan", *said]):
        marks.row_title(drawing, layout, row, name)
    for column, plane in enumerate(planes):
        grays = [to_gray(c, *w) for c, w in zip(plane.cut(channels, affine), windows, strict=True)]
        gray = np.stack([np.mean(grays, axis=0)] * 3, axis=-1)
        heats = [times * values for times, values in zip(stretches, plane.cut(maps, affine), strict=True)]
        for row, picture in enumerate([gray, *(_painted(gray, heat) for heat in heats)]):
            axes = drawing.add_axes(layout.box(row, column))
            axes.set_axis_off()
            axes.imshow(picture, aspect="auto", interpolation="antialiased")
            marks.letters(axes, plane)
            if row == 0:
                marks.picture_title(axes, plane, shape[plane.axis], layout.places[column])
            if row == 0 and column == 0 and not layout.places[column].note:
                marks.scale_bar(axes, plane)
    marks.draw_legend(drawing, layout, lines)
    return paper.save_png(drawing, path)


def most_uncertain(values: NDArray[Any]) -> Voxel:
    """The middle of the region, 8 voxels along every axis, where `values` (X, Y, Z) are highest in the mean."""
    sums = values.astype(np.float64)
    sizes = np.ones((1, 1, 1))
    for axis, length in enumerate(values.shape):
        starts = np.arange(0, length, _REGION)
        sums = np.add.reduceat(sums, starts, axis=axis)
        lengths = np.minimum(starts + _REGION, length) - starts
        sizes = sizes * lengths.reshape([-1 if a == axis else 1 for a in range(3)])
    block = np.unravel_index(int((sums / sizes).argmax()), sums.shape)
    x, y, z = (min(int(b) * _REGION + _REGION // 2, n - 1) for b, n in zip(block, values.shape, strict=True))
    return (x, y, z)


def _painted(gray: NDArray[Any], heat: NDArray[Any]) -> NDArray[Any]:
    """Heat (rows, columns) over gray (rows, columns, 3), all 0 … 1: the fainter, the more of the image is seen."""
    cover = _COVER * np.clip(heat / _FULL, 0, 1)[..., None]
    painted: NDArray[Any] = (1 - cover) * gray + cover * _colors(np.clip(heat, 0, 1))
    return painted


def _colors(values: NDArray[Any]) -> NDArray[Any]:
    """Values 0 … 1 → red, green, blue, 0 … 1, along a new last axis."""
    steps = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(values, steps, part) for part in _HEAT.T], axis=-1)


def _color(value: float) -> tuple[float, ...]:
    return tuple(_colors(np.array(value)).tolist())


def _stretch(values: NDArray[Any]) -> int:
    """The largest round factor at which the map still fits its colours; 1 for a map of nothing."""
    high = np.percentile(_sample(values), _HIGHEST)
    return next((times for times in _STRETCHES if 0 < times * high <= 1), 1)


def _window(channel: NDArray[Any]) -> tuple[float, float]:
    sample = _sample(channel).astype(np.float32)
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, _WINDOW) if sample.size else (0.0, 1.0)
    return (float(low), float(high))


def _sample(values: NDArray[Any]) -> NDArray[Any]:
    """Evenly spaced voxels."""
    stride = max(1, round((values.size / _LOOK_AT) ** (1 / 3)))
    return values[::stride, ::stride, ::stride]
