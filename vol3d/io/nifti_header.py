"""The header of a NIfTI file: what it promises, and which of its geometries holds."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import FileFormatError, GeometryError
from vol3d.io import class_names
from vol3d.io.kinds import Xform
from vol3d.io.stream import ByteStream
from vol3d.volume import Affine, StoredForms

MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
COMMENT = 6  # the extension code for plain text, which holds our JSON
_SIZES = {348: 1, 540: 2}
_LARGEST_OFFSET = 64 << 20
_AGREE_VOXELS = 0.1
_RGB = {128: 3, 2304: 4}
_SCALARS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """shape: (X, Y, Z). interleaved: channels follow each other voxel by voxel (RGB), not volume by volume.

    dtype: of one sample, in the file's byte order. offset: first byte of the voxels. base: the affine that the
    voxel sizes alone give. attributes: names and other facts kept with the file.
    """

    name: str
    shape: tuple[int, int, int]
    channels: int
    interleaved: bool
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    forms: StoredForms
    broken_qform: bool
    base: NDArray[np.float64]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def voxels(self) -> int:
        """Voxels of one channel."""
        x, y, z = self.shape
        return x * y * z

    @property
    def scaled(self) -> bool:
        """Whether stored numbers must be multiplied or shifted."""
        return self.slope != 1 or self.inter != 0

    def affine(self, xform: Xform | None) -> tuple[Affine, str]:
        """The affine in RAS mm and where it came from: sform, qform or pixdim.

        The sform wins over the qform. Where both are set and differ by more than 0.1 voxel at a corner, `xform`
        must say which one to trust. Raises `GeometryError`.
        """
        forms = self.forms
        if forms.sform_code > 0 and (forms.qform_code > 0 or self.broken_qform):
            source = xform or self._agreed()
        elif forms.sform_code > 0:
            source = "sform"
        else:
            source = "qform" if forms.qform_code > 0 or self.broken_qform else "pixdim"
        return self._affine(source), source

    def _agreed(self) -> str:
        try:
            distance = self._affine("sform").corner_distance(self._affine("qform"), self.shape)
            cause = f"a corner of the grid differs by {distance:.3g} voxels"
        except GeometryError:
            distance, cause = np.inf, "one of them is not a valid geometry"
        if distance <= _AGREE_VOXELS:
            return "sform"
        raise GeometryError(
            f"{self.name}: sform and qform disagree ({cause}; {_AGREE_VOXELS} is allowed). "
            "Choose the one to trust with --xform sform or --xform qform."
        )

    def _affine(self, source: str) -> Affine:
        forms = self.forms
        matrix = {"sform": forms.sform, "qform": forms.qform, "pixdim": self.base}[source]
        if matrix is None:
            raise GeometryError(f"{self.name}: its {source} is not a valid geometry. Mend the header of the file.")
        scale = np.diag([*[MM_PER_UNIT.get(forms.units & 7, 1.0)] * 3, 1.0])
        try:
            return Affine(scale @ matrix)
        except GeometryError as error:
            raise GeometryError(f"{self.name}: its {source} is not a valid geometry ({error}).") from error


def parse(stream: ByteStream, name: str) -> NiftiHeader:
    """Read the header and its extensions; the stream then stands at the first voxel. Raises `FileFormatError`."""
    import nibabel

    start = stream.read(4)
    order = next((o for o in "<>" if struct.unpack(f"{o}i", start)[0] in _SIZES), None)
    if order is None:
        remedy = "It is gzipped: name it .nii.gz." if start[:2] == b"\x1f\x8b" else "Copy or export it again."
        raise FileFormatError(f"{name} is not a NIfTI file: its header is damaged or of another format. {remedy}")
    size = struct.unpack(f"{order}i", start)[0]
    kind = nibabel.Nifti1Header if _SIZES[size] == 1 else nibabel.Nifti2Header
    header = kind(start + stream.read(size - 4), endianness=order, check=False)
    magic = bytes(header["magic"].item())[:3]
    if magic not in (b"n+1", b"n+2"):
        raise FileFormatError(f"{name} is not a single-file NIfTI (found {magic!r}). Convert it to .nii.gz.")
    shape, channels = _shape(header, name)
    dtype, samples = _dtype(header, order, name)
    if channels > 1 and samples > 1:
        raise FileFormatError(
            f"{name} has {channels} volumes of {samples} colours; expected one or the other. Split it."
        )
    offset = _offset(header, size + 4, name)
    attributes = _attributes(stream.read(offset - size), order)
    forms, broken = _forms(header)
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0 or samples > 1:
        slope, inter = 1.0, 0.0
    if not np.isfinite(inter):
        raise FileFormatError(
            f"{name}: its scaling (slope {slope:g}, intercept {inter:g}) is not finite. Export it again."
        )
    return NiftiHeader(
        name, shape, max(channels, samples), samples > 1, dtype, offset, slope, inter, forms, broken,
        base_affine(tuple(float(v) for v in header["pixdim"]), shape), attributes,
    )  # fmt: skip


def comment(value: dict[str, Any], order: str = "<") -> bytes:
    """The extension block (after the 4 extender bytes) that holds `value` as JSON."""
    text = json.dumps({"vol3d": value}).encode("ascii")
    size = -(-(8 + len(text)) // 16) * 16
    return struct.pack(f"{order}2i", size, COMMENT) + text.ljust(size - 8, b"\0")


def base_affine(pixdim: tuple[float, ...], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Axis-aligned from the voxel sizes, centred and with x to the left, as nibabel and Analyze have it."""
    sizes = [abs(v) if np.isfinite(v) and v != 0 else 1.0 for v in pixdim[1:4]]
    matrix = np.diag([-sizes[0], sizes[1], sizes[2], 1.0])
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    return matrix


def _shape(header: Any, name: str) -> tuple[tuple[int, int, int], int]:  # noqa: ANN401  nibabel's headers are untyped
    dim = [int(n) for n in header["dim"]]
    count = dim[0]
    if not 1 <= count <= 7 or any(n < 1 for n in dim[1 : count + 1]):
        raise FileFormatError(f"{name}: its header holds impossible dimensions {dim}. Export it again.")
    sizes = dim[1 : count + 1] + [1] * (3 - count)
    beyond = [n for n in sizes[3:] if n > 1]
    if len(beyond) > 1:
        raise FileFormatError(f"{name} has shape {tuple(sizes)}; expected x, y, z and at most one more axis. Split it.")
    return (sizes[0], sizes[1], sizes[2]), (beyond[0] if beyond else 1)


def _dtype(header: Any, order: str, name: str) -> tuple[np.dtype[Any], int]:  # noqa: ANN401
    code = int(header["datatype"])
    if code in _RGB:
        return np.dtype("u1"), _RGB[code]
    if code not in _SCALARS:
        raise FileFormatError(
            f"{name} stores data type {code}, which holds no plain real numbers. Convert it to float32."
        )
    return np.dtype(order + _SCALARS[code]), 1


def _offset(header: Any, least: int, name: str) -> int:  # noqa: ANN401
    stored = float(header["vox_offset"])
    if stored == 0:
        return least
    if not (least <= stored <= _LARGEST_OFFSET and stored == int(stored)):
        raise FileFormatError(f"{name}: its header puts the voxels at byte {stored:g}. Export it again.")
    return int(stored)


def _attributes(block: bytes, order: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not block[:1].strip(b"\0"):
        return found
    at = 4
    while at + 8 <= len(block):
        size, code = struct.unpack(f"{order}2i", block[at : at + 8])
        if size < 8 or at + size > len(block):
            break
        content = block[at + 8 : at + size].rstrip(b"\0 ")
        if code == COMMENT:
            found |= _own(content)
        elif b"<CaretExtension>" in content and "class_names" not in found:
            names = class_names.from_caret(content)
            found |= {"class_names": names} if names else {}
        at += size
    return found


def _own(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    own = value.get("vol3d") if isinstance(value, dict) else None
    if not isinstance(own, dict):
        return {}
    found: dict[str, Any] = {}
    if names := class_names.decode(own.get("class_names")):
        found["class_names"] = names
    if isinstance(own.get("channel_names"), list):
        found["channel_names"] = [str(name) for name in own["channel_names"]]
    return found


def _forms(header: Any) -> tuple[StoredForms, bool]:  # noqa: ANN401
    from nibabel.spatialimages import HeaderDataError

    qcode, scode = max(0, int(header["qform_code"])), max(0, int(header["sform_code"]))
    qform, sform, broken = None, None, False
    if qcode:
        try:
            qform = _valid(header.get_qform())
        except (HeaderDataError, ValueError, ArithmeticError):
            qform = None
        broken = qform is None
    if scode:
        sform = _valid(header.get_sform())
    pixdim = tuple(float(v) for v in header["pixdim"])
    return StoredForms(qform, sform, qcode, scode, int(header["xyzt_units"]), pixdim), broken


def _valid(matrix: NDArray[Any]) -> NDArray[np.float64] | None:
    """A matrix that is a geometry, None where it is none: it then stands in no file that is written either."""
    try:
        return Affine(matrix).matrix
    except GeometryError:
        return None
