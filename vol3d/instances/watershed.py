"""Class probabilities of a whole volume → classes and objects, by a watershed from sure insides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from vol3d.errors import ModelError
from vol3d.instances.rules import InstanceRules, ResolvedRules
from vol3d.instances.scheme import InstanceScheme
from vol3d.instances.seeds import find_seeds

_ROUNDING = 0.02  # a sum of half-precision probabilities may miss 1 by this much


def instances_from(
    probabilities: NDArray[np.floating[Any]],
    scheme: InstanceScheme,
    spacing_mm: Sequence[float],
    rules: InstanceRules | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """(class codes, instance numbers), both (X, Y, Z).

    probabilities: (K, X, Y, Z), one per output of `scheme`, of the whole volume: tiles leave no trace. spacing_mm: mm
    per voxel, (3,). Class codes are in the smallest unsigned dtype that holds them. Instance numbers run from 1 to n
    within every thing class, in the order of the objects' first voxels (C order of (X, Y, Z)); stuff has 0. uint16, or
    uint32 above 65535.

    A voxel's class is that of the largest probability, where a thing's is inside + border; ties go to the earlier
    class. Within a thing class, objects grow from seeds (`seeds.find_seeds`) over P(border) − P(inside) until they
    meet (Beucher & Meyer 1993), by faces. A connected piece of the class without any seed, such as an object too thin
    to have an inside, is one object. Then `rules` on small objects and holes apply.

    Memory: about six float32 volumes besides the probabilities, and the watershed's own copies. Splitting needs another
    sixteen of the bounding box of the largest connected inside, which is the whole volume where every border leaks.
    Raises `ModelError` where the probabilities do not fit the scheme or are none, `GeometryError` on a wrong spacing.
    """
    if probabilities.ndim != 4 or len(probabilities) != len(scheme):
        raise ModelError(
            f"expected probabilities of {len(scheme)} outputs ({', '.join(scheme.names)}) as (K, X, Y, Z), found shape "
            f"{probabilities.shape}"
        )
    exact = (rules or InstanceRules()).resolve(spacing_mm)
    semantic = _semantic(probabilities, scheme, exact)
    objects = np.zeros(semantic.shape, dtype=np.int32)
    for index, described in enumerate(scheme.classes):
        if described.thing:
            _grow(objects, semantic, index, probabilities, scheme, exact)
    lost = (objects == 0) & np.array([c.thing for c in scheme.classes])[semantic]
    if lost.any():
        semantic[lost] = _best_stuff(probabilities[:, lost], scheme)
    _fill_holes(objects, semantic, exact.hole_voxels)
    codes = np.array([c.code for c in scheme.classes])
    return codes.astype(np.min_scalar_type(int(codes.max())))[semantic], _renumber(objects, semantic)


def _smooth(volume: NDArray[Any], rules: ResolvedRules) -> NDArray[np.float32]:
    single = np.asarray(volume, dtype=np.float32)
    sigma = [min(s, float(n)) for s, n in zip(rules.sigma, volume.shape, strict=True)]  # more changes nothing
    return ndimage.gaussian_filter(single, sigma, mode="nearest") if rules.smoothing_mm else single


def _semantic(probabilities: NDArray[Any], scheme: InstanceScheme, rules: ResolvedRules) -> NDArray[np.uint16]:
    """Position in `scheme.classes` of the likeliest class; uint16 (X, Y, Z)."""
    best = np.full(probabilities.shape[1:], -np.inf, dtype=np.float32)
    semantic = np.zeros(best.shape, dtype=np.uint16)
    for index, described in enumerate(scheme.classes):
        outputs = np.flatnonzero(scheme.codes == described.code)
        likely = _smooth(probabilities[outputs].sum(axis=0, dtype=np.float32), rules)
        low, high = (float(likely.min()), float(likely.max())) if likely.size else (0.0, 1.0)
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # also where either is not a number
            raise ModelError(f"expected probabilities from 0 to 1 of {described.name!r}, found {low:g} to {high:g}")
        semantic[likely > best] = index
        np.maximum(best, likely, out=best)
    return semantic


def _grow(
    objects: NDArray[np.int32],
    semantic: NDArray[np.uint16],
    index: int,
    probabilities: NDArray[Any],
    scheme: InstanceScheme,
    rules: ResolvedRules,
) -> None:
    """Write the objects of thing class `index` into `objects`, numbered on from there; both maps change in place."""
    here = semantic == index
    if not here.any():
        return
    code = scheme.classes[index].code
    sure = _smooth(probabilities[scheme.index(code, "inside")], rules)
    landscape = _smooth(probabilities[scheme.index(code, "border")], rules) - sure
    things = np.array([c.thing for c in scheme.classes])[semantic]
    seeds = find_seeds((sure > rules.seed_threshold) & here, things, landscape, rules)
    del sure, things
    here |= seeds > 0
    _add_unseeded(seeds, here)
    grown = watershed(landscape, seeds, mask=here)
    small = np.bincount(grown.ravel()) < rules.min_voxels
    small[0] = False
    if small.any():
        given_up = small[grown]
        grown[given_up] = 0
        near = ndimage.binary_dilation(given_up) & here
        grown[given_up] = watershed(landscape, np.where(near, grown, 0), mask=near)[given_up]
    found = grown > 0
    objects[found] = grown[found] + objects.max()
    semantic[found] = index


def _add_unseeded(seeds: NDArray[np.int32], here: NDArray[np.bool_]) -> None:
    """Make every connected piece of `here` that has no seed a seed of its own, in place."""
    pieces = cc3d.connected_components(here, connectivity=6)
    seeded = np.zeros(int(pieces.max()) + 1, dtype=bool)
    seeded[pieces[seeds > 0]] = True
    seeded[0] = True
    alone = ~seeded[pieces]
    seeds[alone] = pieces[alone].astype(np.int32) + seeds.max()


def _best_stuff(probabilities: NDArray[Any], scheme: InstanceScheme) -> NDArray[np.intp]:
    """Position in `scheme.classes` of the likeliest stuff class; probabilities (K, voxels)."""
    outputs = [scheme.index(code, "stuff") for code in scheme.stuff]
    positions = np.array([i for i, c in enumerate(scheme.classes) if not c.thing])
    return positions[np.argmax(probabilities[outputs], axis=0)]


def _fill_holes(objects: NDArray[np.int32], semantic: NDArray[np.uint16], most_voxels: float) -> None:
    """Give stuff that is enclosed by one object to that object, in place: pieces connected by faces, off the edge."""
    if most_voxels < 1 or not objects.any():
        return
    pieces = cc3d.connected_components(objects == 0, connectivity=6)
    few = np.bincount(pieces.ravel()) <= most_voxels
    few[0] = False
    for axis, extent in enumerate(objects.shape):
        if extent > 1:  # an axis of one voxel encloses nothing and lets nothing out
            few[np.take(pieces, [0, -1], axis=axis)] = False
    lowest = np.full(len(few), np.iinfo(np.int32).max, dtype=np.int32)
    highest = np.zeros(len(few), dtype=np.int32)
    for axis in range(objects.ndim):
        low = (slice(None),) * axis + (slice(None, -1),)
        high = (slice(None),) * axis + (slice(1, None),)
        for piece, neighbour in ((low, high), (high, low)):
            meets = few[pieces[piece]] & (objects[neighbour] > 0)
            numbers, owners = pieces[piece][meets], objects[neighbour][meets]
            np.minimum.at(lowest, numbers, owners)
            np.maximum.at(highest, numbers, owners)
    filled = few & (lowest == highest)
    if filled.any():
        flat = objects.ravel()
        first = np.zeros(int(objects.max()) + 1, dtype=np.intp)
        first[flat] = np.arange(flat.size)
        hole = filled[pieces]
        owner = highest[pieces[hole]]
        semantic[hole] = semantic.ravel()[first[owner]]
        objects[hole] = owner


def _renumber(objects: NDArray[np.int32], semantic: NDArray[np.uint16]) -> NDArray[Any]:
    """Numbers 1…n within every class in the order of first voxels; uint16, or uint32 above 65535."""
    numbers, first = np.unique(objects, return_index=True)
    numbers, first = numbers[numbers > 0], first[numbers > 0]
    order = np.argsort(first)
    numbers, classes = numbers[order], semantic.ravel()[first[order]]
    lookup = np.zeros(int(objects.max(initial=0)) + 1, dtype=np.uint32)
    for present in np.unique(classes):
        chosen = numbers[classes == present]
        lookup[chosen] = np.arange(1, len(chosen) + 1)
    return lookup.astype(np.uint16 if lookup.max() <= 65535 else np.uint32)[objects]
