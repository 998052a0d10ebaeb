"""`evaluate`: every task, one case and several, the table, the CSV file, the box plot."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vol3d
from vol3d import io, metrics
from vol3d.cli.main import main
from vol3d.config import DataConfig, LabelsConfig
from vol3d.errors import ConfigError, FileFormatError, GeometryError, LabelError
from vol3d.report import Metric, Panel, ScoreRow, boxplot_png, score_table, scores_csv
from vol3d.volume import Affine, Volume
from vol3d.workflows.case_evaluations import CaseEvaluations
from vol3d.workflows.evaluate import Evaluation, Scoring, evaluate, evaluate_task
from vol3d.workflows.evaluate_cases import case_names, evaluate_cases, is_several, require_room, write_scores
from vol3d.workflows.evaluations import RegressionEvaluation
from vol3d.workflows.sources import target_volume

SPACING = (0.5, 0.5, 1.2)
NAMES = {0: "background", 1: "wall", 2: "inside"}


def labels(seed, shape=(12, 10, 8)):
    """Three classes in slabs, with some noise by the seed."""
    rng = np.random.default_rng(seed)
    codes = (np.indices(shape)[0] * 3 // shape[0]).astype(np.uint8)
    return np.where(rng.random(shape) < 0.05, rng.integers(0, 3, shape), codes).astype(np.uint8)


def write(path, codes, names=NAMES, spacing=SPACING):
    like = Volume(codes[None], Affine.from_spacing(spacing), "like")
    if codes.dtype.kind == "f":
        io.write_image(str(path), codes[None], like)
    else:
        io.write_labels(str(path), codes, like, names=names)
    return str(path)


@pytest.fixture
def folders(tmp_path):
    """Three predictions and references that pair by name; the last prediction has no class 2."""
    for name in ("pred", "ref"):
        (tmp_path / name).mkdir()
    for number in range(3):
        found = labels(number)
        write(tmp_path / "pred" / f"k{number}_seg.nii.gz", np.minimum(found, 1) if number == 2 else found)
        write(tmp_path / "ref" / f"k{number}_label.nii.gz", labels(10 + number))
    return tmp_path / "pred", tmp_path / "ref"


def table_rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run(*arguments):
    return main(["evaluate", *[str(a) for a in arguments]])


def refused(capsys, *arguments):
    assert run(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


# one case


def test_surface_scores_are_those_of_the_metrics_in_mm():
    found, truth = labels(0), labels(1)
    result = vol3d.evaluate(found, truth, surface=True, spacing_mm=SPACING)
    assert set(result.surface) == {1, 2}  # background has no surface of its own
    for code, score in result.surface.items():
        one, other = found == code, truth == code
        assert score.hausdorff_mm == metrics.hausdorff(one, other, SPACING)
        assert score.hausdorff_95_mm == metrics.hausdorff_percentile(one, other, SPACING)
        assert score.assd_mm == metrics.average_symmetric_surface_distance(one, other, SPACING)
        assert score.tolerance_mm == 1.2  # the longest edge of a voxel
        assert score.surface_dice == metrics.surface_dice(one, other, SPACING, 1.2)
    near = vol3d.evaluate(found, truth, surface=True, spacing_mm=SPACING, tolerance_mm=0).surface
    assert near[1].surface_dice < result.surface[1].surface_dice
    assert vol3d.evaluate(found, truth).surface is None


def test_a_plane_takes_its_tolerance_from_its_own_axes():
    plane = labels(0, (12, 10, 1))
    assert vol3d.evaluate(plane, plane, surface=True, spacing_mm=(0.5, 0.7, 40)).surface[1].tolerance_mm == 0.7


def test_json_keeps_its_keys_and_is_valid_where_a_class_is_missing():
    truth = labels(0)
    result = vol3d.evaluate(np.minimum(truth, 1), truth, surface=True)
    assert result.surface[2].hausdorff_mm == math.inf
    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert {"classes", "mean_iou", "mean_iou_without_background", "mean_dice", "mean_dice_without_background"} | {
        "voxels"
    } == set(value)
    wall, inside = value["classes"][1:]
    assert {"code", "name", "voxels", "iou", "dice", "precision", "recall"} < set(inside)
    assert wall["f1"] == wall["dice"]
    assert inside["hausdorff_mm"] is None
    assert inside["surface_dice"] == 0.0
    assert inside["predicted_voxels"] == 0
    assert "hausdorff_mm" not in vol3d.evaluate(truth, truth).to_json()["classes"][1]


def test_the_workflow_alone_still_scores_classes():
    truth = labels(0)
    result = evaluate(truth, truth, labels=LabelsConfig(dense=True), spacing_mm=SPACING, surface=True)
    assert isinstance(result, Evaluation)
    assert result.mean_iou == 1.0
    assert result.surface[1].hausdorff_mm == 0.0


def test_surfaces_and_objects_need_a_dense_reference():
    truth = labels(0)
    sparse = truth.copy()
    sparse[:, 0] = 9
    for options in ({"surface": True}, {"task": "instances"}, {"task": "panoptic"}):
        with pytest.raises(LabelError, match=r"dense reference, found 96 unlabeled voxels of 960\. Give"):
            vol3d.evaluate(truth, sparse, unlabeled=9, **options)
        with pytest.raises(LabelError, match="dense reference"):
            vol3d.evaluate(truth, truth, annotated_slices={"z": [1]}, **options)
        with pytest.raises(LabelError, match=r"no voxels can be left out \(--except\)"):
            vol3d.evaluate(truth, truth, leave_out=sparse, unlabeled=9, **options)
        vol3d.evaluate(truth, truth, unlabeled=9, **options)  # a code that does not occur does no harm


def test_a_sheared_grid_has_no_surface_distances():
    matrix = np.eye(4)
    matrix[0, 1] = 0.2
    sheared = Volume(labels(0)[None], Affine(matrix), "sheared")
    assert vol3d.evaluate(sheared, sheared).mean_iou == 1.0
    with pytest.raises(GeometryError, match="right angles, found a sheared grid"):
        vol3d.evaluate(sheared, sheared, surface=True)


def test_instances_are_told_apart_by_all_32_bits(tmp_path):
    truth = np.zeros((10, 8, 6), np.uint32)
    truth[1:4], truth[5:9] = 4_000_000_000, 4_000_000_001
    found = np.zeros_like(truth)
    found[1:4], found[5:7] = 7, 9
    files = [write(tmp_path / f"{n}.nii.gz", a, None) for n, a in (("found", found), ("truth", truth))]
    result = vol3d.evaluate(*files, task="instances")
    assert result.scores == metrics.instance_scores(found, truth)
    assert (result.scores.objects, result.scores.predicted_objects) == (2, 2)
    assert result.scores.ap[0.5] == pytest.approx(1 / 3)  # half an object is not more than half
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["objects"] == 2


def test_panoptic_codes_are_class_times_divisor_plus_object():
    truth = np.zeros((10, 8, 6), np.uint16)
    truth[1:3], truth[4:6], truth[7:] = 1001, 1002, 2000
    found = truth.copy()
    found[4:6] = 1001  # two objects in one
    result = vol3d.evaluate(found, truth, task="panoptic")
    assert result.things == (1,)
    assert result.scores[2].pq == result.scores[0].pq == 1.0
    assert (result.scores[1].true_positives, result.scores[1].false_negatives) == (0, 2)
    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert [(c["code"], c["kind"]) for c in value["classes"]] == [(0, "stuff"), (1, "thing"), (2, "stuff")]
    assert value["mean_pq_stuff"] == 1.0
    assert value["mean_pq_things"] == 0.0
    assert value["mean_pq_without_background"] == 0.5
    as_stuff = vol3d.evaluate(found, truth, task="panoptic", things=())
    assert as_stuff.scores[1].pq == 1.0
    small = np.where(truth > 0, truth // 1000 * 16 + truth % 1000, 0)
    assert vol3d.evaluate(small, small, task="panoptic", divisor=16).things == (1,)


def test_regression_counts_where_the_reference_has_a_value(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(6, 5, 4)).astype(np.float32)
    found = truth + 0.5
    truth[:3] = np.nan
    files = [write(tmp_path / f"{n}.nii.gz", a) for n, a in (("found", found), ("truth", truth))]
    result = vol3d.evaluate(*files, task="regression")
    assert result.voxels == 60
    assert result.scores.mae == pytest.approx(0.5, rel=1e-6)
    assert result == vol3d.evaluate(found, truth, task="regression")
    fewer = vol3d.evaluate(found, truth, task="regression", annotated_slices={"z": [0, 3]})
    assert fewer.voxels == 30
    with pytest.raises(LabelError, match="60 voxel"):
        vol3d.evaluate(truth, found, task="regression")
    with pytest.raises(LabelError, match="no voxel is left"):
        vol3d.evaluate(found, found * np.nan, task="regression")
    zeros = np.where(np.isnan(truth), 0, truth)
    assert vol3d.evaluate(found, zeros, task="regression", unlabeled=0).voxels == 60
    drawn = np.where(np.arange(4) < 2, found, np.nan).astype(np.float32)
    assert vol3d.evaluate(found, truth, task="regression", leave_out=drawn).voxels == 30


@pytest.mark.parametrize("suffix", [".nii.gz", ".h5:label", ".mha", ".nrrd", ".tif"])
def test_targets_keep_nan(tmp_path, suffix):
    values = np.arange(24, dtype=np.float64).reshape(2, 3, 4) / 7
    values[0, 1, 2] = np.nan
    path = write(tmp_path / f"t{suffix}", values)
    volume = target_volume(path.removesuffix(":label"), DataConfig())
    assert volume.array.dtype == np.float32
    assert volume.array.shape == (1, 2, 3, 4)
    assert np.array_equal(volume.array[0], values.astype(np.float32), equal_nan=True)
    assert volume.spacing_mm == pytest.approx(SPACING)


def test_targets_of_other_kinds(tmp_path):
    whole = target_volume(np.arange(8, dtype=np.int16).reshape(2, 2, 2), DataConfig(), SPACING)
    assert whole.array.dtype == np.float32
    assert whole.spacing_mm == SPACING
    for bad in (np.inf, 1e39):
        values = np.full((2, 2, 2), bad)
        for source in (values, write(tmp_path / f"{bad}.nii.gz", values)):
            with pytest.raises(FileFormatError, match=r"8 voxel\(s\) that are infinite"):
                target_volume(source, DataConfig())
    with pytest.raises(GeometryError, match="2 channels; a target has one"):
        target_volume(np.zeros((2, 3, 3, 3)), DataConfig())
    with pytest.raises(ConfigError, match="complex128"):
        target_volume(np.zeros((3, 3, 3), complex), DataConfig())


def test_options_that_a_task_has_no_use_for_are_refused():
    for options, words in (
        ({"task": "other"}, "task is semantic, instances, panoptic or regression"),
        ({"task": "instances", "surface": True}, "surface distances are of classes"),
        ({"tolerance_mm": 1.0}, "goes with surface distances"),
        ({"surface": True, "tolerance_mm": math.nan}, "0 mm or more"),
        ({"divisor": 100}, "go with the task panoptic"),
        ({"things": (1,)}, "go with the task panoptic"),
        ({"task": "panoptic", "divisor": 1}, "divisor of 2 or more"),
    ):
        with pytest.raises(ConfigError, match=words):
            Scoring(**options)


# several cases


def test_several_cases_are_paired_and_averaged(folders):
    pred, ref = folders
    result = vol3d.evaluate([str(pred)], [str(ref)], surface=True)
    assert result.names == ("k0_seg", "k1_seg", "k2_seg")
    alone = [
        vol3d.evaluate(f"{pred}/k{n}_seg.nii.gz", f"{ref}/k{n}_label.nii.gz", surface=True) for n in range(3)
    ]  # fmt: skip
    assert list(result.cases) == alone
    background, wall, inside = result.means()
    assert wall.values["iou"] == pytest.approx(np.mean([case.scores[1].iou for case in alone]))
    assert wall.spread["iou"] == pytest.approx(np.std([case.scores[1].iou for case in alone], ddof=1))
    assert inside.values["hausdorff_mm"] == math.inf  # missed in one case: not passed over
    assert math.isnan(inside.spread["hausdorff_mm"])
    assert inside.values["precision"] == pytest.approx(np.mean([case.scores[2].precision for case in alone[:2]]))
    assert math.isnan(background.values["assd_mm"])
    mean, sd = result.summary()["mean_iou"]
    assert mean == pytest.approx(np.mean([case.mean_iou for case in alone]))
    assert sd == pytest.approx(np.std([case.mean_iou for case in alone], ddof=1))
    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert [case["case"] for case in value["cases"]] == list(result.names)
    assert {k: v for k, v in value["cases"][0].items() if k != "case"} == alone[0].to_json()
    assert value["mean"]["mean_iou"] == mean
    assert value["sd"]["classes"][1]["iou"] == wall.spread["iou"]
    assert value["mean"]["classes"][2]["cases"] == 3
    assert value["mean"]["classes"][2]["hausdorff_mm"] is None


def test_arrays_are_paired_by_order(folders):
    result = vol3d.evaluate([labels(0), labels(1)], (labels(0), labels(2)))
    assert result.names == ("case 1", "case 2")
    assert result.cases[0].mean_iou == 1.0
    with pytest.raises(ConfigError, match="2 predictions but 1 references"):
        vol3d.evaluate([labels(0), labels(1)], [labels(0)])
    with pytest.raises(ConfigError, match="at least one prediction"):
        vol3d.evaluate([], [])
    with pytest.raises(ConfigError, match="given as lists"):
        vol3d.evaluate([labels(0)], labels(0))
    with pytest.raises(ConfigError, match="given as lists"):
        vol3d.evaluate(str(folders[0]), str(folders[1]))


def test_voxels_left_out_are_paired_too(folders, tmp_path):
    pred, ref = folders
    (tmp_path / "sparse").mkdir()
    for number in range(3):
        drawn = np.full((12, 10, 8), 9, np.uint8)
        drawn[..., : number + 1] = 0
        write(tmp_path / "sparse" / f"k{number}_sparse.nii.gz", drawn)
    result = evaluate_cases(
        [str(pred)], [str(ref)], Scoring(labels=LabelsConfig(unlabeled=(9,))), leave_out=[str(tmp_path / "sparse")]
    )
    assert [case.voxels for case in result.cases] == [120 * (7 - number) for number in range(3)]


def test_a_case_without_a_partner_is_refused(folders, capsys):
    pred, ref = folders
    (ref / "k1_label.nii.gz").unlink()
    assert "do not pair by name: no partner for" in refused(capsys, pred, ref)
    assert "no such file" in refused(capsys, pred, ref / "nothing.nii.gz")
    assert "no volume found there" in refused(capsys, pred / "*.mha", ref)


def test_one_class_is_not_thing_here_and_stuff_there():
    things, stuff = np.full((2, 4, 4), 1001), np.full((2, 4, 4), 1000)
    with pytest.raises(LabelError, match="class 1 has instance numbers in case 2 but none in case 1"):
        vol3d.evaluate([stuff, things], [stuff, things], task="panoptic")
    with pytest.raises(LabelError, match="class 1 has instance numbers in case 1 but none in case 2"):
        vol3d.evaluate([things, stuff], [things, stuff], task="panoptic")
    result = vol3d.evaluate([stuff, things], [stuff, things], task="panoptic", things=[2])
    assert result.means()[0].values["pq"] == 1.0


def test_case_names_tell_the_cases_apart():
    assert case_names(["a/k1_seg.nii.gz", "b/k2.h5:label"]) == ("k1_seg", "k2")
    assert case_names(["a/seg.nii.gz", "b/seg.nii.gz"]) == ("a/seg", "b/seg")
    assert case_names(["f.h5:one", "f.h5:two"]) == ("f.h5:one", "f.h5:two")
    volume = Volume(labels(0)[None], Affine.from_spacing(SPACING), "first")
    assert case_names([volume]) == ("first",)
    assert case_names([volume, volume]) == ("case 1", "case 2")


def test_what_stands_for_several_cases(tmp_path):
    (tmp_path / "odd[1].nii").touch()
    assert is_several(tmp_path)
    assert is_several(f"{tmp_path}/*.nii")
    assert is_several(f"{tmp_path}/*.h5:label")
    assert not is_several(tmp_path / "odd[1].nii")
    assert not is_several(f"{tmp_path}/missing.nii")
    assert not is_several(labels(0))


# what is printed and written


def test_the_table_of_one_case(folders, capsys):
    pred, ref = folders
    assert run(pred / "k2_seg.nii.gz", ref / "k2_label.nii.gz", "--surface", "--tolerance", "2") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    for word in ("Dice = F1", "specificity", "HD95 mm", "surface Dice within 2 mm", "mean IoU 0.", "∞"):
        assert word in text
    assert "case " not in text


def test_the_table_of_several_cases(folders, capsys):
    pred, ref = folders
    assert run(pred, f"{ref}/*.nii.gz", "--surface") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("k1_seg") == 3 * text.count("case  ")  # a row per class in each part of the table
    for word in ("mean ± sd", "cases 3", "∞ ± –", "mean IoU 0."):
        assert word in text


@pytest.mark.parametrize("task", ["semantic", "instances", "panoptic", "regression"])
def test_every_task_prints_and_writes(folders, capsys, tmp_path, task):
    pred, ref = folders
    table, plot = tmp_path / "scores.csv", tmp_path / "scores.png"
    options = ["--task", task, "--csv", table, "--plot", plot]
    assert run(pred, ref, *options) == 0
    out = capsys.readouterr().out
    assert f"wrote {table}" in out
    assert max(map(len, out.splitlines()[:-2])) <= 100
    rows = table_rows(table)
    assert {row["case"] for row in rows} == {"k0_seg", "k1_seg", "k2_seg"}
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
    assert "exists already. Give --overwrite, or another name with --csv" in refused(capsys, pred, ref, *options)
    before = table.read_text()
    assert run(pred, ref, *options, "--overwrite", "--json") == 0
    assert table.read_text() == before
    value = json.loads(capsys.readouterr().out)
    assert set(value) == {"cases", "mean", "sd"}
    assert len(value["cases"]) == 3
    assert run(pred / "k0_seg.nii.gz", ref / "k0_label.nii.gz", *options, "--overwrite", "--json") == 0
    assert "cases" not in json.loads(capsys.readouterr().out)
    assert {row["case"] for row in table_rows(table)} == {"k0_seg"}


def test_the_csv_file_has_every_metric_with_its_unit(folders, tmp_path):
    pred, ref = folders
    result = vol3d.evaluate([str(pred)], [str(ref)], surface=True)
    (path,) = write_scores(result, csv=str(tmp_path / "a.csv"))
    rows = table_rows(path)
    overlap = ["voxels", "predicted_voxels", "iou", "dice", "precision", "recall", "specificity", "volume_similarity"]
    distances = ["hausdorff_mm", "hausdorff_95_mm", "assd_mm", "surface_dice", "tolerance_mm"]
    assert list(rows[0]) == ["case", "code", "class", *overlap, *distances]
    assert len(rows) == 9
    assert float(rows[1]["iou"]) == result.cases[0].scores[1].iou
    assert rows[0]["hausdorff_mm"] == ""
    assert rows[8]["hausdorff_mm"] == "inf"
    assert rows[8]["class"] == "inside"
    assert rows[8]["predicted_voxels"] == "0"
    assert rows[8]["precision"] == ""
    with pytest.raises(ConfigError, match="exists already"):
        write_scores(result, csv=str(path))


def test_outputs_are_refused_before_any_work(folders, capsys, tmp_path):
    pred, ref = folders
    missing = tmp_path / "nowhere" / "a.csv"
    assert "does not exist. Create it first" in refused(capsys, pred, ref, "--csv", missing)
    assert "ends in .csv" in refused(capsys, pred, ref, "--csv", ref / "k0_label.nii.gz", "--overwrite")
    assert "ends in .png" in refused(capsys, pred, ref, "--plot", tmp_path / "a.pdf")
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in refused(capsys, pred, ref, "--csv", tmp_path / "folder.csv")
    require_room(str(tmp_path / "a.csv"), str(tmp_path / "a.png"), overwrite=False)
    for bad in ("x", "1,", "-1"):
        with pytest.raises(SystemExit):
            run(pred, ref, "--task", "panoptic", f"--things={bad}")
    assert "expected codes such as 1,4" in capsys.readouterr().err


def test_regression_over_cases_has_no_classes(capsys):
    cases = tuple(evaluate_task(a, b, Scoring(task="regression")) for a, b in ((labels(0), labels(1)),) * 2)
    result = CaseEvaluations(("a", "b"), cases)
    assert isinstance(cases[0], RegressionEvaluation)
    assert result.to_json()["mean"]["mae"] == cases[0].scores.mae
    assert result.to_json()["sd"]["mae"] == 0.0
    assert result.summary() == {}
    assert CaseEvaluations(("a",), cases[:1]).to_json()["sd"]["mae"] is None


# the pictures and tables themselves


def test_a_table_wider_than_the_terminal_goes_on_below():
    wide = [Metric(f"m{n}", f"metric number {n}") for n in range(9)]
    rows = [ScoreRow(case, 1, "a " + "very " * 20 + "long name", {m.key: 0.5 for m in wide}) for case in "ab"]
    text = score_table(rows, wide, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"metric number {n}" in text for n in range(9))
    assert text.count("0.500") == 18
    narrow = score_table(rows[:1], wide[:1], width=10)  # no room at all: still every column
    assert "metric number 0" in narrow
    values = ScoreRow("a", None, "", {"m0": -math.inf, "m1": 1234567.0})
    assert score_table([values], [wide[0], Metric("m1", "n", ",.0f")]).split()[-2:] == ["-∞", "1,234,567"]


def test_csv_quotes_what_needs_it(tmp_path):
    row = ScoreRow("a, b", 1, 'the "inside"\nof µ', {"x": 0.1})
    path = scores_csv(tmp_path / "a.csv", [row], [Metric("x", "X"), Metric("y", "Y")])
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1] == ["a, b", "1", 'the "inside"\nof µ', "0.1", ""]


def test_box_plots_of_odd_data(tmp_path):
    rng = np.random.default_rng(0)
    many = tuple((f"class {n} with a long name $x_1$ 中", tuple(rng.random(4))) for n in range(25))
    odd = (
        ("none", ()),
        ("one", (0.5,)),
        ("same", (0.9,) * 5),
        ("lost", (math.inf, math.nan)),
        ("R²", (-3.0, 1.0, 0.5)),
    )
    for name, groups in (("many", many), ("odd", odd), ("nothing", (("a", (math.nan,)),))):
        panels = [Panel("IoU", groups), Panel("HD95 mm", groups, bounded=False)]
        path = boxplot_png(tmp_path / f"{name}.png", panels, title="a title $ " * 30)
        with Image.open(path) as picture:
            assert picture.size[0] <= 2400
            colors = np.asarray(picture.convert("RGB"), dtype=np.uint32) @ np.array([65536, 256, 1], dtype=np.uint32)
            assert len(np.unique(colors)) > 10


def test_box_plots_show_every_case_and_not_only_boxes(tmp_path):
    """A case more is a point more; what cannot be drawn is not passed over without a word."""
    pictures = []
    for values in ((0.2, 0.5, 0.8), (0.2, 0.5, 0.8, 0.5), (0.2, 0.5, 0.8, math.inf)):
        path = boxplot_png(tmp_path / "a.png", [Panel("IoU", (("a", values),))])
        with Image.open(path) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[0] != pictures[2]).any()


def test_evaluating_classes_loads_neither_torch_nor_monai():
    code = (
        "import sys, numpy as np, vol3d\n"
        "a = np.arange(8, dtype=np.uint8).reshape(2, 2, 2) % 3\n"
        "vol3d.evaluate(a, a, surface=True)\n"
        "sys.exit(', '.join({'torch', 'monai', 'skimage', 'matplotlib'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert (done.returncode, done.stderr) == (0, "")


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom vol3d.cli.main import main\n"
        "try:\n    main(['evaluate', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(', '.join({'torch', 'monai', 'skimage', 'scipy', 'pydantic', 'numpy'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert (done.returncode, done.stderr) == (0, "")
    assert "--tolerance" in done.stdout
