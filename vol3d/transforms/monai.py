"""The MONAI face: one randomizable transform that crops, deforms, rotates and scales in a single resampling."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, Transform
from monai.utils import ensure_tuple
from numpy.typing import NDArray
from torch import Tensor

from vol3d.errors import ConfigError, GeometryError, LabelError
from vol3d.transforms.drawing import draw_voxel
from vol3d.transforms.fields import Size, SpatialAugmentation, linear_part, place
from vol3d.transforms.params import SpatialParams
from vol3d.transforms.patch import output_box
from vol3d.transforms.resample import resample
from vol3d.transforms.warp import can_warp, warp_linear, warp_nearest, warp_pair

Array = NDArray[Any] | Tensor


class SpatialArguments(TypedDict, total=False):
    """The arguments of `SpatialAugmentation`."""

    deformation_voxels: float
    control_spacing_voxels: float
    deformation_probability: float
    rotation_degrees: float
    scale: tuple[float, float]
    flip_probability: float
    probability: float


@dataclass(frozen=True)
class DrawnPatch:
    """One draw: the voxel `anchor_volume` comes to lie at `anchor_patch` of the input patch, moved by `params`."""

    params: SpatialParams
    anchor_patch: Size
    anchor_volume: Size

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back exactly."""
        return {
            "params": self.params.to_json(),
            "anchor_patch": list(self.anchor_patch),
            "anchor_volume": list(self.anchor_volume),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DrawnPatch:
        """The inverse of `to_json`. Raises `ConfigError` on anything else."""
        try:
            (a, b, c), (x, y, z) = value["anchor_patch"], value["anchor_volume"]
            params = SpatialParams.from_json(value["params"])
            return cls(params, (int(a), int(b), int(c)), (int(x), int(y), int(z)))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"expected a drawn patch as to_json writes it, found {str(value)[:200]}") from error


def _require_one_grid(arrays: Sequence[Array]) -> None:
    first = arrays[0]
    for array in arrays:
        if array.ndim != 4 or array.shape[1:] != first.shape[1:]:
            raise GeometryError(
                f"expected arrays (channels, x, y, z) on one grid, found {tuple(first.shape)} and "
                f"{tuple(array.shape)}; add the channel axis with EnsureChannelFirst, resample onto one grid"
            )


class RandSparsePatch(Randomizable, Transform):
    """A random patch around a labeled voxel, rotated, scaled and deformed, resampled once; arrays in, tensors out.

    size: input patch (X, Y, Z). margin: the network's input − output per axis; labels and mask are cut without it.
    The drawn voxel lands anywhere in that output box. unlabeled: label codes that nobody annotated (used without a
    mask; None: every voxel is labeled). balanced: draw the class first, then one of its voxels, else any labeled
    voxel. The rest: as in `SpatialAugmentation`. `drawn` holds the last draw, `params` its spatial part.
    """

    def __init__(
        self,
        size: Size = (132, 132, 116),
        margin: Size = (0, 0, 0),
        *,
        unlabeled: int | Sequence[int] | None = None,
        balanced: bool = True,
        **spatial: Unpack[SpatialArguments],
    ) -> None:
        self.size = size
        self.margin = margin
        self.inner = output_box(size, margin)
        self.unlabeled = () if unlabeled is None else tuple(int(code) for code in ensure_tuple(unlabeled))
        self.balanced = balanced
        self.spatial = SpatialAugmentation(**spatial)
        self.drawn: DrawnPatch | None = None

    @property
    def params(self) -> SpatialParams | None:
        """What the last draw did in space."""
        return None if self.drawn is None else self.drawn.params

    def randomize(self, data: Array, label: Array | None = None, mask: Array | None = None) -> None:
        """Draw for an image `data` (C, X, Y, Z) with a label map and a labeled mask (1, X, Y, Z), from `self.R`.

        Raises `LabelError` where no voxel is labeled.
        """
        _require_one_grid([data, *(array for array in (label, mask) if array is not None)])
        rng = np.random.default_rng(int(self.R.randint(2**32, dtype=np.uint64)))
        shape = tuple(int(n) for n in data.shape[1:])
        voxel = self._labeled_voxel(rng, shape, label, mask)
        start = self.inner.start
        a, b, c = (int(at + rng.integers(n)) for at, n in zip(start, self.inner.size, strict=True))
        params = self.spatial.draw(rng, self.size, spacing_of(data))
        self.drawn = DrawnPatch(params, (a, b, c), voxel)

    def __call__(
        self, image: Array, label: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Draw, then cut image (linear), label and mask (nearest, output box only); (C, X, Y, Z) each, None stays."""
        self.randomize(image, label, mask)
        if self.drawn is None:
            raise AssertionError
        return self.replay(self.drawn, image, label, mask)

    def replay(
        self, drawn: DrawnPatch, image: Array, label: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The same cut again, from what was drawn."""
        given = [array for array in (label, mask) if array is not None]
        (patch,), rest = self.cut(drawn, [image], given)
        answers = iter(rest)
        return patch, None if label is None else next(answers), None if mask is None else next(answers)

    def cut(
        self, drawn: DrawnPatch, images: Sequence[Array], labels: Sequence[Array]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Cut images (linear) and label maps (nearest, output box only) by one grid.

        MetaTensors stay MetaTensors; their affine becomes that of the patch: anchor, rotation, scaling and flips. The
        deformation is no part of it: no affine can hold one.
        """
        arrays = [*images, *labels]
        first = arrays[0]
        _require_one_grid(arrays)
        spacing = spacing_of(first)
        placement = place(drawn.params, self.size, spacing, drawn.anchor_patch, drawn.anchor_volume)
        step = np.eye(4)
        step[:3, :3] = linear_part(drawn.params, spacing)
        step[:3, 3] = np.subtract(drawn.anchor_volume, step[:3, :3] @ drawn.anchor_patch)
        inner = step.copy()
        inner[:3, 3] += step[:3, :3] @ self.inner.start
        if can_warp(*arrays):
            pairs = [warp_pair(*pair, placement, self.inner) for pair in zip(images, labels, strict=False)]
            patches = [patch for patch, _ in pairs] + [warp_linear(image, placement) for image in images[len(pairs) :]]
            answers = [answer for _, answer in pairs]
            answers += [warp_nearest(label, placement, self.inner) for label in labels[len(pairs) :]]
        else:
            grid = placement.grid(first.device if isinstance(first, Tensor) else None)
            patches = [resample(image, grid, "linear") for image in images]
            answers = [resample(label, grid[(slice(None), *self.inner.slices())], "nearest") for label in labels]
        return (
            [_dressed(patch, like, step) for patch, like in zip(patches, images, strict=True)],
            [_dressed(patch, like, inner) for patch, like in zip(answers, labels, strict=True)],
        )

    def _labeled_voxel(
        self, rng: np.random.Generator, shape: tuple[int, ...], label: Array | None, mask: Array | None
    ) -> Size:
        if mask is None and (label is None or not (self.balanced or self.unlabeled)):
            x, y, z = (int(rng.integers(n)) for n in shape)
            return (x, y, z)
        source = "mask" if mask is not None else f"label map; unlabeled codes are {self.unlabeled}"
        known = np.empty(0, dtype=bool) if mask is None else _flat(mask) > 0
        codes = known.view(np.uint8) if label is None else _flat(label)
        unlabeled = self.unlabeled if mask is None else ()
        flat = draw_voxel(rng, codes, known, unlabeled, balanced=self.balanced)
        if flat is None:
            raise LabelError(f"expected a labeled voxel to draw, found none in the {source}")
        row, z = divmod(flat, shape[2])
        x, y = divmod(row, shape[1])
        return (x, y, z)


class RandSparsePatchd(MapTransform, Randomizable):
    """`RandSparsePatch` for dictionaries: composes with MONAI's transforms and obeys `set_random_state`.

    keys: images (linear). label_keys: label maps (nearest, output box only); classes are drawn from the first.
    mask_key: where it is > 0 a voxel is labeled; cut like a label map. All are (C, X, Y, Z) on one grid; spacing is
    taken from the MetaTensor's affine, 1 for plain arrays. The rest: as in `RandSparsePatch`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_keys: KeysCollection = (),
        mask_key: Hashable | None = None,
        size: Size = (132, 132, 116),
        margin: Size = (0, 0, 0),
        *,
        unlabeled: int | Sequence[int] | None = None,
        balanced: bool = True,
        allow_missing_keys: bool = False,
        **spatial: Unpack[SpatialArguments],
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_keys: tuple[Hashable, ...] = ensure_tuple(label_keys)
        self.mask_key = mask_key
        self.patch = RandSparsePatch(size, margin, unlabeled=unlabeled, balanced=balanced, **spatial)

    @property
    def drawn(self) -> DrawnPatch | None:
        """The last draw, for `replay`."""
        return self.patch.drawn

    @property
    def params(self) -> SpatialParams | None:
        """What the last draw did in space."""
        return self.patch.params

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandSparsePatchd:
        """Seed the draws, as MONAI does."""
        self.patch.set_random_state(seed, state)
        return self

    def randomize(self, data: Mapping[Hashable, Any]) -> None:
        """Draw for a dictionary of arrays. Raises `LabelError` where no voxel is labeled."""
        images, labels = self._present(data)
        label = next((data[key] for key in labels if key != self.mask_key), None)
        self.patch.randomize(
            data[(images + labels)[0]], label, None if self.mask_key is None else data.get(self.mask_key)
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw, then cut every key; other entries pass through."""
        self.randomize(data)
        if self.patch.drawn is None:
            raise AssertionError
        return self.replay(data, self.patch.drawn)

    def replay(self, data: Mapping[Hashable, Any], drawn: DrawnPatch) -> dict[Hashable, Any]:
        """The same cut again, from what was drawn."""
        images, labels = self._present(data)
        cut_images, cut_labels = self.patch.cut(drawn, [data[k] for k in images], [data[k] for k in labels])
        return {**data, **dict(zip(images, cut_images, strict=True)), **dict(zip(labels, cut_labels, strict=True))}

    def _present(self, data: Mapping[Hashable, Any]) -> tuple[list[Hashable], list[Hashable]]:
        """The image keys and the label and mask keys of `data`, each once."""
        nearest = [*self.label_keys, *([] if self.mask_key is None else [self.mask_key])]
        wanted = list(dict.fromkeys([*self.keys, *nearest]))
        missing = [key for key in wanted if key not in data]
        if missing and not self.allow_missing_keys:
            raise ConfigError(f"expected the key {missing[0]!r}, found {', '.join(map(repr, data))}")
        found = [key for key in wanted if key in data]
        if not found:
            raise ConfigError(f"expected one of the keys {wanted}, found none of them")
        return [key for key in found if key not in nearest], [key for key in found if key in nearest]


def spacing_of(array: Array) -> tuple[float, float, float]:
    """Mm per voxel along X, Y, Z of a MetaTensor; 1 for other arrays."""
    if not isinstance(array, MetaTensor):
        return (1.0, 1.0, 1.0)
    x, y, z = np.linalg.norm(np.asarray(array.affine.cpu(), dtype=np.float64)[:3, :3], axis=0)
    return (float(x), float(y), float(z))


def _dressed(patch: Tensor, like: Array, step: NDArray[np.float64]) -> Tensor:
    """A patch with the meta data of what it was cut from, and the affine that it has."""
    if not isinstance(like, MetaTensor):
        return patch
    result = MetaTensor(patch).copy_meta_from(like)
    result.affine = like.affine @ torch.from_numpy(step).to(like.affine)
    return result


def _flat(array: Array) -> NDArray[Any]:
    """The first channel in C order, 1-D, as NumPy has it."""
    if isinstance(array, Tensor):
        return array.as_subclass(Tensor)[0].detach().cpu().contiguous().view(-1).numpy()
    return np.ascontiguousarray(array[0], dtype=array.dtype.newbyteorder("=")).reshape(-1)
