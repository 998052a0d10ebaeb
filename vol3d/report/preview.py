"""A picture of a volume for a person: three planes, one row per layer, true proportions, a legend of the classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import GeometryError, LabelError
from vol3d.report import figure as paper
from vol3d.report import marks
from vol3d.report.layout import Layout, lay_out
from vol3d.report.overlay import paint_classes, to_gray, zoom
from vol3d.report.planes import Plane, Voxel, interesting_voxel, planes_through
from vol3d.volume import Affine, LabelTable, is_background

_WINDOW = (0.5, 99.7)  # percentiles shown as black and white
_LOOK_AT = 2_000_000  # voxels that the window is taken from


@dataclass(frozen=True, eq=False)
class Layer:
    """One row of a preview.

    classes: class indices 0…K−1, integers (X, Y, Z), or None for the bare image. labeled: bool (X, Y, Z), None where
    every voxel is; unlabeled voxels are shown faded. Without a mask a negative index marks an unlabeled voxel.
    """

    title: str
    classes: NDArray[Any] | None = None
    labeled: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class _Scene:
    """All that a row needs to be drawn. channels: (C, X, Y, Z). windows: (low, high) of every channel."""

    channels: NDArray[Any]
    windows: list[tuple[float, float]]
    affine: Affine
    planes: list[Plane]
    colors: NDArray[np.uint8]
    filled: NDArray[np.bool_]


def preview_png(
    path: str | os.PathLike[str],
    image: NDArray[Any],
    affine: Affine,
    layers: Sequence[Layer | tuple[str, NDArray[Any] | None]],
    table: LabelTable,
    *,
    through: Voxel | None = None,
    title: str = "",
) -> Path:
    """Write a preview: a row per layer; axial, coronal and sagittal plane through one voxel. Returns the path.

    image: (X, Y, Z) or (C, X, Y, Z), any real dtype; two or three channels are shown as colours under a layer without
    classes, else their mean is. layers: what to draw over it; (title, classes) pairs will do, at least one. table:
    names and colours of the class indices; a class named "background" leaves the image as it is. through: voxel
    (x, y, z) of the stored grid; None takes the planes with most to see in the first fully labeled layer, and where a
    sparse layer stands beside it none that were painted: a model is looked at where it had to find out by itself.
    Planes are turned to closest RAS and keep their physical proportions; titles name the stored axis and plane.
    Raises `GeometryError` where image and layers differ in shape, `LabelError` for an index without a class.
    """
    channels = image if image.ndim == 4 else image[None]
    given = [_with_mask(layer if isinstance(layer, Layer) else Layer(*layer)) for layer in layers]
    _check_shapes(channels, given, path)
    shape = (channels.shape[1], channels.shape[2], channels.shape[3])
    voxel = through if through is not None else _choose_voxel(given, shape)
    planes = planes_through(voxel, shape, affine)
    shown, unlabeled = _classes_shown(given, planes, affine, table)
    legend = marks.legend_of(table, shown, unlabeled)
    layout = lay_out(planes, len(given), bool(title), 0)
    lines = marks.legend_lines(legend, layout)
    layout = lay_out(planes, len(given), bool(title), len(lines))
    scene = _Scene(
        channels,
        [_window(channel) for channel in channels],
        affine,
        planes,
        np.array([c.color for c in table.classes], dtype=np.uint8),
        np.array([not is_background(c.name) for c in table.classes]),
    )
    drawing = paper.new_figure(layout.width, layout.height)
    marks.page_title(drawing, layout, title)
    for row, layer in enumerate(given):
        marks.row_title(drawing, layout, row, layer.title)
        for column, plane in enumerate(planes):
            axes = drawing.add_axes(layout.box(row, column))
            axes.set_axis_off()
            picture = _picture(scene, layer, plane, layout, column)
            axes.imshow(picture, aspect="auto", interpolation="antialiased")
            marks.letters(axes, plane)
            if row == 0:
                marks.picture_title(axes, plane, shape[plane.axis], layout.places[column])
            if row == 0 and column == 0 and not layout.places[column].note:
                marks.scale_bar(axes, plane)
    marks.draw_legend(drawing, layout, lines)
    return paper.save_png(drawing, path)


def _with_mask(layer: Layer) -> Layer:
    """Negative indices turned into a mask."""
    classes = layer.classes
    if classes is None or layer.labeled is not None or classes.dtype.kind != "i" or not (classes < 0).any():
        return layer
    return Layer(layer.title, classes, classes >= 0)


def _check_shapes(channels: NDArray[Any], layers: list[Layer], path: str | os.PathLike[str]) -> None:
    if channels.ndim != 4 or 0 in channels.shape:
        raise GeometryError(f"{path}: expected an image (x, y, z) or (channels, x, y, z), found {channels.shape}")
    if not layers:
        raise GeometryError(f"{path}: expected at least one layer to show, found none")
    for layer in layers:
        for array in (layer.classes, layer.labeled):
            if array is not None and array.shape != channels.shape[1:]:
                raise GeometryError(
                    f"{path}: layer '{layer.title}' has shape {array.shape}, the image {channels.shape[1:]}; "
                    f"both must lie on one grid"
                )


def _choose_voxel(layers: list[Layer], shape: Voxel) -> Voxel:
    """Where the first fully labeled layer has most to see, away from painted planes; else the first with classes."""
    sparse = [layer for layer in layers if layer.classes is not None and layer.labeled is not None]
    painted = sparse[0].labeled if sparse else None
    for layer in layers:
        if layer.classes is not None and layer.labeled is None:
            return interesting_voxel(layer.classes, avoid=painted)
    if sparse and sparse[0].classes is not None:
        return interesting_voxel(sparse[0].classes, sparse[0].labeled)
    return (shape[0] // 2, shape[1] // 2, shape[2] // 2)


def _classes_shown(
    layers: list[Layer], planes: list[Plane], affine: Affine, table: LabelTable
) -> tuple[list[int], bool]:
    """Class indices that occur in any of the planes, and whether any voxel there is unlabeled."""
    shown: set[int] = set()
    unlabeled = False
    for layer in layers:
        for plane in planes:
            if layer.classes is None:
                continue
            values = plane.cut(layer.classes, affine)
            if layer.labeled is not None:
                known = plane.cut(layer.labeled, affine)
                values, unlabeled = values[known], unlabeled or not known.all()
            shown.update(int(index) for index in np.unique(values))
    if shown and (max(shown) >= len(table) or min(shown) < 0):
        raise LabelError(
            f"expected class indices 0 to {len(table) - 1}, found {max(shown)}; turn codes into indices "
            f"with the table's encode"
        )
    return sorted(shown), unlabeled


def _window(channel: NDArray[Any]) -> tuple[float, float]:
    """Intensities shown as black and white, from an even sample of the voxels."""
    stride = max(1, round((channel.size / _LOOK_AT) ** (1 / 3)))
    sample = np.asarray(channel[::stride, ::stride, ::stride], dtype=np.float32)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return (0.0, 1.0)
    low, high = np.percentile(sample, _WINDOW)
    if high <= low:
        low, high = sample.min(), sample.max()
    return (float(low), float(high))


def _picture(scene: _Scene, layer: Layer, plane: Plane, layout: Layout, column: int) -> NDArray[Any]:
    """One plane of one layer as colours; uint8 or float32 (rows, columns, 3), fine enough for crisp outlines."""
    width = layout.places[column].width * paper.DPI
    height = layout.places[column].height * paper.DPI
    raw = plane.cut(scene.channels, scene.affine)
    coarse = (
        slice(None, None, max(1, int(raw.shape[-2] // height))),
        slice(None, None, max(1, int(raw.shape[-1] // width))),
    )
    grays = [to_gray(c[coarse], *window) for c, window in zip(raw, scene.windows, strict=True)]
    if layer.classes is None and 2 <= len(grays) <= 3:
        grays += [np.zeros_like(grays[0])] * (3 - len(grays))
        rgb = np.stack(grays, axis=-1)
    else:
        rgb = np.stack([np.asarray(grays).mean(axis=0)] * 3, axis=-1)
    down = max(1, min(12, round(height / rgb.shape[0])))
    over = max(1, min(12, round(width / rgb.shape[1])))
    picture = zoom(rgb, down, over)
    if layer.classes is None:
        return picture
    classes = zoom(plane.cut(layer.classes, scene.affine)[coarse], down, over)
    labeled = None if layer.labeled is None else zoom(plane.cut(layer.labeled, scene.affine)[coarse], down, over)
    return paint_classes(picture, classes, labeled, scene.colors, scene.filled, line=2 if min(down, over) >= 3 else 1)
