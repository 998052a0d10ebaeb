"""Finding a dataset inside an HDF5 file without leaving the file: external links and storage are refused."""

from __future__ import annotations

from collections import deque
from typing import Any

from vol3d.errors import FileFormatError

_MOST_STEPS = 64
_MOST_DATASETS = 1000


def resolve(file: Any, path: str, name: str) -> Any | None:  # noqa: ANN401  h5py is untyped
    """The group or dataset at `path`, None where there is none. file: an open h5py.File.

    Soft links within the file are followed. Raises `FileFormatError` where a link on the way leaves the file, and
    for datasets whose voxels lie in other files.
    """
    import h5py

    node, parts, steps = file["/"], deque(_parts(path)), 0
    while parts:
        steps += 1
        part = parts.popleft()
        if steps > _MOST_STEPS:
            raise FileFormatError(f"{name}: its links lead in a circle. Name the dataset itself.")
        if not isinstance(node, h5py.Group) or not node.id.links.exists(part):
            return None
        kind = node.id.links.get_info(part).type
        if kind == h5py.h5l.TYPE_SOFT:
            target = node.id.links.get_val(part).decode("utf-8", "replace")
            node = file["/"] if target.startswith("/") else node
            parts.extendleft(reversed(_parts(target)))
        elif kind == h5py.h5l.TYPE_HARD:
            node = node[part.decode("utf-8", "surrogateescape")]
        else:
            raise FileFormatError(
                f"{name}: {part.decode('utf-8', 'replace')!r} is a link to another file, which is not followed. "
                "Copy the dataset into this file."
            )
    if isinstance(node, h5py.Dataset):
        _require_inside(node, name)
    return node


def datasets(file: Any) -> dict[str, Any]:  # noqa: ANN401
    """Path → dataset for at most 1,000 datasets that lie in the file itself."""
    import h5py

    found: dict[str, Any] = {}

    def visit(path: str, node: Any) -> bool | None:  # noqa: ANN401
        if isinstance(node, h5py.Dataset):
            found[path] = node
        return True if len(found) >= _MOST_DATASETS else None

    file.visititems(visit)  # hard links only
    return found


def _parts(path: str) -> list[bytes]:
    return [part.encode("utf-8", "surrogateescape") for part in path.split("/") if part not in ("", ".")]


def _require_inside(dataset: Any, name: str) -> None:  # noqa: ANN401
    if dataset.is_virtual or dataset.id.get_create_plist().get_external_count() > 0:
        raise FileFormatError(
            f"{name}: its voxels lie in other files (virtual or external storage), which are not opened. "
            "Copy the dataset into this file."
        )
