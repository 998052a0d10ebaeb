"""From what is known of a volume, a network and the memory to a plan of tiles. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vol3d.errors import GeometryError, ModelError
from vol3d.inference.axes import Axis
from vol3d.inference.budget import Axes, Budget, Sizes
from vol3d.inference.tiles import TiledNetwork, TilePlan, choose_size

_LETTERS = "XYZ"


def plan_tiles(  # noqa: PLR0913  every fact the plan is made from, by its name
    shape: Sizes,
    margin: Sequence[int],
    stride: Sequence[int],
    *,
    memory_bytes: float,
    bytes_per_voxel: float,
    classes: int,
    planes: int | None = None,
    tile: Sequence[int] | None = None,
    patch: Sequence[int] | None = None,
    smallest: Sequence[int] | None = None,
    overlap: float = 0.25,
    host_memory_bytes: float | None = None,
    most_voxels: float = 2**24,
    indices: bool = False,
    sight: Sequence[int] | None = None,
    thrift: float = 0.0,
) -> TilePlan:
    """Plan the tiles of a volume.

    shape: (X, Y, Z). margin, stride: of the network along its axes; two numbers mean a 2-D network. planes: the axis
    across which a 2-D network goes slice by slice, planes being its batch; None: Z. It sees the other two; margin,
    stride, smallest, and a tile or patch of two sizes belong to those in ascending order. All margins 0: a same-padded
    network, tiles overlap by at least `overlap` of their size. tile: input size that is wanted, cut down to what the
    volume needs; None: for a valid network the size with which the fewest voxels go through it within the memory, for a
    same-padded one `patch` (the size it was trained on; None: the whole) or what fits. A tile of two sizes gets as many
    planes as fit, one of three sizes belongs to X, Y and Z. smallest: the network's smallest input; `tile` or `patch`
    tell that of a valid network as well, a same-padded one is taken to accept its stride. sight: what a tile of a
    same-padded network should see along its axes, twice as much if memory allows: of such tiles those are taken with
    which the fewest voxels go through it; None: the largest that fit. indices: only the most probable class of a voxel
    is wanted, see `predict_slabs`; where tiles are blended this changes nothing.
    memory_bytes, bytes_per_voxel, host_memory_bytes, most_voxels, thrift: see `Budget`.

    Raises `ModelError` for sizes the network cannot take, `ResourceError` where memory is too small for any tile.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise GeometryError(f"expected a volume of three non-empty axes, found {tuple(shape)}")
    if len(margin) not in {2, 3} or len(stride) != len(margin) or any(m % 2 for m in margin):
        raise ModelError(
            f"expected two or three even margins and as many strides, found {tuple(margin)}, {tuple(stride)}"
        )
    seen = _seen(len(margin), planes)
    padded, wanted = not any(margin), _along(seen, tile or patch)
    least = _smallest_padded(stride, smallest) if padded else _smallest(margin, stride, smallest or wanted)
    asks = zip(seen, margin, stride, least, strict=True)
    axes = _three({a: Axis(shape[a], m, s, n, overlap if padded else None) for a, m, s, n in asks}, shape)
    alone = indices and not padded
    budget = Budget(memory_bytes, bytes_per_voxel, classes, host_memory_bytes, most_voxels, alone, thrift)
    size = _accepted({} if wanted is None else dict(zip(seen, wanted, strict=True)), axes)
    if tile is None:
        seeing = None if sight is None else _at(dict(zip(seen, sight, strict=True)))
        return TilePlan(axes, budget, choose_size(axes, budget, size, seeing), seen)
    size = _accepted(dict(enumerate(tile)), axes) if len(tile) == 3 else _with_planes(size, seen, axes, budget)
    budget.require(size, axes, "the tile asked for")
    return TilePlan(axes, budget, size, seen)


def plan_for(  # noqa: PLR0913  as above
    network: TiledNetwork,
    shape: Sizes,
    *,
    memory_bytes: float,
    bytes_per_voxel: float,
    planes: int | None = None,
    tile: Sequence[int] | None = None,
    patch: Sequence[int] | None = None,
    overlap: float = 0.25,
    host_memory_bytes: float | None = None,
    most_voxels: float = 2**24,
    indices: bool = False,
    sight: Sequence[int] | None = None,
    thrift: float = 0.0,
) -> TilePlan:
    """`plan_tiles` with what the network tells about itself."""
    return plan_tiles(
        shape,
        network.margin,
        network.total_stride,
        memory_bytes=memory_bytes,
        bytes_per_voxel=bytes_per_voxel,
        classes=network.classes,
        planes=planes,
        tile=tile,
        patch=patch,
        smallest=network.input_size((1,) * len(network.margin)),
        overlap=overlap,
        host_memory_bytes=host_memory_bytes,
        most_voxels=most_voxels,
        indices=indices,
        sight=sight,
        thrift=thrift,
    )


def plan_axes(  # noqa: PLR0913  as above
    network: TiledNetwork,
    shape: Sizes,
    planes: Sequence[int] = (0, 1, 2),
    *,
    memory_bytes: float,
    bytes_per_voxel: float,
    tile: Sequence[int] | None = None,
    patch: Sequence[int] | None = None,
    overlap: float = 0.25,
    host_memory_bytes: float | None = None,
    most_voxels: float = 2**24,
    sight: Sequence[int] | None = None,
) -> tuple[TilePlan, ...]:
    """A plan for each of the axes `planes`, as `predict_axes` takes them: together they keep within the memory.

    The plans run by turns, each with unfinished planes of its own. Several therefore share the memory for those
    equally: `host_memory_bytes`, or half of `memory_bytes` where that is for everything. One axis: `plan_for`.
    """
    share = host_memory_bytes
    if len(planes) > 1:
        if host_memory_bytes is None:
            memory_bytes = host_memory_bytes = memory_bytes / 2
        share = host_memory_bytes / len(planes)
    return tuple(
        plan_for(
            network,
            shape,
            memory_bytes=memory_bytes,
            bytes_per_voxel=bytes_per_voxel,
            planes=axis,
            tile=tile,
            patch=patch,
            overlap=overlap,
            host_memory_bytes=share,
            most_voxels=most_voxels,
            sight=sight,
        )
        for axis in planes
    )


def _seen(dimensions: int, planes: int | None) -> tuple[int, ...]:
    """The axes of the volume that a network sees."""
    if dimensions == 3:
        if planes is not None:
            raise ModelError(f"a 3-D network sees all axes; planes across axis {planes} are for 2-D networks alone")
        return (0, 1, 2)
    if planes not in {None, 0, 1, 2}:
        raise ModelError(f"expected planes across axis 0, 1 or 2 (X, Y or Z), found {planes}")
    return tuple(axis for axis in range(3) if axis != (2 if planes is None else planes))


def _three(asked: Mapping[int, Axis], shape: Sizes) -> Axes:
    """The axes that are seen, and the one that is a batch."""
    x, y, z = (asked.get(a, Axis(shape[a], 0, 1, 1)) for a in range(3))
    return (x, y, z)


def _at(sizes: Mapping[int, int]) -> Sizes:
    """Sizes along X, Y, Z; 1 along the axis that nobody spoke of."""
    return (sizes.get(0, 1), sizes.get(1, 1), sizes.get(2, 1))


def _along(seen: tuple[int, ...], sizes: Sequence[int] | None) -> tuple[int, ...] | None:
    """Sizes along the axes that are seen, of as many sizes or of one per axis of the volume."""
    if sizes is None or len(sizes) == len(seen):
        return None if sizes is None else tuple(sizes)
    if len(sizes) == 3:
        return tuple(sizes[axis] for axis in seen)
    raise ModelError(f"expected a tile of {len(seen)} sizes for a {len(seen)}-D network, found {tuple(sizes)}")


def _smallest(margin: Sequence[int], stride: Sequence[int], valid: Sequence[int] | None) -> Sequence[int]:
    """The smallest valid input, from any valid one."""
    if valid is None:
        raise ModelError("a network with a margin has valid input sizes; give one of them as tile, patch or smallest")
    return [n - max((n - m - 1) // s, 0) * s for n, m, s in zip(valid, margin, stride, strict=True)]


def _smallest_padded(stride: Sequence[int], smallest: Sequence[int] | None) -> Sequence[int]:
    """The smallest multiple of the stride that a same-padded network accepts."""
    return [-(-n // s) * s for n, s in zip(smallest or stride, stride, strict=True)]


def _accepted(asked: Mapping[int, int], axes: Axes) -> Sizes:
    """Sizes that were asked for, cut down to what the volume needs; along axes that nobody spoke of, all of it."""
    x, y, z = (axis.accept(asked.get(a, axis.whole), _LETTERS[a]) for a, axis in enumerate(axes))
    return (x, y, z)


def _with_planes(size: Sizes, seen: tuple[int, ...], axes: Axes, budget: Budget) -> Sizes:
    """As many of the planes as fit, at least one."""
    batch = next(axis for axis in range(3) if axis not in seen)

    def of(planes: int) -> Sizes:
        x, y, z = (planes if axis == batch else n for axis, n in enumerate(size))
        return (x, y, z)

    return of(next((planes for planes in range(size[batch], 1, -1) if budget.fits(of(planes), axes)), 1))
