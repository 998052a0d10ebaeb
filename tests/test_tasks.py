"""Tasks other than one class per voxel, 2-D networks on volumes, and every kind of network: trained and predicted."""

import json

import nibabel
import numpy as np
import pytest
from workflow_parts import TINY, UNLABELED, balls, painted

import vol3d
from vol3d import io
from vol3d.bundle import ModelBundle
from vol3d.cli.main import main
from vol3d.config import AugmentConfig, InferenceConfig, parse_config
from vol3d.errors import ConfigError, LabelError, ModelError, ResourceError
from vol3d.metrics.instances import instance_scores
from vol3d.transforms import Preprocessing
from vol3d.volume import Affine, SparseLabels, Volume
from vol3d.workflows.case import Case
from vol3d.workflows.cases import TrainingFiles, load
from vol3d.workflows.device import Device
from vol3d.workflows.gaps import with_border_weights
from vol3d.workflows.labels import decide
from vol3d.workflows.listener import Quiet
from vol3d.workflows.objects import decide_objects
from vol3d.workflows.patches import PatchCutter, TrainingCase
from vol3d.workflows.plan import Grid, make_plan
from vol3d.workflows.planned import SizedNetwork, small_network
from vol3d.workflows.targets import decide_targets
from vol3d.workflows.tiling import tile_plans, trained_patch

pytestmark = pytest.mark.usefixtures("blank_pictures")

NOTHING = 65535
CPU = Device("cpu", "float32")
ALONE = TINY | {"pixel_classifier": {"use": "no"}}


def numbered(shape=(30, 28, 26)):
    """(image, object numbers): a grid of bright cubes with gaps."""
    numbers = np.zeros(shape, np.uint16)
    for number, corner in enumerate(np.ndindex(3, 3, 2), 1):
        x, y, z = (3 + 9 * c for c in corner)
        numbers[x : x + 6, y : y + 6, z : z + 6] = number
    noise = np.random.default_rng(0).normal(0, 0.2, shape)
    return ((numbers > 0) * 2 + noise).astype(np.float32), numbers


def sparse(values, unlabeled, count=4):
    mask = np.zeros(values.shape, bool)
    for axis in range(3):
        for index in np.linspace(3, values.shape[axis] - 4, count).round().astype(int):
            mask[(slice(None),) * axis + (index,)] = True
    return np.where(mask, values, unlabeled).astype(values.dtype)


def volume(array, name="labels"):
    return Volume(array[None], Affine.from_spacing((1.0, 1.0, 1.0)), name)


def longer(iterations, **changes):
    return TINY | {"training": TINY["training"] | {"iterations": iterations}} | changes


def test_instances_from_sparse_slices(tmp_path):
    image, numbers = numbered()
    config = longer(100, task="instances", network={"encoder": [[8, 8], [16, 16]]})
    run = vol3d.train(image, sparse(numbers, NOTHING), unlabeled=NOTHING, config=config, output=tmp_path / "run")
    bundle = vol3d.load_model(run.run)
    assert bundle.task.kind == "instances"
    assert bundle.labels.names == ("background", "object inside", "object border")
    result = vol3d.predict(image, bundle)
    assert result.codes.dtype == np.uint16
    assert instance_scores(result.codes, numbers).f1[0.5] > 0.5
    tiled = vol3d.predict(image, bundle, tile=(16, 16, 16))
    assert instance_scores(tiled.codes, result.codes).f1[0.5] > 0.5


def test_instances_are_written_without_class_names_and_looked_at(tmp_path):
    image, numbers = numbered()
    config = longer(8, task="instances")
    run = vol3d.train(image, sparse(numbers, NOTHING), unlabeled=NOTHING, config=config, output=tmp_path / "run")
    scan = str(tmp_path / "scan.nii.gz")
    io.write_image(scan, image[None], volume(image))
    result = vol3d.predict(scan, run.bundle, probabilities=True)
    assert result.path == str(tmp_path / "scan_seg.nii.gz")
    assert result.preview.is_file()
    assert np.array_equal(np.asarray(nibabel.load(result.path).dataobj), result.codes)
    assert nibabel.load(result.path).get_data_dtype() == np.uint16
    assert nibabel.load(tmp_path / "scan_seg_probabilities.nii.gz").shape == (*image.shape, 3)


def test_panoptic_classes_and_numbers_in_one_map(tmp_path):
    image, numbers = numbered()
    codes = np.where(numbers > 0, np.where(numbers % 2 == 0, 2, 1), 0)
    image = image + (codes == 2) * 3
    encoded = (codes * 1000 + numbers).astype(np.uint32)
    config = longer(80, task="panoptic", network={"encoder": [[8, 8], [16, 16]]})
    run = vol3d.train(image, sparse(encoded, 99), unlabeled=99, config=config, output=tmp_path / "run")
    assert run.bundle.labels.names == (
        "background",
        "class 1 inside",
        "class 1 border",
        "class 2 inside",
        "class 2 border",
    )
    predicted = vol3d.predict(image, run.bundle).codes.astype(np.int64)
    assert set(np.unique(predicted // 1000)) <= {0, 1, 2}
    assert ((predicted % 1000 > 0) == (predicted // 1000 > 0)).all()
    agreed = predicted // 1000 == codes
    assert agreed.mean() > 0.8


def test_panoptic_classes_without_numbers_are_stuff():
    values = np.zeros((6, 6, 6), np.uint16)
    values[:3] = 1000
    values[3:, :3] = 2001
    meaning = decide_objects(
        [volume(values)], parse_config({"labels": {"dense": True}}).labels, parse_config({}).instances, panoptic=True
    )
    assert meaning.scheme.stuff == (0, 1)
    assert meaning.scheme.things == (2,)
    assert meaning.said.startswith("1 object in background, class 1, class 2")


@pytest.mark.parametrize("value", [0, 7])
def test_a_single_thing_or_nothing_is_refused(value):
    values = np.full((4, 4, 4), value, np.uint16)
    dense = parse_config({"labels": {"dense": True}}).labels
    with pytest.raises(LabelError, match="expected several objects"):
        decide_objects([volume(values)], dense, parse_config({}).instances, panoptic=False)


def test_objects_may_fill_the_whole_volume(tmp_path):
    values = np.ones((24, 24, 24), np.uint16)
    values[12:] = 2
    values[:, 12:] += 2
    image = np.ones(values.shape, np.float32)
    image[11:13], image[:, 11:13] = 0, 0
    config = longer(60, task="instances")
    run = vol3d.train(image, sparse(values, NOTHING), unlabeled=NOTHING, config=config, output=tmp_path / "run")
    found = vol3d.predict(image, run.bundle).codes
    assert (found > 0).mean() > 0.9
    assert instance_scores(found, values).f1[0.5] == 1


def test_regression_recovers_values_and_their_unit(tmp_path):
    image, _ = numbered()
    values = (100 + 40 * image).astype(np.float32)
    values[~np.isin(np.indices(values.shape)[2], (4, 9, 14, 19))] = np.nan
    config = longer(80, task="regression")
    run = vol3d.train(image, values, config=config, output=tmp_path / "run")
    assert run.bundle.task.mean == pytest.approx(np.nanmean(values), rel=1e-4)
    truth = 100 + 40 * image
    scan = str(tmp_path / "scan.nii.gz")
    io.write_image(scan, image[None], volume(image))
    result = vol3d.predict(scan, run.bundle)
    assert result.path == str(tmp_path / "scan_values.nii.gz")
    stored = nibabel.load(result.path)
    assert stored.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(stored.dataobj), result.codes)
    error = np.sqrt(np.mean((result.codes - truth) ** 2))
    assert error < 0.7 * truth.std()
    assert run.score.r2 > 0.3
    with pytest.raises(ConfigError, match="no class probabilities"):
        vol3d.predict(image, run.bundle, probabilities=True)


def test_what_stands_under_unknown_values_changes_nothing(tmp_path):
    image, _ = numbered()
    mask = np.indices(image.shape)[2] % 5 == 0
    hashes = set()
    for under, options in ((np.nan, {}), (7.0, {"unlabeled": 7})):
        values = np.where(mask, image, under).astype(np.float32)
        run = vol3d.train(image, values, config=longer(4, task="regression"), output=tmp_path / str(under), **options)
        hashes.add(run.bundle.weights_sha256)
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.full((4, 4, 4), np.nan, np.float32), "expected known values"),
        (np.where(np.arange(4) < 2, 1, np.nan).astype(np.float32).reshape(1, 2, 2), "expected values that differ"),
        (np.array([[[1.0, np.inf]]], np.float32), "found infinite ones"),
    ],
)
def test_values_that_teach_nothing_are_refused(values, match):
    with pytest.raises(LabelError, match=match):
        decide_targets([volume(values)], parse_config({}).labels)


@pytest.mark.parametrize("planes", [["z"], ["x"], ["x", "y", "z"]])
def test_a_2d_network_goes_slice_by_slice(planes, tmp_path):
    image, classes = balls()
    config = TINY | {
        "network": {"dimensions": 2, "encoder": [[4, 4], [8, 8]]},
        "sampling": {"patch_size": [16, 16], "batch_size": 4, "planes": planes},
    }
    run = vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=config, output=tmp_path / "run")
    bundle = ModelBundle.load(run.model)
    assert bundle.task.planes == tuple("xyz".index(letter) for letter in planes)
    result = vol3d.predict(image, bundle, probabilities=True)
    assert result.probabilities.shape == (2, *image.shape)
    assert np.allclose(result.probabilities.sum(0), 1, atol=1e-5)
    if planes == ["z"]:
        shuffled = image.copy()
        # the same values in another order, so that normalisation stays the same
        shuffled[..., 4] = np.random.default_rng(0).permutation(image[..., 4].ravel()).reshape(image.shape[:2])
        other = vol3d.predict(shuffled, bundle, probabilities=True).probabilities
        assert np.allclose(np.delete(other, 4, -1), np.delete(result.probabilities, 4, -1), atol=1e-5)


def test_a_2d_patch_lies_in_the_plane_that_was_painted():
    labeled = np.zeros((12, 12, 12), bool)
    labeled[5] = True
    labels = SparseLabels(np.ones(labeled.shape, np.uint8), labeled, Affine.from_spacing((1, 1, 1)))
    image = np.random.default_rng(0).random((1, *labeled.shape)).astype(np.float32)
    import torch

    case = Case("scan", torch.from_numpy(image), labels, (1.0, 1.0, 1.0), {})
    still = AugmentConfig(spatial_probability=0, gamma_probability=0, flip_probability=0)
    cut = PatchCutter((8, 8), (2, 2), still, (0, 1, 2))
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(40):
        patch = cut(TrainingCase(case, labels), (5, 6, 6), rng)
        assert patch["image"].shape == (1, 8, 8)
        assert patch["classes"].shape == patch["weight"].shape == (6, 6)
        shares.append(float(patch["weight"].mean()))
    assert np.mean(np.array(shares) == 1) > 0.7  # 144 of 168 labeled voxels around it lie in that plane
    assert all(share > 0 for share in shares)


KINDS = [
    "unet",
    "fcn",
    "unet_plus_plus",
    "unet3plus",
    "deeplab_v3_plus",
    "encoder_unet",
    {"monai": "SegResNet", "arguments": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}},
]


QUICK = {("unet", 3), ("fcn", 2), ("unet_plus_plus", 2), ("unet3plus", 2), ("deeplab_v3_plus", 2), ("monai", 3)}


def unless_quick(kind, dimensions):
    """The mark of a training that takes long: every kind is trained once without."""
    name = kind if isinstance(kind, str) else "monai"
    return [] if (name, dimensions) in QUICK else [pytest.mark.slow]


@pytest.mark.parametrize(
    ("kind", "dimensions"),
    [pytest.param(kind, size, marks=unless_quick(kind, size)) for size in (2, 3) for kind in KINDS],
    ids=str,
)
def test_every_kind_trains_saves_and_predicts(kind, dimensions, tmp_path):
    image, classes = balls()
    network = {"plan": kind, "width": 4} if isinstance(kind, str) else dict(kind)
    config = ALONE | {
        "network": network | {"dimensions": dimensions},
        "sampling": {"patch_size": [32] * dimensions, "batch_size": 2},
        "training": TINY["training"] | {"iterations": 2},
    }
    run = vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=config, output=tmp_path / "run")
    one = vol3d.predict(image, run.bundle, probabilities=True)
    two = vol3d.predict(image, ModelBundle.load(run.model), probabilities=True)
    assert np.array_equal(one.probabilities, two.probabilities)
    assert np.allclose(one.probabilities.sum(0), 1, atol=1e-5)


def test_a_unet_plus_plus_is_pruned_when_it_predicts(tmp_path):
    image, classes = balls()
    config = TINY | {"network": {"kind": "unet_plus_plus", "widths": [4, 8, 8]}}
    run = vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=config, output=tmp_path / "run")
    pruned = run.bundle.pruned(1)
    assert len(pruned.weights) < len(run.bundle.weights)
    assert vol3d.predict(image, pruned).codes.shape == image.shape
    with pytest.raises(ModelError):
        run.bundle.pruned(3)


def test_dropout_does_not_make_a_run_irreproducible(tmp_path):
    image, classes = balls()
    config = ALONE | {"network": {"plan": "fcn", "width": 2, "dimensions": 2}, "sampling": {"patch_size": [32, 32]}}
    config["training"] = TINY["training"] | {"iterations": 4, "validations": 1}
    runs = [
        vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=config, output=tmp_path / n, seed=3)
        for n in ("a", "b")
    ]
    assert runs[0].bundle.weights_sha256 == runs[1].bundle.weights_sha256


def test_border_weights_raise_the_gap_between_objects():
    classes = np.zeros((20, 20, 1), np.uint8)
    classes[2:9], classes[11:18] = 1, 1
    labeled = np.ones(classes.shape, bool)
    labels = SparseLabels(classes, labeled, Affine.from_spacing((1, 1, 1)))
    import torch

    case = Case("scan", torch.zeros(1, *classes.shape), labels, (1.0, 1.0, 1.0), {})
    meaning = decide([volume(classes)], parse_config({"labels": {"dense": True}}).labels)
    loss = parse_config({"loss": {"border": 10}}).loss
    weight = with_border_weights(case, meaning, loss).border
    assert weight[9, 10, 0] > 5 > weight[19, 10, 0] >= 1
    assert with_border_weights(case, meaning, parse_config({}).loss) is case
    with pytest.raises(ConfigError, match="codes among"):
        with_border_weights(case, meaning, parse_config({"loss": {"border": 1, "border_classes": [4]}}).loss)


def test_check_says_what_a_task_would_learn():
    image, numbers = numbered()
    found = vol3d.check(image, sparse(numbers, NOTHING), task="instances", unlabeled=NOTHING)
    assert found.meaning.startswith("18 objects in background, object; unlabeled: code 65535")
    assert not found.problems
    assert [len(planes) for planes in found.annotated_slices.values()] == [4, 4, 4]
    assert any(line.startswith("meaning: 18 objects") for line in found.lines())
    values = np.where(numbers > 0, image, np.nan)
    assert "NaN is unlabeled" in vol3d.check(image, values, task="regression").meaning
    refused = vol3d.check(image, np.full_like(values, np.nan), task="regression")
    assert "expected known values" in refused.problems[0]


def test_border_weights_lie_between_things_whatever_stuff_is_called():
    values = np.zeros((20, 20, 1), np.uint16)
    values[2:9], values[11:18] = 1001, 1002
    values[:, :4] = 2000
    labels = {"dense": True, "classes": [{"code": 1, "name": "cell"}, {"code": 2, "name": "tubule inside"}]}
    config = parse_config(
        {"task": "panoptic", "labels": labels | {"classes": [*labels["classes"], {"code": 0, "name": "gap"}]}}
    )
    cases, meaning = load(
        TrainingFiles((volume(np.random.default_rng(0).random(values.shape), "image"),), (volume(values),)),
        config,
        Preprocessing(),
        Quiet(),
    )
    assert "tubule inside" in meaning.table.names
    weight = with_border_weights(cases[0], meaning, parse_config({"loss": {"border": 10}}).loss).border
    assert weight[9, 12, 0] > 5
    assert weight[0, 4, 0] < 1.5  # beside stuff alone there is no gap between objects


GRID = [Grid((100, 100, 100), (0.127, 0.127, 0.284))]


@pytest.mark.parametrize(
    ("grid", "planes"),
    [
        (Grid((512, 512, 30), (4.0, 4.0, 50.0)), (2,)),
        (Grid((30, 512, 512), (50.0, 4.0, 4.0)), (0,)),
        (Grid((64, 64, 64), (1.0, 1.0, 1.2)), (0, 1, 2)),
        (Grid((64, 1, 64), (1.0, 1.0, 1.2)), (1,)),
    ],
)
def test_planes_follow_the_voxels(grid, planes):
    plan = make_plan(parse_config({"network": {"plan": "unet", "dimensions": 2}}), [grid], 1, ("a", "b"), CPU)
    assert plan.planes == planes
    assert len(plan.patch) == 2
    assert parse_config(plan.config.to_json()) == plan.config


def test_planes_are_named_by_the_axes_of_the_file():
    config = parse_config({"network": {"plan": "unet", "dimensions": 2}, "sampling": {"planes": ["z"]}})
    turned = [Grid((64, 64, 20), (1.0, 1.0, 1.0), (2, 0, 1))]
    plan = make_plan(config, turned, 1, ("a", "b"), CPU)
    assert plan.planes == (0,)  # the file's z became the first axis
    assert plan.config.sampling.planes == ("z",)
    assert make_plan(plan.config, turned, 1, ("a", "b"), CPU).planes == (0,)
    with pytest.raises(ConfigError, match="stored in different orders"):
        make_plan(config, [*turned, Grid((64, 64, 20), (1.0, 1.0, 1.0))], 1, ("a", "b"), CPU)


def test_planes_are_for_2d_networks():
    config = parse_config({"network": {"plan": "unet", "dimensions": 3}, "sampling": {"planes": ["z"]}})
    with pytest.raises(ConfigError, match="2 dimensions"):
        make_plan(config, GRID, 1, ("a", "b"), CPU)
    with pytest.raises(ConfigError, match="expected 2 sizes"):
        make_plan(
            parse_config({"network": {"plan": "fcn", "dimensions": 2}, "sampling": {"patch_size": [64, 64, 64]}}),
            GRID,
            1,
            ("a", "b"),
            CPU,
        )


@pytest.mark.parametrize("kind", ["unet", "fcn", "unet_plus_plus", "unet3plus", "deeplab_v3_plus", "encoder_unet"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_coarse_axis_is_not_strided_first(kind, dimensions):
    spacing = (1.0, 4.0) if dimensions == 2 else (1.0, 1.0, 4.0)
    network = small_network(SizedNetwork(kind, dimensions, 8), (64,) * dimensions, spacing)
    assert network.total_stride[-1] < network.total_stride[0]


def test_the_command_line_chooses_network_and_task(tmp_path, capsys):
    image, numbers = numbered()
    io.write_image(str(tmp_path / "scan.nii.gz"), image[None], volume(image))
    io.write_labels(str(tmp_path / "drawn.nii.gz"), sparse(numbers, NOTHING), volume(image), names=None)
    files = ["-i", str(tmp_path / "scan.nii.gz"), "-l", str(tmp_path / "drawn.nii.gz"), "--unlabeled", str(NOTHING)]
    args = ["--task", "instances", "--network", "unet_plus_plus", "--width", "4", "--dimensions", "2", "--planes", "z"]
    assert main(["train", *files, *args, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "unet_plus_plus, 2-D" in said
    assert "slice by slice across z" in said
    assert "outputs: 3" in said
    config = tmp_path / "full.yaml"
    config.write_text(json.dumps({"network": {"encoder": [[4], [8]]}}))
    assert main(["train", str(config), *files, "--width", "4", "--dry-run"]) == 2
    assert "describes its network in full" in capsys.readouterr().err


def test_border_weights_of_a_2d_network_are_those_of_its_planes():
    classes = np.zeros((24, 24, 4), np.uint8)
    for z in range(4):
        classes[:, :, z] = 1
        classes[11 + z, :, z] = 0  # a wall that moves: in 3-D the two sides are one object
        classes[:, 11 + z, z] = 0
    labels = SparseLabels(classes, np.ones(classes.shape, bool), Affine.from_spacing((1, 1, 1)))
    import torch

    case = Case("scan", torch.zeros(1, *classes.shape), labels, (1.0, 1.0, 1.0), {})
    meaning = decide([volume(classes)], parse_config({"labels": {"dense": True}}).labels)
    loss = parse_config({"loss": {"border": 10}}).loss
    assert with_border_weights(case, meaning, loss).border.max() == 1
    assert with_border_weights(case, meaning, loss, (2,)).border.max() > 8


def test_borders_survive_a_coarser_grid(tmp_path):
    numbers = np.ones((24, 12, 12), np.uint16)
    for k in range(4):
        numbers[6 * k : 6 * k + 6] = k + 1
    numbers[:, :2] = 0
    config = parse_config(
        {"task": "instances", "labels": {"dense": True}, "preprocess": {"spacing_mm": [3.0, 1.0, 1.0]}}
    )
    image = np.random.default_rng(0).random((1, *numbers.shape)).astype(np.float32)
    spaced = [Volume(a, Affine.from_spacing((1.0, 1.0, 1.0)), "a") for a in (image, numbers[None])]
    cases, meaning = load(
        TrainingFiles((spaced[0],), (spaced[1],)), config, Preprocessing(**config.preprocess.model_dump()), Quiet()
    )
    border = meaning.table.names.index("object border")
    assert cases[0].shape == (8, 12, 12)
    along = cases[0].labels.classes[:, 6, 6]
    assert (along == border).sum() == 6  # both sides of three walls


def test_a_thousand_objects_get_a_larger_divisor(tmp_path):
    image, numbers = numbered()
    values = np.where(numbers > 0, 10 + numbers % 9 + 1, 0).astype(np.uint16)
    config = longer(60, task="panoptic", instances={"divisor": 10, "min_volume_mm3": 1})
    run = vol3d.train(image, sparse(values, 99), unlabeled=99, config=config, output=tmp_path / "run")
    predicted = vol3d.predict(image, run.bundle).codes.astype(np.int64)
    counted = len(np.unique(predicted[predicted > 0]))
    divisor = 10 if counted < 10 else 100
    assert set(np.unique(predicted // divisor)) <= {0, 1}


def test_values_do_not_replace_the_scan_in_an_hdf5_file(tmp_path):
    image, _ = numbered()
    file = str(tmp_path / "scan.h5")
    io.write_image(f"{file}:raw", image[None], volume(image))
    run = vol3d.train(image, image + 0, dense=True, config=longer(2, task="regression"), output=tmp_path / "run")
    result = vol3d.predict(f"{file}:raw", run.bundle, file)
    assert result.path == f"{file}:values"
    assert np.array_equal(io.read(f"{file}:raw").array[0], image)
    assert np.array_equal(io.read_target(file).array[0], result.codes)
    assert vol3d.evaluate(f"{file}:values", f"{file}:raw", task="regression").scores.rmse > 0


def test_a_value_that_covers_most_of_a_file_is_not_taken_for_one():
    values = np.zeros((8, 8, 8), np.float32)
    values[4] = 20
    with pytest.raises(LabelError, match=r"value 0 covers 87.5 % .* --unlabeled 0"):
        decide_targets([volume(values)], parse_config({}).labels)
    for labels in ({"dense": True}, {"annotated_slices": {"x": [3, 4]}}):
        decide_targets([volume(values)], parse_config({"labels": labels}).labels)


def test_objects_that_need_too_much_memory_are_refused_before_the_work(tmp_path):
    image, numbers = numbered()
    run = vol3d.train(
        image, sparse(numbers, NOTHING), unlabeled=NOTHING, config=longer(2, task="instances"), output=tmp_path / "run"
    )
    with pytest.raises(ResourceError, match=r"telling objects apart takes about 0\.0011 GB"):
        vol3d.predict(image, run.bundle, max_memory_gb=0.001)


@pytest.mark.parametrize(
    "config",
    [
        {"task": "regression", "loss": {"dice": 1}},
        {"task": "regression", "loss": {"class_weights": "none"}},
        {"task": "instances", "instances": {"things": [1]}},
        {"instances": {"divisor": 10}},
        {"loss": {"regression": "mse"}},
        {"loss": {"border": float("inf")}},
    ],
    ids=str,
)
def test_what_a_task_cannot_use_is_refused(config):
    with pytest.raises(ConfigError):
        parse_config(config)


def test_held_out_slices_are_named_as_the_file_counts_them():
    case = Case(
        "scan",
        None,
        SparseLabels(np.zeros((10, 8, 6), np.uint8), np.ones((10, 8, 6), bool), Affine.from_spacing((1, 1, 1))),
        (1.0, 1.0, 1.0),
        {"shape": [8, 6, 20], "order": (2, 0, 1), "flips": (True, False, False)},
    )
    assert case.file_plane(1, 3) == "x=3"
    assert case.file_plane(2, 5) == "y=5"
    assert case.file_plane(0, 0) == "z=19"  # every second plane of a reversed axis
    assert case.file_plane(0, 9) == "z=1"


def test_a_width_that_was_asked_for_is_kept_on_a_gpu():
    gpu = Device("cuda:0", "bf16")
    plan = make_plan(parse_config({"network": {"plan": "unet", "width": 8}}), GRID, 1, ("a", "b"), gpu)
    assert plan.network.encoder[:2] == ((8,), (16, 16))


def test_planes_stay_open_where_files_are_stored_differently():
    grids = [Grid((64, 64, 20), (1.0, 1.0, 5.0), order) for order in ((0, 1, 2), (2, 0, 1))]
    plan = make_plan(parse_config({"network": {"plan": "unet", "dimensions": 2}}), grids, 1, ("a", "b"), CPU)
    assert plan.planes == (2,)
    assert plan.config.sampling.planes is None
    assert make_plan(plan.config, grids, 1, ("a", "b"), CPU).planes == (2,)


def test_too_small_a_patch_is_no_other_network():
    with pytest.raises(ConfigError, match="needs two levels"):
        small_network(SizedNetwork("unet_plus_plus", 3), (7, 7, 7), (1.0, 1.0, 1.0))


@pytest.mark.slow
def test_encoder_weights_are_found_from_anywhere_and_recorded(tmp_path):
    from safetensors.torch import save_file

    from vol3d.config import EncoderUNetConfig
    from vol3d.networks import build
    from vol3d.workflows.settings import settle

    image, classes = balls()
    trunk = build(EncoderUNetConfig(encoder="resnet18"), 1, 2).encoder.trunk
    save_file({name: value.contiguous() for name, value in trunk.state_dict().items()}, tmp_path / "r18.safetensors")
    config = TINY | {
        "network": {"kind": "encoder_unet", "encoder": "resnet18", "encoder_weights": "r18.safetensors"},
        "sampling": {"patch_size": [32, 32, 32], "batch_size": 1},
        "training": TINY["training"] | {"iterations": 1},
    }
    (tmp_path / "encoder.yaml").write_text(json.dumps(config))
    settled = settle(tmp_path / "encoder.yaml", {}, ())
    assert settled.network.encoder_weights == str(tmp_path / "r18.safetensors")
    run = vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=settled, output=tmp_path / "run")
    assert run.bundle.network.encoder_weights is None
    assert len(run.bundle.provenance["encoder_weights_sha256"]) == 64


@pytest.mark.parametrize(
    ("network", "local"),
    [
        ({"encoder": [[4, 4], [8, 8]]}, True),
        pytest.param({"encoder": [[4, 4], [8, 8]], "normalization": "instance"}, False, marks=pytest.mark.slow),
        ({"encoder": [[4], [8]], "normalization": "instance", "padding": "valid"}, False),
        pytest.param(
            {"kind": "unet3plus", "widths": [4, 8], "joined": 4, "classification_guided": True},
            False,
            marks=pytest.mark.slow,
        ),
        ({"kind": "deeplab_v3_plus", "encoder": "resnet18", "width": 4, "aspp": 8}, False),
    ],
    ids=lambda value: str(value)[:50],
)
def test_networks_that_see_all_of_their_input_get_tiles_of_their_patches(network, local, tmp_path):
    image, classes = balls((70, 40, 40))
    config = TINY | {"network": network, "sampling": {"patch_size": [32, 32, 32], "batch_size": 2}}
    config["training"] = TINY["training"] | {"iterations": 2}
    run = vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=config, output=tmp_path / "run")
    assert run.bundle.training_range["patch"] == [32, 32, 32]
    built = run.bundle.build()
    assert built.local is local
    plan = tile_plans(built, image.shape, CPU, InferenceConfig(), (), trained_patch(run.bundle))[0]
    assert (plan.size == (32, 32, 32)) is not local
    by_patch = vol3d.predict(image, run.bundle, tile=(32, 32, 32), probabilities=True).probabilities
    ours = vol3d.predict(image, run.bundle, probabilities=True).probabilities
    assert np.array_equal(ours, by_patch) is not local


def test_statistics_of_the_tile_itself_are_those_of_a_patch(tmp_path):
    image, classes = balls((70, 40, 40))
    config = TINY | {"network": {"encoder": [[4], [8]], "padding": "valid"}, "sampling": {"patch_size": [32, 32, 32]}}
    config["training"] = TINY["training"] | {"iterations": 2, "batch_statistics": "current"}
    run = vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=config, output=tmp_path / "run")
    patch = trained_patch(run.bundle)
    assert tile_plans(run.bundle.build(), image.shape, CPU, InferenceConfig(), (), patch)[0].size == (32, 32, 32)
    wanted = InferenceConfig(tile=(24, 24, 24))
    assert tile_plans(run.bundle.build(), image.shape, CPU, wanted, (), patch)[0].size == (24, 24, 24)


def test_answers_of_local_networks_do_not_change_with_distant_voxels():
    import torch
    from network_parts import SMALL

    from vol3d.networks import build

    for make in SMALL.values():
        network = build(make(2), 1, 2).eval()
        size = network.input_size((192, 32))
        image = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0))
        other = image.clone()
        other[..., -8:, :] += 100
        with torch.no_grad():
            change = (network(other) - network(image)).abs()[:, :, :8].max()
        if not network.local:
            continue
        assert float(change) < 1e-4, network.config
