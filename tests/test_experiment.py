"""Experiments: what trains is never scored, rows survive, refusals are one line."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from workflow_parts import TINY, UNLABELED, balls, painted, write_case, write_config

import vol3d
from vol3d.cli.main import main
from vol3d.config import parse_config
from vol3d.errors import ConfigError, FileFormatError, TrainingError
from vol3d.report.experiment_rows import ExperimentRow, RowsFile
from vol3d.volume import Affine, LabelTable, Volume
from vol3d.workflows import experiment_run
from vol3d.workflows.experiment import run_experiment
from vol3d.workflows.experiment_kinds import KINDS, Choices, Subject, Variant, plan_rows
from vol3d.workflows.experiment_run import Material, row_config, set_normalization
from vol3d.workflows.experiment_splits import (
    ALL_SCORED,
    ALL_TRAIN,
    PlaneSplit,
    dense_set,
    fold_splits,
    growing_sets,
    parse_counts,
    planes_mask,
    pool_of,
    reserve,
    sparse_set,
)

pytestmark = pytest.mark.usefixtures("single_threaded", "blank_pictures")

SHAPE = (7, 6, 5)
PLANES = st.integers(0, 2).flatmap(lambda axis: st.tuples(st.just(axis), st.integers(0, SHAPE[axis] - 1)))
SOME = st.lists(PLANES, unique=True, max_size=8).map(tuple)


# --- which voxels train, which are scored -----------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    labeled=arrays(np.bool_, SHAPE),
    split=st.builds(PlaneSplit, learn=st.none() | SOME, held=st.none() | SOME, apart=SOME),
)
def test_no_voxel_trains_and_is_scored(labeled, split):
    training, scored = split.masks(labeled)
    assert not (training & scored).any()
    assert not ((training | scored) & ~labeled).any()


@settings(max_examples=30)
@given(slices=st.lists(PLANES, unique=True, min_size=4, max_size=10), folds=st.integers(2, 4), noise=st.booleans())
def test_folds_score_every_slice_once_and_crossings_never(slices, folds, noise):
    labeled = planes_mask(SHAPE, slices)
    if noise:
        labeled[0, 0, 0] = True
    pool = pool_of(labeled)
    splits = [split for (split,) in fold_splits([labeled], folds, [pool])]
    times = np.zeros(SHAPE, int)
    for split in splits:
        training, scored = split.masks(labeled)
        held = planes_mask(SHAPE, split.held)
        assert not (training & held).any()
        assert not (scored & planes_mask(SHAPE, split.apart)).any()
        assert np.array_equal(training, labeled & ~held)
        times += scored
    assert sorted(plane for split in splits for plane in split.held) == sorted(pool)
    assert times.max() <= 1
    sizes = [len(split.held) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    crossed = sum(planes_mask(SHAPE, [plane]).astype(int) for plane in pool)
    assert (times[labeled & (crossed == 1)] == 1).all()


def test_folds_count_on_over_volumes():
    masks = [planes_mask(SHAPE, [(0, 1), (1, 2), (2, 3), (0, 5)][:n]) for n in (4, 1)]
    pools = [pool_of(mask) for mask in masks]
    splits = fold_splits(masks, 5, pools)
    assert [sum(len(split.held) for split in fold) for fold in splits] == [1] * 5
    with pytest.raises(ConfigError, match=r"6 folds need at least 6 annotated slices .* found 5"):
        fold_splits(masks, 6, pools)


@settings(max_examples=30)
@given(slices=st.lists(PLANES, unique=True, min_size=3, max_size=12), every=st.integers(2, 4))
def test_sets_of_painted_slices_are_scored_on_the_same_others(slices, every):
    labeled = planes_mask(SHAPE, slices)
    pool, held = reserve(pool_of(labeled), every)
    assert held
    assert not set(pool) & set(held)
    scored = []
    for counts in growing_sets(pool):
        chosen = sparse_set(pool, counts)
        assert len(set(chosen)) == sum(counts)
        assert set(chosen) <= set(pool)
        training, score = PlaneSplit(chosen, held, pool).masks(labeled)
        assert not (training & planes_mask(SHAPE, held)).any()
        assert not (score & planes_mask(SHAPE, pool)).any()
        scored.append(score)
    assert all(np.array_equal(score, scored[0]) for score in scored)
    assert growing_sets(pool)[-1] == tuple(sum(axis == a for axis, _ in pool) for a in range(3))


@settings(max_examples=60)
@given(
    start=st.tuples(*[st.integers(0, n - 1) for n in SHAPE]),
    extent=st.tuples(*[st.integers(1, n) for n in SHAPE]),
    counts=st.tuples(*[st.integers(0, 7)] * 3),
)
def test_dense_sets_lie_within_the_foreground_and_are_distinct(start, extent, counts):
    filled = np.zeros(SHAPE, bool)
    filled[tuple(slice(a, a + n) for a, n in zip(start, extent, strict=True))] = True
    room = [min(n, size - a) for a, n, size in zip(start, extent, SHAPE, strict=True)]
    if any(count > has for count, has in zip(counts, room, strict=True)):
        with pytest.raises(ConfigError, match="expected at least"):
            dense_set(filled, counts)
        return
    planes = dense_set(filled, counts)
    assert len(set(planes)) == len(planes) == sum(counts)
    for axis, index in planes:
        assert start[axis] <= index < start[axis] + room[axis]


def test_dense_sets_are_those_of_the_benchmarks():
    filled = np.zeros((96, 88, 64), bool)
    filled[4:90, 10:80, 3:60] = True
    for counts in ((1, 1, 1), (3, 3, 2), (5, 5, 3)):
        spread = [
            (axis, round(low + (high - low) * (n + 0.5) / count))
            for axis, ((low, high), count) in enumerate(zip(((4, 89), (10, 79), (3, 59)), counts, strict=True))
            for n in range(count)
        ]
        assert [abs(a[1] - b[1]) <= 1 and a[0] == b[0] for a, b in zip(dense_set(filled, counts), spread, strict=True)]


def test_whole_volumes_train_or_are_scored():
    labeled = np.random.default_rng(0).random(SHAPE) < 0.4
    assert np.array_equal(ALL_TRAIN.masks(labeled)[0], labeled)
    assert not ALL_TRAIN.masks(labeled)[1].any()
    assert np.array_equal(ALL_SCORED.masks(labeled)[1], labeled)
    assert not ALL_SCORED.masks(labeled)[0].any()


# --- the rows of each kind --------------------------------------------------------------------------------------------


def subject(sparse=True, seed=0, name="scan"):
    _, classes = balls(seed=seed)
    labels = painted(classes) if sparse else classes
    labeled = labels != UNLABELED
    return Subject(name, np.where(labeled, labels, 0).astype(np.uint8), labeled, labeled, 0)


def rows_of(kind, subjects, **changes):
    return plan_rows(Choices(kind, **({"seeds": 1} | changes)), subjects, Variant(), 0)


def test_every_planned_row_keeps_its_labels_apart():
    for sparse in (True, False):
        subjects = [subject(sparse, seed, f"scan {seed}") for seed in range(2)]
        for kind in KINDS:
            rows = rows_of(kind, subjects).rows
            assert len({row.key for row in rows}) == len(rows)
            for row in rows:
                for number, split in zip(row.volumes, row.splits, strict=True):
                    training, scored = subjects[number].divided(split)
                    assert not (training & scored).any()


def test_the_kinds_compare_what_they_say():
    sparse, dense = [subject()], [subject(sparse=False)]
    assert [row.part for row in rows_of("folds", sparse, folds=4).rows] == [f"fold {n} of 4" for n in (1, 2, 3, 4)]
    names = [row.variant.name for row in rows_of("batchnorm", sparse).rows]
    assert sorted(set(names)) == ["3-D, BatchNorm", "3-D, no BatchNorm"]
    assert {row.variant.dimensions for row in rows_of("dimensions", sparse).rows} == {2, 3}
    assert [row.part for row in rows_of("slices", dense).rows] == [
        f"{n} slices" for n in ("1,1,1", "2,2,1", "3,3,2", "5,5,3")
    ]
    assert [row.part for row in rows_of("batchnorm", dense).rows] == ["5,5,3 slices"] * 2
    three = [subject(True, seed, f"s{seed}") for seed in range(3)]
    assert [row.part for row in rows_of("volumes", three).rows] == [f"without s{n}" for n in range(3)]
    assert [row.seed for row in rows_of("folds", sparse, seeds=2, folds=2).rows] == [0, 1, 0, 1]
    both = rows_of("volumes", three, batchnorm="both").rows
    assert [row.variant.batchnorm for row in both] == [False, True] * 3


def test_the_paper_does_what_the_data_allow_and_shares_rows():
    one = rows_of("paper", [subject()])
    assert {row.table for row in one.rows} == {"folds", "slices"}
    assert "left out: table 3" in " ".join(one.said)
    keys = {row.key for row in one.rows}
    assert keys >= {row.key for row in rows_of("folds", [subject()]).rows}
    assert keys >= {row.key for row in rows_of("batchnorm", [subject()]).rows}
    three = rows_of("paper", [subject(True, seed, f"s{seed}") for seed in range(2)])
    assert [row.variant.name for row in three.rows if row.part == "without s0"] == [
        "3-D, no BatchNorm",
        "3-D, BatchNorm",
        "2-D, BatchNorm",
    ]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("folds", {"folds": 10}, "10 folds need at least 10 annotated slices"),
        ("folds", {"slices": ((1, 1, 1),)}, "leave it out"),
        ("volumes", {}, "needs at least 2 volumes, found 1"),
        ("volumes", {"folds": 3}, "leave --folds and --slices out"),
        ("slices", {"slices": ((3, 3, 3),)}, "expected at least 3 annotated slices that may train across x, found 2"),
        ("batchnorm", {"batchnorm": "on"}, "compares this itself"),
        ("dimensions", {"dimensions": 2}, "compares this itself"),
        ("paper", {"batchnorm": "both"}, "compares this itself"),
    ],
)
def test_nonsense_is_refused(kind, changes, message):
    with pytest.raises(ConfigError, match=message):
        rows_of(kind, [subject()], **changes)


def test_labels_without_slices_are_refused():
    labeled = np.zeros((30, 28, 26), bool)
    labeled[3:9, 3:9, 3:9] = True
    scribble = Subject("scan", subject().classes, labeled, labeled, 0)
    with pytest.raises(ConfigError, match="3 folds need at least 3 annotated slices"):
        rows_of("folds", [scribble])
    with pytest.raises(ConfigError, match="expected annotated slices"):
        rows_of("slices", [scribble])
    with pytest.raises(ConfigError, match=r"allow none of the paper's experiments. left out: table 1"):
        rows_of("paper", [scribble])


def test_numbers_of_slices():
    assert parse_counts("3, 3,0") == (3, 3, 0)
    for text in ("3,3", "0,0,0", "a,b,c", "1,1,-1"):
        with pytest.raises(ConfigError, match="--slices expects"):
            parse_counts(text)


# --- configuration of a row -------------------------------------------------------------------------------------------


def material(classes=3):
    image, drawn = balls()
    one = subject()
    table = LabelTable.from_codes(list(range(classes)))
    return Material((Volume(image[None], Affine.from_spacing((1, 1, 1)), "scan"),), (one,), table), drawn


def test_training_labels_hold_nothing_of_what_is_scored():
    some, _ = material()
    for row in rows_of("paper", some.subjects).rows:
        training, scored = some.subjects[0].divided(row.splits[0])
        codes = some.training_labels(0, training).array[0]
        hidden = some.labels_config.unlabeled[0]
        assert (codes[scored] == hidden).all()
        assert (codes[~training] == hidden).all()
        assert np.array_equal(codes[training], some.subjects[0].classes[training])


def test_rows_differ_in_what_they_compare_and_in_nothing_else():
    some, _ = material()
    config = parse_config({"sampling": {"patch_size": [16, 16, 16]}, "training": {"iterations": 3}})
    rows = {row.variant: row for row in rows_of("paper", some.subjects, seeds=1).rows if row.table == "folds"}
    flat = row_config(config, rows[Variant(2, True)], some)
    full = row_config(config, rows[Variant(3, True)], some)
    assert flat.network.kind == full.network.kind == "planned"
    assert (flat.network.dimensions, full.network.dimensions) == (2, 3)
    assert flat.sampling.planes == ("x", "y", "z")
    assert full.sampling.planes is None
    assert flat.sampling.patch_size is None
    assert full.sampling.patch_size == (16, 16, 16)
    assert flat.training == full.training
    assert flat.model_dump(exclude_unset=True)["network"]["kind"] == "planned"


def test_normalization_is_set_or_refused():
    from vol3d.config import EncoderUNetConfig, FCNConfig, MonaiConfig

    for network in (FCNConfig(widths=(4, 4, 4, 4, 4)), parse_config({"network": TINY["network"]}).network):
        plain = set_normalization(network, batchnorm=False)
        assert plain.normalization == "none"
        assert plain.model_dump(exclude={"normalization"}) == network.model_dump(exclude={"normalization"})
        assert set_normalization(plain, batchnorm=True) == network
    with pytest.raises(ConfigError, match="never without normalization"):
        set_normalization(EncoderUNetConfig(), batchnorm=False)
    with pytest.raises(ConfigError, match="no choice of normalization"):
        set_normalization(MonaiConfig(monai="SegResNet"), batchnorm=False)


# --- whole experiments ------------------------------------------------------------------------------------------------

QUICK = {"iterations": 3, "validations": 0, "learning_rate": 0.01, "batch_statistics": "running"}
CONFIG = TINY | {"training": QUICK}


def volumes(count=1, sparse=True, affine=None):
    grid = affine or Affine.from_spacing((1.0, 1.0, 1.0))
    images, labels = [], []
    for seed in range(count):
        image, classes = balls(seed=seed)
        images.append(Volume(image[None], grid, f"scan {seed}"))
        labels.append(Volume((painted(classes) if sparse else classes)[None], grid, f"labels {seed}"))
    return images, labels


def experiment(kind, folder, images, labels, **changes):
    dense = changes.pop("dense", False)
    meaning = {"dense": True} if dense else {"unlabeled": UNLABELED}
    return vol3d.experiment(kind, images, labels, output=folder, config=CONFIG, **meaning, **({"seeds": 1} | changes))


def read_csv(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_folds_from_end_to_end(tmp_path):
    images, labels = volumes()
    found = experiment("folds", tmp_path / "e", images, labels, folds=2, batchnorm="both")
    assert not found.failed
    assert not found.stopped
    rows = read_csv(tmp_path / "e")
    assert [row["key"] for row in rows] == [row.key for row in found.planned]
    assert {row["iterations"] for row in rows} == {"3"}
    assert [row["batchnorm"] for row in rows] == ["no", "yes", "no", "yes"]
    assert len({row["config_hash"] for row in rows}) == 4
    assert rows[0]["iou_1"] != rows[1]["iou_1"]
    for row in rows:
        assert 0 <= float(row["mean_iou"]) <= 1
        assert 0 < float(row["labeled_share"]) < 0.5
        split = next(one.splits[0] for one in found.planned if one.key == row["key"])
        training, scored = split.masks(labels[0].array[0] != UNLABELED)
        assert int(row["labeled_voxels"]) == training.sum()
        assert int(row["scored_voxels"]) == scored.sum()
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert [arm["name"] for arm in summary["arms"]] == ["3-D, no BatchNorm", "3-D, BatchNorm"]
    values = [float(row["mean_iou"]) for row in rows[1::2]]
    assert summary["arms"][1]["mean_iou"]["mean"] == pytest.approx(np.mean(values))
    assert summary["arms"][1]["mean_iou"]["sd"] == pytest.approx(np.std(values, ddof=1))
    names = {path.name for path in (tmp_path / "e").iterdir()}
    assert names == {"experiment.json", "results.csv", "summary.json", "folds.png"}


def test_codes_under_scored_voxels_change_nothing_that_is_learned(tmp_path, monkeypatch):
    """Training sees only what trains: other labels on the scored slices leave every prediction as it was."""
    kept = []
    original = experiment_run.predict

    def spy(*arguments, **options):
        found = original(*arguments, **options)
        kept.append(found.codes)
        return found

    monkeypatch.setattr(experiment_run, "predict", spy)
    images, labels = volumes()
    first = experiment("folds", tmp_path / "a", images, labels, folds=2)
    _, scored = first.planned[0].splits[0].masks(labels[0].array[0] != UNLABELED)
    other = labels[0].array.copy()
    other[0][scored] = 1 - other[0][scored]
    changed = Volume(other, labels[0].affine, labels[0].name)
    second = experiment("folds", tmp_path / "b", images, [changed], folds=2)
    assert np.array_equal(kept[0], kept[2])
    assert not np.array_equal(kept[1], kept[3])  # there those slices train
    assert first.rows[0].mean_iou != second.rows[0].mean_iou


def test_scores_are_those_of_a_second_implementation(tmp_path, monkeypatch):
    kept = []
    original = experiment_run.predict

    def spy(*arguments, **options):
        found = original(*arguments, **options)
        kept.append(found.codes)
        return found

    monkeypatch.setattr(experiment_run, "predict", spy)
    turned = Affine(np.array([[0, -1.0, 0, 5], [0, 0, 1.0, -3], [2.0, 0, 0, 1], [0, 0, 0, 1]]))
    images, labels = volumes(sparse=False, affine=turned)
    found = experiment("slices", tmp_path / "e", images, labels, dense=True, slices=[(1, 0, 2)])
    truth = labels[0].array[0]
    filled = truth == 1
    mask = np.zeros(truth.shape, bool)
    for axis, count in enumerate((1, 0, 2)):
        at = np.flatnonzero(filled.any(axis=tuple(a for a in range(3) if a != axis)))
        for n in range(count):
            plane = math.floor(at[0] + (at[-1] - at[0]) * (n + 0.5) / count + 0.5)
            mask[(slice(None),) * axis + (plane,)] = True
    row = found.rows[0]
    assert row.labeled_voxels == mask.sum()
    assert row.scored_voxels == (~mask).sum()
    for code in (0, 1):
        p, t = (kept[0] == code) & ~mask, (truth == code) & ~mask
        assert row.iou[code] == pytest.approx((p & t).sum() / (p | t).sum())
    assert row.mean_iou_without_background == pytest.approx(row.iou[1])


def test_slices_volumes_and_dimensions_run(tmp_path):
    images, labels = volumes(2)
    curve = experiment("slices", tmp_path / "s", images[:1], labels[:1], slices=[(1, 1, 0), (1, 1, 1)])
    assert [row.slices for row in curve.rows] == ["1,1,0", "1,1,1"]
    assert curve.rows[0].scored_voxels == curve.rows[1].scored_voxels
    assert curve.rows[0].labeled_voxels < curve.rows[1].labeled_voxels
    assert (tmp_path / "s" / "slices.png").read_bytes()[:4] == b"\x89PNG"
    left = experiment("volumes", tmp_path / "v", images, labels)
    assert [row.part for row in left.rows] == ["without scan 0", "without scan 1"]
    assert left.rows[0].scored_voxels == (labels[0].array != UNLABELED).sum()
    assert left.rows[0].labeled_voxels == (labels[1].array != UNLABELED).sum()
    dense = [Volume(np.where(one.array == 1, one.array, 0), one.affine, one.name) for one in labels[:1]]
    both = experiment("dimensions", tmp_path / "d", images[:1], dense, dense=True, slices=[(1, 1, 1)])
    assert [row.dimensions for row in both.rows] == [3, 2]


def test_resume_skips_rows_and_may_add_some(tmp_path):
    images, labels = volumes()
    folder = tmp_path / "e"
    experiment("folds", folder, images, labels, folds=2)
    before = (folder / "results.csv").read_text().splitlines(keepends=True)
    (folder / "results.csv").write_text("".join(before[:2]) + before[2][:17])  # one row, and half of another
    again = experiment("folds", None, images, labels, folds=2, resume=folder)
    after = (folder / "results.csv").read_text().splitlines(keepends=True)
    assert after[:2] == before[:2]
    assert len(after) == 3
    scores = [[row.split(",")[-3:] for row in rows] for rows in (before, after)]
    assert scores[0] == scores[1]
    assert len(again.rows) == 2
    more = experiment("folds", None, images, labels, folds=2, resume=folder, seeds=2)
    assert len(more.rows) == 4
    assert (folder / "results.csv").read_text().startswith("".join(after))
    with pytest.raises(ConfigError, match="made with other settings"):
        experiment("folds", None, images, labels, folds=2, resume=folder, iterations=4)
    with pytest.raises(ConfigError, match="other images or labels"):
        experiment("folds", None, images, volumes(2)[1][1:], folds=2, resume=folder)
    with pytest.raises(ConfigError, match="arrays in memory"):
        vol3d.experiment(resume=folder)
    with pytest.raises(ConfigError, match="no experiment to go on with"):
        vol3d.experiment(resume=tmp_path)


def test_a_row_that_fails_is_told_and_left_out(tmp_path, monkeypatch):
    original = experiment_run.train

    def breaks(*arguments, **options):
        if options["config"].training.seed == 1:
            raise TrainingError("the loss is not a number")
        return original(*arguments, **options)

    monkeypatch.setattr(experiment_run, "train", breaks)
    images, labels = volumes()
    with pytest.warns(UserWarning, match="failed and is left out: the loss is not a number"):
        found = experiment("folds", tmp_path / "e", images, labels, folds=2, seeds=2)
    assert len(found.failed) == 2
    assert [row.seed for row in found.rows] == [0, 0]
    assert json.loads((tmp_path / "e" / "summary.json").read_text())["failed"] == list(found.failed)


def test_an_interrupt_keeps_the_rows(tmp_path, monkeypatch):
    original = experiment_run.predict
    calls = []

    def stops(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(experiment_run, "predict", stops)
    images, labels = volumes()
    found = experiment("folds", tmp_path / "e", images, labels)
    assert found.stopped
    assert len(found.rows) == len(read_csv(tmp_path / "e")) == 1
    assert not (tmp_path / "e" / "runs").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_stops_all_the_same(tmp_path, monkeypatch):
    original = experiment_run.predict

    class Dropped:
        """What is raised in a destructor goes no further."""

        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def drops(*arguments, **options):
        Dropped()
        return original(*arguments, **options)

    monkeypatch.setattr(experiment_run, "predict", drops)
    images, labels = volumes()
    before = signal.getsignal(signal.SIGINT)
    found = experiment("folds", tmp_path / "e", images, labels)
    assert found.stopped
    assert len(found.rows) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_planned_networks_with_and_without_batchnorm_differ_in_nothing_else(tmp_path):
    images, labels = volumes()
    changes = {"network": {"plan": "unet", "width": 2}, "labels": {"unlabeled": UNLABELED}}
    changes["pixel_classifier"] = {"use": "no"}
    run_experiment(
        Choices("batchnorm", folds=2, seeds=1),
        images,
        labels,
        config=CONFIG | changes,
        output=tmp_path / "e",
        keep_runs=True,
    )
    runs = sorted((tmp_path / "e" / "runs").iterdir())
    names = [f"folds-fold-{n}-of-2-3-d-{norm}batchnorm-seed-0" for n in (1, 2) for norm in ("", "no-")]
    assert [path.name.rpartition("-")[0] for path in runs] == names
    assert all((path / "model.safetensors").is_file() for path in runs)
    normed, plain = (json.loads((path / "run.json").read_text())["config"] for path in runs[:2])
    assert (plain["network"].pop("normalization"), normed["network"].pop("normalization")) == ("none", "batch")
    assert plain == normed


def test_codes_that_leave_a_choice_train_and_are_not_scored(tmp_path, monkeypatch):
    seen = []
    original = experiment_run.train

    def spy(images, labels, **options):
        seen.append((labels[0].array[0], options["config"].labels))
        return original(images, labels, **options)

    monkeypatch.setattr(experiment_run, "train", spy)
    images, labels = volumes()
    codes = labels[0].array.copy()
    codes[0, 14, :5] = 2
    codes[0, 3, :5] = 250
    drawn = Volume(codes, labels[0].affine, "labels 0")
    found = run_experiment(
        Choices("folds", folds=2, seeds=1),
        images,
        [drawn],
        config=CONFIG | {"labels": {"unlabeled": UNLABELED, "one_of": {250: [0, 1]}}},
        output=tmp_path / "e",
    )
    for row, planned, (taught, meaning) in zip(found.rows, found.planned, seen, strict=True):
        training, held = planned.splits[0].masks(codes[0] != UNLABELED)
        (code,) = meaning.one_of
        assert meaning.one_of[code] == (0, 1)
        assert np.array_equal(taught == code, training & (codes[0] == 250))
        assert row.scored_voxels == (held & (codes[0] != 250)).sum()
    assert any((taught == 4).any() for taught, _ in seen)


# --- files and pictures -----------------------------------------------------------------------------------------------


def a_row(key="a, b", **changes):
    values = {
        "key": key, "table": "slices", "part": "1,1,1 slices", "slices": "1,1,1", "dimensions": 3, "batchnorm": "yes",
        "seed": 0, "iterations": 5, "training_s": 1.5, "row_s": 2.5, "labeled_voxels": 7, "labeled_share": 1 / 3,
        "scored_voxels": 9, "mean_iou": 0.1 + 0.2, "mean_iou_without_background": math.nan, "config_hash": "0123",
        "iou": {0: 0.25, 7: math.nan},
    }  # fmt: skip
    return ExperimentRow(**(values | changes))


def test_results_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "results.csv"
    RowsFile(path, [0, 7]).add(a_row())
    RowsFile(path, [0, 7]).add(a_row("c"))
    found = RowsFile(path, [0, 7]).rows
    assert repr(found) == repr([a_row(), a_row("c")])
    with pytest.raises(FileFormatError, match="expected the columns"):
        RowsFile(path, [0])
    path.write_text(path.read_text() + "one,cell\n")
    with pytest.raises(FileFormatError, match="line 4: expected 18 cells, found 2"):
        RowsFile(path, [0, 7])


# --- the command line -------------------------------------------------------------------------------------------------


def refusal(capsys, *arguments):
    try:
        code = main(["experiment", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err.strip()
    assert code == 2, err
    return err.splitlines()[-1]


def test_command_line_from_dry_run_to_resume(tmp_path, capsys):
    scan, sparse, _ = write_case(tmp_path)
    config = write_config(tmp_path, training=QUICK)
    base = ["experiment", "folds", config, "-i", scan, "-l", sparse, "--unlabeled", "255", "--folds", "2"]
    base += ["--seeds", "1", "-o", str(tmp_path / "e")]
    assert main([*base, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert text.count("folds: fold") == 2
    assert "2 rows of 3 iterations" in text
    assert not (tmp_path / "e").exists()
    assert main(base) == 0
    text = capsys.readouterr().out
    assert "Scored on held-out slices" in text
    assert "3-D, BatchNorm" in text
    assert " ± " in text
    assert "exists. Go on with it (--resume" in refusal(capsys, *base[1:])
    assert main(["experiment", "--resume", str(tmp_path / "e")]) == 0
    assert "2 of 2 rows are done already" in capsys.readouterr().err
    assert main([*base, "--overwrite", "--time-budget", "2m", "--dry-run"]) == 0
    assert "2 rows of 2 min: about 4 min in all" in capsys.readouterr().out


def test_command_line_refuses_nonsense_in_one_line(tmp_path, capsys):
    scan, sparse, _ = write_case(tmp_path)
    files = ["-i", scan, "-l", sparse, "--unlabeled", "255", "-o", tmp_path / "e"]
    assert "needs at least 2 volumes" in refusal(capsys, "volumes", *files)
    assert "99 folds need at least 99" in refusal(capsys, "folds", *files, "--folds", 99)
    assert "--slices expects" in refusal(capsys, "slices", *files, "--slices", "3,3")
    assert "semantic" in refusal(capsys, "folds", *files, "--set", "task=instances")
    assert "labels (-l) is missing" in refusal(capsys, "folds", "-i", scan)
    assert "say which experiment" in refusal(capsys, *files)
    assert "found --seeds" in refusal(capsys, "--resume", tmp_path, "--seeds", 2)
    assert "invalid choice" in refusal(capsys, "foldz", *files)
    assert "never without normalization" in refusal(capsys, "batchnorm", *files, "--network", "encoder_unet")
    assert not (tmp_path / "e").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    line = refusal(capsys, "folds", *files[:-1], tmp_path / "mine", "--overwrite", "--iterations", 1)
    assert "is no experiment" in line
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_ctrl_c_exits_130_and_keeps_rows(tmp_path):
    scan, sparse, _ = write_case(tmp_path)
    config = write_config(tmp_path, training=QUICK)
    command = [sys.executable, "-m", "vol3d", "experiment", "folds", config, "-i", scan, "-l", sparse]
    process = subprocess.Popen(
        [*command, "--unlabeled", "255", "--seeds", "500", "-o", str(tmp_path / "e")],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    table = tmp_path / "e" / "results.csv"
    try:
        deadline = time.monotonic() + 250
        while not (table.exists() and table.read_text().count("\n") > 1):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.2)
        os.kill(process.pid, 2)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, err
    assert "--resume" in out
    assert len(read_csv(tmp_path / "e")) >= 1
    assert not (tmp_path / "e" / "runs").exists()
