"""Writing NIfTI (.nii, .nii.gz): the geometry of the scan as it was stored, names in a header extension."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from vol3d.errors import FileFormatError
from vol3d.io.kinds import Content, Location
from vol3d.io.nifti_header import MM_PER_UNIT, base_affine, comment
from vol3d.volume import Affine, StoredForms, Volume

_BLOCK = 4 << 20
_COMPRESSION = 2  # of ISA-L: about as small as zlib at 3, in a tenth of its time
_SCANNER, _MM = 1, 2
_NIFTI1_LARGEST = 32767


def write(temporary: Path, location: Location, content: Content) -> None:
    """Store (C, X, Y, Z) as a 3-D file, or 4-D with the channels last. Raises `OSError`, `FileFormatError`."""
    header = _header(location.name, content)
    named: dict[str, Any] = {}
    if content.class_names:
        named["class_names"] = {str(code): name for code, name in sorted(content.class_names.items())}
    if content.channel_names:
        named["channel_names"] = list(content.channel_names)
    extension = comment(named) if named else b""
    header["vox_offset"] = int(header["sizeof_hdr"]) + 4 + len(extension)
    lead = header.binaryblock + bytes([1 if named else 0, 0, 0, 0]) + extension
    with temporary.open("wb") as file:
        if temporary.name.lower().endswith(".gz"):
            with igzip.IGzipFile("", "wb", _COMPRESSION, file, mtime=0) as packed:
                _pour(cast("BinaryIO", packed), lead, content)
        else:
            _pour(file, lead, content)


def stored_forms(like: Volume) -> StoredForms:
    """The forms to write: those of the scan where they still describe its affine, else made from the affine."""
    forms = like.forms
    if forms is not None:
        known = [matrix for matrix in (forms.sform, forms.qform) if matrix is not None]
        if not known and forms.pixdim is not None:
            known = [base_affine(forms.pixdim, like.shape)]
        if any(_holds(matrix, forms, like) for matrix in known):
            return forms
    matrix = like.affine.matrix
    directions = matrix[:3, :3] / like.affine.spacing
    square = np.abs(directions.T @ directions - np.eye(3)).max() < 1e-5
    return StoredForms(
        matrix if square else None, matrix, _SCANNER if square else 0, _SCANNER, _MM, None
    )  # a qform cannot hold shear


def _holds(matrix: NDArray[np.float64], forms: StoredForms, like: Volume) -> bool:
    scale = np.diag([*[MM_PER_UNIT.get(forms.units & 7, 1.0)] * 3, 1.0])
    return like.affine.corner_distance(Affine(scale @ matrix), like.shape) < 1e-3


def _header(name: str, content: Content) -> Any:  # noqa: ANN401  nibabel's headers are untyped
    import nibabel
    from nibabel.spatialimages import HeaderDataError

    shape = content.array.shape
    kind = nibabel.Nifti1Header if max(shape) <= _NIFTI1_LARGEST else nibabel.Nifti2Header
    header = kind()
    header.set_data_dtype(content.dtype.newbyteorder("<"))
    header.set_data_shape(shape[1:] if shape[0] == 1 else (*shape[1:], shape[0]))
    forms = stored_forms(content.like)
    unit = MM_PER_UNIT.get(forms.units & 7, 1.0)
    pixdim = forms.pixdim or (1.0, *(content.like.affine.spacing / unit), 1.0, 1.0, 1.0, 1.0)
    header["pixdim"] = [pixdim[0] if pixdim[0] in (-1.0, 1.0) else 1.0, *pixdim[1:4], 1.0, 1.0, 1.0, 1.0]
    try:
        if forms.qform is not None:
            header.set_qform(forms.qform, forms.qform_code)
        if forms.sform is not None:
            header.set_sform(forms.sform, forms.sform_code)
    except (HeaderDataError, ValueError) as error:
        raise FileFormatError(f"{name}: NIfTI cannot hold this geometry ({error}). Choose .nrrd or .h5.") from error
    header["xyzt_units"] = forms.units
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_max"], header["cal_min"] = 0, 0
    return header


def _pour(file: BinaryIO, lead: bytes, content: Content) -> None:
    file.write(lead)
    for block in _blocks(content):
        file.write(block)


def _blocks(content: Content) -> Iterator[bytes]:
    """The voxels with X running fastest, a few planes at a time."""
    dtype = content.dtype.newbyteorder("<")
    _, x, y, z = content.array.shape
    planes = max(1, _BLOCK // (x * y * dtype.itemsize))
    for channel in content.array:
        for start in range(0, z, planes):
            yield channel[:, :, start : start + planes].astype(dtype, copy=False).tobytes(order="F")
