"""Every fault that `vol3d check` names: made on purpose in a phantom, in any orientation, and absent where none is."""

import itertools
import json
import subprocess
import sys
import tracemalloc

import h5py
import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import vol3d
from vol3d import io
from vol3d.cli.main import main
from vol3d.config import ClassConfig, LabelsConfig
from vol3d.sampling.painting import across, farthest, find_planes, off_crossings, runs, thin_planes
from vol3d.sampling.painting_faults import contradictions, copies, same_slices
from vol3d.volume import Affine, Volume, value_counts
from vol3d.workflows.check import check

SHAPE = (50, 54, 46)
PLANES = {0: (12, 24, 37), 1: (13, 26, 40), 2: (15, 29)}
UNLABELED = 255


def body(shape=SHAPE, seed=0):
    """(image uint8, codes uint8): a body with a few organs, all with noise."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))

    def ball(centre, radii):
        return (((grid - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))) ** 2).sum(0) < 1

    codes = ball((0, 0, 0), (0.85, 0.9, 0.88)).astype(np.uint8)
    for code, centre, radii in (
        (2, (-0.35, 0.1, 0.1), (0.35, 0.5, 0.55)),
        (3, (0.4, -0.2, -0.05), (0.3, 0.4, 0.7)),
        (2, (0.3, 0.45, 0.0), (0.25, 0.3, 0.5)),
    ):
        codes[ball(centre, radii)] = code
    levels = np.array([20, 90, 150, 210])[codes]
    return np.clip(levels + rng.normal(0, 12, shape), 0, 255).astype(np.uint8), codes


def mask_of(planes=PLANES, shape=SHAPE):
    mask = np.zeros(shape, bool)
    for axis, indices in planes.items():
        for index in indices:
            mask[across(axis, index)] = True
    return mask


def painted(codes, planes=PLANES):
    return np.where(mask_of(planes, codes.shape), codes, UNLABELED).astype(np.uint8)


def repaint(sparse, plane, content, over=()):
    """Paint a plane, then the planes `over` anew: what was painted last stays."""
    kept = {other: sparse[across(*other)].copy() for other in over}
    sparse[across(*plane)] = content
    for other, was in kept.items():
        sparse[across(*other)] = was
    return sparse


def kinds(found):
    return [finding.kind for finding in found.findings]


def one(found, kind):
    """The only finding of this kind."""
    (finding,) = [f for f in found.findings if f.kind == kind]
    return finding


def crossing(plane):
    return [(axis, index) for axis, indices in PLANES.items() for index in indices if axis != plane[0]]


IMAGE, CODES = body()
SPARSE = painted(CODES)


# ----------------------------------------------------------------------------------------------- planes


@given(st.data())
@settings(max_examples=40)
def test_painted_planes_are_found_whatever_crosses_them(data):
    shape = data.draw(st.tuples(*[st.integers(12, 20)] * 3))
    planes = {axis: data.draw(st.sets(st.integers(0, shape[axis] - 1), max_size=3)) for axis in range(3)}
    mask = mask_of(planes, shape)
    found = find_planes(mask)
    expected = [(axis, index) for axis in range(3) for index in sorted(planes[axis])]
    if mask.mean() < 0.5:
        assert list(found) == expected
        assert set(found.values()) <= {1.0}


@given(st.permutations(range(3)), st.tuples(*[st.booleans()] * 3), st.sampled_from([0.3, 0.5, 0.75]))
@settings(max_examples=40)
def test_planes_do_not_depend_on_the_orientation(order, flips, part):
    mask = mask_of()
    mask[across(1, 33)][: round(part * SHAPE[0])] = True
    found = find_planes(mask)
    flip = tuple(slice(None, None, -1 if back else 1) for back in flips)
    turned = find_planes(mask.transpose(order)[flip])
    moved = {
        (order.index(axis), SHAPE[axis] - 1 - i if flips[order.index(axis)] else i): part
        for (axis, i), part in found.items()
    }
    assert turned == pytest.approx(moved)
    assert found[1, 33] == pytest.approx(part, abs=0.05)
    assert [plane for plane, share in found.items() if share < 0.9] == [(1, 33)]


def test_blocks_and_scribbles_are_no_planes():
    mask = np.zeros(SHAPE, bool)
    mask[10:40, 10:40, 10:40] = True
    assert find_planes(mask) == {}
    mask[:] = False
    mask[10:14, 10:12, :] = True
    assert find_planes(mask) == {}
    assert find_planes(np.ones((9, 9, 1), bool)).keys() == {(a, i) for a in (0, 1) for i in range(9)}


def test_thin_planes_are_told_from_things():
    for seed in range(3):
        _, codes = body(seed=seed)
        assert thin_planes(codes > 0) == ([], 0.0)
        assert thin_planes((codes > 0) & mask_of()) == ([(a, i) for a, n in PLANES.items() for i in n], 1.0)
    beside = mask_of({2: (10, 11, 30)})
    assert thin_planes((CODES > 0) & beside)[0] == [(2, 10), (2, 11), (2, 30)]
    strays = (CODES > 0) & mask_of()
    strays[1:6, 1:6, 1:6] = True
    found, inside = thin_planes(strays)
    assert found == [(a, i) for a, n in PLANES.items() for i in n]
    assert 0.95 < inside < 1
    assert thin_planes(np.zeros(SHAPE, bool)) == ([], 0.0)
    assert thin_planes(np.ones((3, 3, 3), bool)) == ([], 0.0)


@given(st.data())
@settings(max_examples=40)
def test_the_farthest_voxel(data):
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * 3))
    every = [(axis, index) for axis in range(3) for index in range(shape[axis])]
    planes = data.draw(st.lists(st.sampled_from(every), max_size=4))
    spacing = data.draw(st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 3))
    reach = farthest(shape, planes, spacing)
    if not planes:
        assert reach is None
        return
    distances = [min(abs(v[a] - i) * spacing[a] for a, i in planes) for v in itertools.product(*map(range, shape))]
    assert reach.mm == max(distances)
    assert reach.mm == reach.slices * spacing[reach.axis]


@given(st.sets(st.integers(0, 30)))
@settings(max_examples=50)
def test_runs(indices):
    found = runs(indices)
    assert {i for first, last in found for i in range(first, last + 1)} == indices
    assert all(second[0] > first[1] + 1 for first, second in itertools.pairwise(found))


@given(hnp.arrays(st.sampled_from([np.uint8, np.int16, np.uint16, np.int32]), (2, 3, 4, 5)), st.booleans())
@settings(max_examples=40)
def test_value_counts(array, fortran):
    values, counts = value_counts(np.asfortranarray(array) if fortran else array)
    expected = np.unique(array, return_counts=True)
    assert np.array_equal(values, expected[0])
    assert np.array_equal(counts, expected[1])


def test_off_crossings_leaves_out_what_crosses():
    array = np.arange(60).reshape(3, 4, 5)
    assert np.array_equal(off_crossings(array, (1, 2), [(1, 0), (0, 1), (2, 4)]), array[[0, 2], 2, :4])


# ----------------------------------------------------------------------------------------------- nothing to find


def test_nothing_is_found_where_nothing_is_wrong():
    for seed in range(4):
        image, codes = body(seed=seed)
        for labels, how in (
            (painted(codes), {"unlabeled": UNLABELED}),
            (codes, {"dense": True}),
            (codes, {"annotated_slices": {"xyz"[a]: n for a, n in PLANES.items()}}),
        ):
            found = vol3d.check(image, labels, **how)
            assert found.findings == ()
            assert found.exit_code(strict=True) == 0


@pytest.mark.parametrize(
    ("image", "labels", "spoken"),
    [
        ("mni152_t1.nii.gz", "mni152_tissue.nii.gz", {"mirrored_image"}),  # that atlas is symmetric
        ("ct_torso.nii.gz", "ct_torso_organs.nii.gz", {"one_plane", "few_voxels"}),  # many small organs
        ("mr_torso.nii.gz", "mr_torso_organs.nii.gz", {"one_plane", "few_voxels"}),
        ("nuclei_a.h5:raw", "nuclei_a.h5:label", set()),
    ],
)
def test_no_false_alarm_on_real_volumes(shared_data, image, labels, spoken):
    scan, dense = io.read(str(shared_data / image)), io.read_labels(str(shared_data / labels))
    array = np.asarray(dense.array[0])
    for counts in ((3, 3, 2), (5, 4, 3))[: 1 if array.size > 10**6 else 2]:
        planes = {}
        for axis, count in enumerate(counts):
            filled = np.flatnonzero((array > 0).any(axis=tuple(a for a in range(3) if a != axis)))
            low, high = filled[[0, -1]]
            planes[axis] = [round(low + (high - low) * (i + 0.5) / count) for i in range(count)]
        sparse = Volume(painted(array, planes)[None], dense.affine, dense.name)
        found = vol3d.check(scan, sparse, unlabeled=UNLABELED)
        assert set(kinds(found)) <= spoken
        assert found.exit_code() == 0
        zero = Volume(np.where(mask_of(planes, array.shape), array, 0)[None], dense.affine, dense.name)
        option = " ".join(f"{'xyz'[axis]}={','.join(map(str, n))}" for axis, n in planes.items())
        assert vol3d.check(scan, zero).evidence.option == f"--annotated-slices {option}"


# ----------------------------------------------------------------------------------------------- classes


def test_a_class_in_one_slice_only():
    codes = CODES.copy()
    codes[codes == 3] = 1
    codes[14:22, 28:38, 14:17] = 3  # of the painted slices only z=15 meets it
    sparse = painted(codes)
    found = vol3d.check(IMAGE, sparse, unlabeled=UNLABELED)
    assert kinds(found) == ["one_plane"]
    assert one(found, "one_plane").where == ("z=15",)
    assert "3 (class 3)" in one(found, "one_plane").what


def test_a_single_painted_slice():
    found = vol3d.check(IMAGE, painted(CODES, {1: (26,)}), unlabeled=UNLABELED)
    assert kinds(found) == ["one_plane"]
    assert found.findings[0].where == ("y=26",)


def test_classes_with_few_voxels_and_none():
    codes = CODES.copy()
    codes[23:26, 25:28, 14:17] = 7
    config = LabelsConfig(
        unlabeled=(UNLABELED,), classes=[ClassConfig(code=c, name=f"k{c}") for c in (0, 1, 2, 3, 7, 9)]
    )
    found = check(IMAGE, painted(codes), config=config)
    assert kinds(found) == ["few_voxels", "class_missing"]
    assert "7 (k7) 19" in one(found, "few_voxels").what
    assert set(one(found, "few_voxels").where) == {"x=24", "y=26", "z=15"}
    assert "9 (k9)" in one(found, "class_missing").what


# ----------------------------------------------------------------------------------------------- planes at fault


def test_a_half_painted_slice_with_a_straight_and_with_a_ragged_end():
    for cut, said in ((slice(None), "y=21"), (None, "ragged")):
        sparse = SPARSE.copy()
        content = CODES[across(2, 29)].copy()
        if cut is not None:
            content[:, 22:] = UNLABELED
        else:
            content[np.add.outer(np.arange(SHAPE[0]), np.arange(SHAPE[1])) > 50] = UNLABELED
        found = vol3d.check(IMAGE, repaint(sparse, (2, 29), content, crossing((2, 29))), unlabeled=UNLABELED)
        assert kinds(found) == ["half_painted"]
        assert found.findings[0].where == ("z=29",)
        assert said in found.findings[0].what


def test_slices_painted_in_part_on_purpose_are_not_reported():
    sparse = np.full_like(CODES, UNLABELED)
    for index in (15, 29):
        sparse[:, :25, index] = CODES[:, :25, index]
    assert vol3d.check(IMAGE, sparse, unlabeled=UNLABELED).findings == ()


@pytest.mark.parametrize("plane", [(0, 24), (1, 26), (2, 15)])
@pytest.mark.parametrize("upper", [False, True])
def test_content_that_ends_at_a_straight_line(plane, upper):
    content = CODES[across(*plane)].copy()
    content[(slice(31, None) if upper else slice(None, 20))] = 0
    other = "yxx"[plane[0]]
    found = vol3d.check(IMAGE, repaint(SPARSE.copy(), plane, content, crossing(plane)), unlabeled=UNLABELED)
    finding = one(found, "cut_short")
    assert kinds(found) == ["cut_short"]
    assert finding.where == (f"{'xyz'[plane[0]]}={plane[1]}",)
    assert f"line {other}={30 if upper else 20}" in finding.what


def test_content_that_ends_where_the_image_does_is_no_cut():
    image, codes = body()
    image[:, 30:, :] = 20 + image[:, 30:, :] // 12
    codes[:, 30:, :] = 0
    assert "cut_short" not in kinds(vol3d.check(image, painted(codes), unlabeled=UNLABELED))


@pytest.mark.parametrize("plane", [(0, 37), (1, 26), (2, 15)])
@pytest.mark.parametrize("damage", ["mirrored", "other slice", "shifted"])
def test_slices_that_contradict_each_other(plane, damage):
    axis, index = plane
    content = {
        "mirrored": CODES[across(*plane)][::-1, ::-1],
        "other slice": CODES[across(axis, index - 9)],
        "shifted": np.roll(CODES[across(*plane)], 7, axis=1),
    }[damage]
    name = f"{'xyz'[axis]}={index}"
    for over in (crossing(plane), ()):  # painted first, or last
        found = vol3d.check(IMAGE, repaint(SPARSE.copy(), plane, content, over), unlabeled=UNLABELED)
        finding = one(found, "contradiction")
        assert finding.where[0] == name, finding
        assert set(finding.where[1:]) <= {f"{'xyz'[a]}={i}" for a, i in crossing(plane)}
        assert found.exit_code() == 0
        assert found.exit_code(strict=True) == 1


def test_a_thin_thing_that_the_image_has_is_no_contradiction():
    image, codes = body()
    codes[24][codes[24] > 0] = 0  # a gap, one voxel wide, where a painted plane runs
    image[24] = np.random.default_rng(1).normal(25, 5, image[24].shape).clip(0, 255)
    planes = [(a, i) for a, n in PLANES.items() for i in n]
    assert contradictions(painted(codes), UNLABELED, image[None], planes) == []
    blurred = np.full_like(image, 100)[None]
    found = contradictions(painted(codes), UNLABELED, blurred, planes)
    assert {c.second for c in found} == {(0, 24)}
    assert all(c.voxels > 1.5 * c.usual + 3 for c in found)


def test_copied_labels_and_copied_images():
    content = CODES[across(0, 24)]
    sparse = repaint(SPARSE.copy(), (0, 37), content, crossing((0, 37)))
    found = vol3d.check(IMAGE, sparse, unlabeled=UNLABELED)
    assert one(found, "copied_labels").where == ("x=24", "x=37")
    image = IMAGE.copy()
    image[37] = image[24]
    found = vol3d.check(image, sparse, unlabeled=UNLABELED)
    assert "copied_labels" not in kinds(found)
    assert one(found, "copied_image").where == ("x=24", "x=37")
    assert one(found, "copied_image").severity == "warning"
    image = IMAGE.copy()
    image[..., 5] = image[..., 4]
    image[..., :2] = 0  # blank slices are not copies
    found = vol3d.check(image, SPARSE, unlabeled=UNLABELED)
    assert kinds(found) == ["copied_image"]
    assert found.findings[0].where == ("z=4", "z=5")
    assert found.findings[0].severity == "note"


def test_an_image_that_is_its_own_mirror_image():
    image = np.concatenate([IMAGE, IMAGE[::-1]])
    codes = np.concatenate([CODES, CODES[::-1]])
    sparse = painted(codes, {0: (20, 79), 2: (15, 29)})
    found = vol3d.check(image, sparse, unlabeled=UNLABELED)
    assert kinds(found) == ["mirrored_image"]
    assert found.findings[0].where == ("x=49.5",)


def test_copies_and_same_slices_find_every_pair():
    classes = np.full((9, 9, 9), 2, np.uint8)
    for index in (1, 4, 7):
        classes[..., index] = np.arange(81).reshape(9, 9) % 2
    classes[3, :, 4] = 0  # a plane that crosses
    planes = [(0, 3), (2, 1), (2, 4), (2, 7)]
    assert copies(classes, 2, planes) == [((2, 1), (2, 4)), ((2, 1), (2, 7))]
    assert copies(classes, 2, planes[1:]) == [((2, 1), (2, 7))]
    image = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float32)
    image[:, :, 4] = image[:, :, 1]
    assert same_slices(image) == [((1, 1), (1, 4))]
    image[1, 0, 4, 0] += 1
    assert same_slices(image) == []


def test_slices_side_by_side():
    found = vol3d.check(IMAGE, painted(CODES, {0: (12, 13, 14, 30), 2: (15, 29)}), unlabeled=UNLABELED)
    assert kinds(found) == ["side_by_side"]
    assert found.findings[0].where == ("x=12", "x=13", "x=14")
    assert found.exit_code(strict=True) == 0


@pytest.mark.parametrize(
    ("slices", "where"),
    [((4, 8, 12, 40, 44), "z=26"), ((3, 6, 9, 12), "z=45"), ((30, 34, 38, 42), "z=0")],
)
def test_a_large_gap(slices, where):
    image, codes = (np.ascontiguousarray(a) for a in body())
    found = check(
        image, painted(codes, {2: slices}), config=LabelsConfig(unlabeled=(UNLABELED,)), spacing_mm=(1, 1, 2.5)
    )
    finding = one(found, "gap")
    assert finding.where == (where,)
    steps = min(abs(int(where[2:]) - i) for i in slices)
    assert f"{steps} slices ({2.5 * steps:g} mm)" in finding.what
    assert found.farthest.slices == steps
    both = check(image, painted(codes, {2: slices, 0: (10, 25, 40)}), config=LabelsConfig(unlabeled=(UNLABELED,)))
    assert "gap" not in kinds(both)  # what crosses the gap is near


# ----------------------------------------------------------------------------------------------- declared slices


def test_declared_slices_that_hold_only_background():
    labels = np.where(mask_of(), CODES, 0).astype(np.uint8)
    found = vol3d.check(IMAGE, labels, annotated_slices={"x": (12, 24, 37), "y": (13, 26, 40), "z": (16, 29, 44)})
    assert kinds(found) == ["only_background", "only_background", "not_declared"]
    blank = {f.where[0]: f for f in found.findings if f.kind == "only_background"}
    assert set(blank) == {"z=16", "z=44"}
    assert "z=15" in blank["z=16"].remedy
    assert "leave it out" in blank["z=44"].remedy
    assert one(found, "not_declared").where == ("z=15",)
    assert "z=15,16,29,44" in one(found, "not_declared").remedy


def test_declared_slices_that_do_not_exist_and_strange_codes():
    found = vol3d.check(IMAGE, SPARSE, unlabeled=UNLABELED, annotated_slices={"z": (99,)})
    assert len(found.problems) == 1
    assert "z=99 does not exist" in found.problems[0]
    assert found.exit_code() == 2
    assert found.findings[0].severity == "problem"
    config = LabelsConfig(unlabeled=(UNLABELED,), classes=[ClassConfig(code=c, name=str(c)) for c in (0, 1, 2)])
    assert "holds code 3, which is neither" in check(IMAGE, SPARSE, config=config).problems[0]
    config = LabelsConfig(annotated_slices={"z": (0,)}, classes=[ClassConfig(code=c, name=str(c)) for c in (0, 1)])
    assert not check(IMAGE, CODES, config=config).problems  # code 3 lies outside the annotated slice


# ----------------------------------------------------------------------------------------------- zero


def test_what_zero_is_in_numbers():
    flat = np.where(mask_of(), CODES, 0).astype(np.uint8)
    found = vol3d.check(IMAGE, flat)
    inside = float((flat[mask_of()] == 0).mean())
    assert found.evidence.inside == pytest.approx(inside)
    assert (found.evidence.outside, found.evidence.held) == (1.0, 1.0)
    option = "--annotated-slices x=12,24,37 y=13,26,40 z=15,29"
    assert found.evidence.option == option
    assert f"0 fills {100 * inside:.0f} % of the 8 planes that hold all other codes" in found.zero
    assert option in found.zero
    assert kinds(found) == ["refused"]
    shown = vol3d.check(IMAGE, np.where(mask_of(), CODES + 1, 0).astype(np.uint8))
    assert shown.evidence.option == "--unlabeled 0"
    assert vol3d.check(IMAGE, np.where(CODES == 2, CODES, 0)).evidence.option == "--dense"


def test_zero_stated_to_be_background_against_all_evidence():
    flat = np.where(mask_of(), CODES, 0).astype(np.uint8)
    found = vol3d.check(IMAGE, flat, dense=True)
    assert one(found, "zero").severity == "warning"
    assert "--annotated-slices x=12,24,37 y=13,26,40 z=15,29" in one(found, "zero").remedy
    assert "as stated; it fills" in found.zero
    assert "zero" not in kinds(vol3d.check(IMAGE, CODES, dense=True))
    named = Volume(flat[None], Affine.from_spacing((1, 1, 1)), "drawn", attributes={"class_names": {"0": "lumen"}})
    assert "0 is a class (lumen), as stated" in vol3d.check(IMAGE, named, dense=True).zero
    assert "zero" not in kinds(vol3d.check(IMAGE, flat, unlabeled=0))


# ----------------------------------------------------------------------------------------------- names, output


def turned_case(folder, kind):
    """Image and labels on disk as `kind` stores them: (files, plane names to expect of the damaged slices)."""
    damaged = repaint(SPARSE.copy(), (1, 26), CODES[across(1, 26)][::-1], crossing((1, 26)))
    damaged[across(2, 29)][:, 22:] = UNLABELED
    for plane in crossing((2, 29)):
        damaged[across(*plane)][...] = np.where(
            damaged[across(*plane)] == UNLABELED, CODES[across(*plane)], damaged[across(*plane)]
        )
    if kind == "hdf5":
        for name, array in (("raw", IMAGE), ("label", damaged)):
            with h5py.File(folder / "case.h5", "a") as file:
                file[name] = array.transpose(2, 1, 0)
                file[name].attrs["element_size_um"] = (3.0, 1.0, 2.0)
        return [f"{folder}/case.h5:raw", f"{folder}/case.h5:label"], "y=26", "z=29", (2e-3, 1e-3, 3e-3)
    matrix = np.diag([-2.0, -1.0, 3.0, 1.0])
    order, names = (0, 1, 2), ("y=26", "z=29", (2, 1, 3))
    if kind == "permuted":  # stored as z, x, y, the second one reversed
        matrix = np.array([[0, -2, 0, 90], [0, 0, 1, 0], [3, 0, 0, 0], [0, 0, 0, 1.0]])
        order, names = (2, 0, 1), ("z=26", "x=29", (3, 2, 1))
    files = []
    for name, array in (("scan", IMAGE), ("labels", damaged)):
        files.append(str(folder / f"{name}.nii.gz"))
        nibabel.save(nibabel.Nifti1Image(array.transpose(order), matrix), files[-1])
    return files, *names


@pytest.mark.parametrize("kind", ["LPS", "permuted", "hdf5"])
def test_slices_are_named_in_the_axes_of_the_file(tmp_path, capsys, kind):
    files, contradicting, half, spacing = turned_case(tmp_path, kind)
    assert main(["check", *files, "--unlabeled", str(UNLABELED), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    found = {finding["kind"]: finding for finding in facts["findings"]}
    assert found.keys() == {"contradiction", "half_painted"}
    assert found["contradiction"]["where"][0] == contradicting
    assert found["half_painted"]["where"] == [half]
    assert main(["info", files[1], "--json"]) == 0
    axes = json.loads(capsys.readouterr().out)["axes"]
    assert [axis["spacing_mm"] for axis in axes] == pytest.approx(list(spacing))
    sizes = {axis["axis"]: axis["size"] for axis in axes}
    assert sizes[half[0]] == SHAPE[2]
    assert sizes[contradicting[0]] == SHAPE[1]


def test_exit_codes_and_json(tmp_path, capsys):
    content = CODES[across(2, 15)][::-1]
    scan = Volume(IMAGE[None], Affine.from_spacing((1, 1, 2)), "scan")
    cases = {
        "fine": SPARSE,
        "warned": repaint(SPARSE.copy(), (2, 15), content),
        "refused": np.where(mask_of(), CODES, 0).astype(np.uint8),
    }
    io.write_image(str(tmp_path / "scan.nii.gz"), IMAGE[None], scan)
    for name, (plain, strict) in {"fine": (0, 0), "warned": (0, 1), "refused": (2, 2)}.items():
        path = str(tmp_path / f"{name}.nii.gz")
        io.write_labels(path, cases[name], scan, names={})
        command = ["check", str(tmp_path / "scan.nii.gz"), path]
        command += ["--unlabeled", str(UNLABELED)] if name != "refused" else []
        assert main(command) == plain
        text = capsys.readouterr().out
        assert main([*command, "--strict"]) == strict
        capsys.readouterr()
        assert main([*command, "--strict", "--json"]) == strict
        facts = json.loads(capsys.readouterr().out)
        assert (facts["exit_code"], facts["exit_code_strict"]) == (plain, strict)
        assert sum(facts["counts"].values()) == len(facts["findings"])
        lines = text.splitlines()
        assert all(any(line.startswith(f"{f['severity']}: ") for line in lines) for f in facts["findings"])
        assert ("no problem found" in text) == (plain == 0)
        assert (lines[-1] == "no problem found, 1 warning") == (name == "warned")


def test_coverage_in_numbers():
    found = vol3d.check(IMAGE, SPARSE, unlabeled=UNLABELED)
    assert [code.code for code in found.codes] == [0, 1, 2, 3, UNLABELED]
    labeled = SPARSE != UNLABELED
    for code in found.codes[:-1]:
        here = np.equal(SPARSE, code.code)
        where = np.argwhere(here)
        assert code.voxels == here.sum()
        assert code.labeled_share == pytest.approx(here.sum() / labeled.sum())
        assert code.extent == tuple(zip(where.min(0).tolist(), where.max(0).tolist(), strict=True))
        for axis in range(3):
            inside = [i for i in PLANES[axis] if here[across(axis, i)].any()]
            assert code.painted_slices[axis] == len(inside)
            assert code.slices[axis] == len(set(where[:, axis]))
    facts = found.to_json()
    assert [plane["slice"] for plane in facts["painted_slices"]] == [
        f"{'xyz'[a]}={i}" for a, n in PLANES.items() for i in n
    ]
    for plane in facts["painted_slices"]:
        values = SPARSE[across("xyz".index(plane["slice"][0]), int(plane["slice"][2:]))]
        expected = {str(c): int((values == c).sum()) for c in range(4) if (values == c).any()}
        assert plane["codes"] == expected
    table = found.table()
    assert {len(line) for line in table} == {7}
    assert len(table) == 1 + len(found.codes)
    assert "(" in table[1][4]


def test_large_codes_are_counted_too():
    wide = SPARSE.astype(np.uint32)
    wide[wide == 3] = 3_000_000_000
    found = vol3d.check(IMAGE, wide, unlabeled=UNLABELED)
    assert {code.code: code.voxels for code in found.codes}[3_000_000_000] == (SPARSE == 3).sum()
    assert found.findings == ()


def test_codes_that_leave_a_choice_are_named_so():
    choice = np.where(SPARSE == 3, 250, SPARSE).astype(np.uint8)
    found = check(IMAGE, choice, config=LabelsConfig(unlabeled=(UNLABELED,), one_of={250: (1, 2)}))
    assert {code.code: code.name for code in found.codes}[250] == "one of 1 or 2"
    certain = (choice != UNLABELED) & (choice != 250)
    assert found.labeled_share == pytest.approx(certain.mean())
    hidden = check(IMAGE, SPARSE, config=LabelsConfig(unlabeled=(UNLABELED,), not_painted={"label*": (3,)}))
    assert f"holds {(SPARSE == 3).sum()} voxels of code 3" in hidden.problems[0]
    assert hidden.zero == "0 is 0 or 3, as stated"


def test_an_image_on_another_grid_is_a_problem_and_its_values_are_left_alone():
    sparse = repaint(SPARSE.copy(), (2, 15), CODES[across(2, 15)][::-1, ::-1])
    found = vol3d.check(IMAGE[1:], sparse, unlabeled=UNLABELED)
    assert kinds(found) == ["refused"]
    assert "not on one grid" in found.problems[0]
    assert found.exit_code() == 2


def test_a_drawn_table_on_a_terminal(monkeypatch, capsys, tmp_path):
    scan = Volume(IMAGE[None], Affine.from_spacing((1, 1, 1)), "scan")
    io.write_image(str(tmp_path / "scan.nii.gz"), IMAGE[None], scan)
    io.write_labels(str(tmp_path / "labels.nii.gz"), SPARSE, scan, names={})
    command = ["check", str(tmp_path / "scan.nii.gz"), str(tmp_path / "labels.nii.gz"), "--unlabeled", str(UNLABELED)]
    assert main(command) == 0
    assert "code 1 (class 1): " in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "140")
    assert main(command) == 0
    drawn = capsys.readouterr().out
    assert "code 1 (class 1): " not in drawn
    assert "% of labeled" in drawn


def test_help_tells_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    text = capsys.readouterr().out
    assert "Exit codes" in text
    assert "--strict" in text


def test_no_torch_and_little_memory():
    code = (
        "import sys, numpy as np, vol3d\n"
        "vol3d.check(np.zeros((9, 9, 9), np.float32), np.ones((9, 9, 9), np.uint8), dense=True)\n"
        "print(sorted({'torch', 'monai', 'skimage', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    image, codes = body((90, 80, 70))
    sparse = painted(codes, {0: (30, 60), 2: (30, 50)})
    tracemalloc.start()
    vol3d.check(image, sparse, unlabeled=UNLABELED)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * codes.size
