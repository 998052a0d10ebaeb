"""NRRD, MHA and MHD through SimpleITK, which is imported only here and only when needed. ITK's world is LPS."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import FileFormatError, GeometryError
from vol3d.io import class_names
from vol3d.io.budget import Budget
from vol3d.io.itk_header import require_whole
from vol3d.io.kinds import Content, Facts, Location, ReadOptions, choose_channel
from vol3d.volume import Affine, Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NUMBERS = {
    "8-bit unsigned integer": "uint8", "8-bit signed integer": "int8",
    "16-bit unsigned integer": "uint16", "16-bit signed integer": "int16",
    "32-bit unsigned integer": "uint32", "32-bit signed integer": "int32",
    "64-bit unsigned integer": "uint64", "64-bit signed integer": "int64",
    "32-bit float": "float32", "64-bit float": "float64",
}  # fmt: skip


def read(location: Location, options: ReadOptions) -> Volume:
    """One channel as a `Volume` (1, X, Y, Z). Raises `FileFormatError`, `GeometryError`, `ResourceError`."""
    import SimpleITK

    promised = require_whole(location.path, location.name, options.budget)
    facts = describe(location)
    if promised != math.prod(facts.shape) * facts.channels * np.dtype(facts.dtype).itemsize:
        raise FileFormatError(f"{location.name}: its header contradicts itself. Export it again.")
    channel = choose_channel(location.name, facts.channels, options.channel)
    if facts.affine is None:
        raise GeometryError(facts.problems[0])
    try:
        image = SimpleITK.ReadImage(str(location.path))
    except RuntimeError as error:
        raise _refused(location, error) from error
    stored = SimpleITK.GetArrayViewFromImage(image)  # z, y, x; then components; a time axis comes first
    if image.GetNumberOfComponentsPerPixel() > 1:
        stored = stored[..., channel]
    elif facts.channels > 1:
        stored = stored[channel]
    array = np.array(stored).reshape(facts.shape[::-1]).transpose(2, 1, 0)
    attributes = dict(facts.attributes)
    if facts.channels > 1:
        attributes |= {"channel": channel}
        attributes.pop("channel_names", None)
    return Volume(array[np.newaxis], facts.affine, location.name, None, attributes)


def describe(location: Location) -> Facts:
    """What the header says. Raises `FileFormatError`."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(location.path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _refused(location, error) from error
    size = [*reader.GetSize(), 1][: max(3, reader.GetDimension())]
    components = int(reader.GetNumberOfComponents())
    kind = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID()).removeprefix("vector of ")
    if len(size) > 4 or (len(size) == 4 and size[3] > 1 and components > 1) or kind not in _NUMBERS:
        raise FileFormatError(
            f"{location.name} holds {len(size)} axes of {kind} with {components} components; expected x, y, z of real "
            "numbers and at most one more axis. Split it."
        )
    channels = max(components, size[3] if len(size) == 4 else 1)
    attributes: dict[str, Any] = {}
    keys = reader.GetMetaDataKeys()
    stored = reader.GetMetaData(class_names.KEY) if class_names.KEY in keys else ""
    if names := class_names.decode(stored) or class_names.read_sidecar(location.path):
        attributes["class_names"] = names
    shape = (int(size[0]), int(size[1]), int(size[2]))
    affine = None
    problems: tuple[str, ...] = ()
    try:
        affine = _affine(reader, location.name)
    except GeometryError as error:
        problems = (str(error),)
    return Facts(shape, channels, _NUMBERS[kind], affine, "xyz", None, attributes, problems)


def write(temporary: Path, location: Location, content: Content) -> None:
    """Store (C, X, Y, Z), compressed, in one file: an .mhd holds its voxels itself, so that it cannot lose them.

    NRRD keeps class names in its header; MetaImage gets a side-car once the file is in its place.
    Raises `OSError`, `FileFormatError`.
    """
    import SimpleITK

    array = content.array.astype(content.dtype, copy=False)
    several = len(array) > 1
    stored = array.transpose(3, 2, 1, 0) if several else array[0].transpose(2, 1, 0)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(stored), isVector=several)
    matrix = _LPS_TO_RAS @ content.like.affine.matrix
    spacing = content.like.affine.spacing
    image.SetSpacing([float(v) for v in spacing])
    image.SetOrigin([float(v) for v in matrix[:3, 3]])
    image.SetDirection([float(v) for v in (matrix[:3, :3] / spacing).ravel()])
    nrrd = temporary.suffix.lower() == ".nrrd"
    if content.class_names and nrrd:
        image.SetMetaData(class_names.KEY, class_names.encode(content.class_names))
    packed = temporary if nrrd else temporary.with_suffix(".mha")
    try:
        SimpleITK.WriteImage(image, str(packed), True)
        packed.replace(temporary)
        require_whole(temporary, location.name, Budget(sys.maxsize))
    except RuntimeError as error:
        cause = "no space left" if "space" in str(error) or "wrote" in str(error) else "the system refused it"
        raise OSError(f"{cause} (SimpleITK stopped)") from error
    finally:
        if packed != temporary:
            packed.unlink(missing_ok=True)


def _affine(reader: Any, name: str) -> Affine:  # noqa: ANN401  SimpleITK is untyped
    axes = reader.GetDimension()
    direction: NDArray[np.float64] = np.eye(4)
    spacing, origin = np.ones(3), np.zeros(3)
    used = min(axes, 3)
    direction[:used, :used] = np.reshape(reader.GetDirection(), (axes, axes))[:used, :used]
    spacing[:used], origin[:used] = reader.GetSpacing()[:used], reader.GetOrigin()[:used]
    matrix = direction @ np.diag([*spacing, 1.0])
    matrix[:3, 3] = origin
    try:
        return Affine(_LPS_TO_RAS @ matrix)
    except GeometryError as error:
        raise GeometryError(f"{name}: its header holds no valid geometry ({error}). Export it again.") from error


def _refused(location: Location, error: Exception) -> FileFormatError:
    cause = " ".join(str(error).split())[-160:]
    return FileFormatError(
        f"{location.name} cannot be read as {location.path.suffix}: truncated, corrupt or of another format ({cause}). "
        "Copy or export it again."
    )
