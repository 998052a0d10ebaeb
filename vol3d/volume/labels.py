"""Label codes and what they mean: the table of classes, and labels that cover only part of a volume."""

from __future__ import annotations

import colorsys
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import LabelError
from vol3d.volume.affine import Affine
from vol3d.volume.codes import replaced, value_counts

_BACKGROUND = "background"
_GREY = (64, 64, 64)
_LARGEST_CODE = 2**32 - 1


def is_background(name: str) -> bool:
    """Whether a class of this name is background, in small letters or not."""
    return name.strip().casefold() == _BACKGROUND


@dataclass(frozen=True)
class LabelClass:
    """One class: its code in label files, its name, its colour (red, green, blue, 0–255)."""

    code: int
    name: str
    color: tuple[int, int, int]


def default_color(index: int) -> tuple[int, int, int]:
    """A colour for class `index`, well apart from its neighbours (golden-angle hues)."""
    red, green, blue = colorsys.hsv_to_rgb((index * 0.618033988749895 + 0.33) % 1, 0.75, 1.0)
    return (round(255 * red), round(255 * green), round(255 * blue))


@dataclass(frozen=True)
class LabelTable:
    """The classes of a task in the order of the network's outputs, and the codes that mean *unlabeled*."""

    classes: tuple[LabelClass, ...]
    unlabeled: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        codes = [c.code for c in self.classes]
        if len(codes) < 1 or len(set(codes)) != len(codes) or min(codes) < 0 or max(codes) > _LARGEST_CODE:
            raise LabelError(f"expected distinct class codes from 0 to {_LARGEST_CODE}, found {codes}")
        both = sorted(set(codes) & set(self.unlabeled))
        if both:
            raise LabelError(f"code {both[0]} is given both as a class and as unlabeled; choose one")

    @classmethod
    def from_codes(
        cls, codes: list[int], unlabeled: tuple[int, ...] = (), names: dict[int, str] | None = None
    ) -> LabelTable:
        """A table of `codes` in ascending order with default colours. names: code → class name.

        Without a name, code 0 is `background`, unless another is. Background is dark grey. Where several have one name,
        their codes tell them apart.
        """
        known = dict(names or {})
        if not any(is_background(known.get(code, "")) for code in codes):
            known.setdefault(0, _BACKGROUND)
        given = [(code, known.get(code, f"class {code}")) for code in sorted(codes)]
        often = Counter(name for _, name in given)
        named = [(code, f"{name} ({code})" if often[name] > 1 else name) for code, name in given]
        return cls(
            tuple(
                LabelClass(code, name, _GREY if is_background(name) else default_color(i))
                for i, (code, name) in enumerate(named)
            ),
            unlabeled,
        )

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def codes(self) -> NDArray[np.int64]:
        """Code of every class index; int64 (K,)."""
        return np.array([c.code for c in self.classes], dtype=np.int64)

    @property
    def background(self) -> int | None:
        """Index of the class that is called background; None where none is."""
        return next((index for index, one in enumerate(self.classes) if is_background(one.name)), None)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every class index."""
        return tuple(c.name for c in self.classes)

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """The smallest unsigned dtype that holds every class code."""
        return np.min_scalar_type(int(self.codes.max()))

    def decode(self, indices: NDArray[Any]) -> NDArray[Any]:
        """Class indices 0…K−1 → codes, in `code_dtype`; any shape."""
        return self.codes.astype(self.code_dtype)[indices]

    def encode(self, codes: NDArray[Any], name: str = "labels") -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Codes → (class indices, labeled mask), same shape; unlabeled voxels get index 0 and False.

        Indices are uint8, or uint16 for more than 256 classes. Raises `LabelError` on a code in neither list.
        """
        present, _ = value_counts(codes)
        known = {int(code): index for index, code in enumerate(self.codes)}
        strange = [int(code) for code in present if int(code) not in known and int(code) not in self.unlabeled]
        if strange:
            raise LabelError(
                f"{name} holds code {strange[0]}, which is neither a class ({_some(list(known))}) nor unlabeled "
                f"({_some(list(self.unlabeled))}). Add it to the classes or declare it unlabeled."
            )
        dtype = np.uint8 if len(self.classes) <= 256 else np.uint16
        lookup = np.array([known.get(int(code), 0) for code in present], dtype=dtype)
        labeled = np.array([int(code) in known and int(code) not in self.unlabeled for code in present], dtype=bool)
        return replaced(codes, present, lookup), replaced(codes, present, labeled)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        return {
            "classes": [{"code": c.code, "name": c.name, "color": list(c.color)} for c in self.classes],
            "unlabeled": list(self.unlabeled),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LabelTable:
        """The inverse of `to_json`. Raises `LabelError` on anything else."""
        try:
            classes = tuple(
                LabelClass(
                    int(c["code"]),
                    str(c["name"]),
                    (int(c["color"][0]), int(c["color"][1]), int(c["color"][2])),
                )
                for c in value["classes"]
            )
            return cls(classes, tuple(int(code) for code in value.get("unlabeled", ())))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise LabelError(f"expected a table of label classes, found {str(value)[:200]}") from error


@dataclass(frozen=True, eq=False)
class SparseLabels:
    """Labels known for some voxels only.

    classes: class indices 0…K−1, unsigned (X, Y, Z). labeled: bool (X, Y, Z), True where somebody annotated.
    What `classes` holds where `labeled` is False means nothing and must change nothing.
    weight: float32 (X, Y, Z) ≥ 0 or None, a confidence per voxel that multiplies the loss.
    partial: unsigned (X, Y, Z) or None: K + s where a voxel is only known to be of one of the classes of set s, 0
    elsewhere. Such a voxel is not labeled: it trains, but is no ground truth.
    """

    classes: NDArray[Any]
    labeled: NDArray[np.bool_]
    affine: Affine
    name: str = "labels"
    weight: NDArray[np.float32] | None = None
    partial: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if self.classes.ndim != 3 or self.classes.shape != self.labeled.shape:
            raise LabelError(
                f"{self.name}: expected classes and mask of one shape (x, y, z), found {self.classes.shape} "
                f"and {self.labeled.shape}"
            )
        if self.partial is not None and self.partial.shape != self.labeled.shape:
            raise LabelError(f"{self.name}: expected sets of shape {self.labeled.shape}, found {self.partial.shape}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Grid size (X, Y, Z)."""
        x, y, z = self.classes.shape
        return (x, y, z)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Where somebody said anything: labeled, or of one of several classes; bool (X, Y, Z)."""
        return self.labeled if self.partial is None else self.labeled | (self.partial > 0)

    @property
    def indices(self) -> NDArray[Any]:
        """Class index where labeled, K + s where known to be of set s, anything elsewhere; unsigned (X, Y, Z)."""
        return self.classes if self.partial is None else np.where(self.labeled, self.classes, self.partial)

    def within(self, mask: NDArray[np.bool_]) -> SparseLabels:
        """The same where `mask` (X, Y, Z) is True, nothing known elsewhere."""
        partial = None if self.partial is None else np.where(mask, self.partial, 0).astype(self.partial.dtype)
        return replace(self, labeled=self.labeled & mask, partial=partial)

    def counts(self, classes: int) -> NDArray[np.int64]:
        """Labeled voxels of every class index; int64 (classes,)."""
        return np.bincount(self.classes[self.labeled].ravel(), minlength=classes).astype(np.int64)


def _some(codes: list[int]) -> str:
    if not codes:
        return "none"
    return ", ".join(map(str, sorted(codes)[:8])) + (", …" if len(codes) > 8 else "")
