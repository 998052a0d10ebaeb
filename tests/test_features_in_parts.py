"""A part of a volume has the features that the whole volume has there."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vol3d.baselines.features import FeatureMaps, Recipe, neighbourhood
from vol3d.baselines.pixel_classifier import CONTEXT
from vol3d.volume import Box

ISOTROPIC, FLAT = (1.0, 1.0, 1.0), (0.5, 0.5, 4.0)
COARSE = Recipe((4.0, 9.0), (8.0,), (4.0, 17.0))


def noise(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def features_in(image, box, recipe, spacing_mm):
    """Features inside a box, from what `neighbourhood` says is enough."""
    extents = image.shape[1:]
    outer = neighbourhood(box, recipe, spacing_mm, extents)
    maps = FeatureMaps(image[(slice(None), *outer.slices())], spacing_mm, recipe, extents=extents)
    return maps.within(box.shift(tuple(-n for n in outer.start))), outer


@pytest.mark.parametrize("spacing_mm", [ISOTROPIC, FLAT])
@pytest.mark.parametrize("recipe", [Recipe(textures=(1.0, 2.0, 4.0)), CONTEXT, COARSE])
@pytest.mark.parametrize("shape", [(150, 20, 11), (131, 12, 9)])
def test_features_of_a_part_are_those_of_the_whole(recipe, shape, spacing_mm):
    image = noise((1, *shape))
    whole = FeatureMaps(image, spacing_mm, recipe).slab(0, shape[0])
    for start, stop in ((0, 13), (61, 74), (75, 76), (shape[0] - 9, shape[0])):
        box = Box((start, 2, 0), (stop - start, shape[1] - 5, shape[2]))
        found, outer = features_in(image, box, recipe, spacing_mm)
        assert torch.allclose(found, whole[(slice(None), *box.slices())], atol=2e-5)
        assert outer.clip(shape) == outer


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(60, 90), st.integers(60, 90), st.integers(1, 40)),
    st.tuples(*[st.floats(0, 1)] * 3),
    st.integers(0, 2**32 - 1),
)
def test_parts_are_cut_along_all_axes(shape, where, seed):
    image = noise((1, *shape), seed)
    start = tuple(int(share * (n - 1)) for share, n in zip(where, shape, strict=True))
    box = Box(start, (7, 6, 5)).clip(shape)
    recipe = Recipe((1.0, 4.0))
    found, outer = features_in(image, box, recipe, ISOTROPIC)
    whole = FeatureMaps(image, ISOTROPIC, recipe).slab(0, shape[0])
    assert torch.allclose(found, whole[(slice(None), *box.slices())], atol=2e-5)
    assert all(a % 2 == 0 for a in outer.start)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("recipe", [Recipe(textures=(4.0,)), COARSE])
def test_nothing_beyond_the_neighbourhood_matters(recipe, axis):
    shape = [9, 9, 9]
    shape[axis] = 560
    image = noise((1, *shape))
    box = Box(tuple(280 if a == axis else 0 for a in range(3)), tuple(1 if a == axis else 9 for a in range(3)))
    outer = neighbourhood(box, recipe, ISOTROPIC, shape)
    assert 40 < outer.size[axis] < 500
    changed = torch.zeros_like(image)
    changed[(slice(None), *outer.slices())] = image[(slice(None), *outer.slices())]
    inside = (slice(None), *box.slices())
    one, other = (FeatureMaps(values, ISOTROPIC, recipe).slab(0, shape[0])[inside] for values in (image, changed))
    assert torch.allclose(one, other, atol=1e-6)
