"""The report of a run: Markdown that renders, pictures that show what they say, nothing that was not given."""

import math
import re
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from workflow_parts import balls, painted

from vol3d.config import Config, TaskSpec
from vol3d.errors import GeometryError
from vol3d.metrics import ClassScore, Contingency
from vol3d.report.markdown import code_block, duration, escape, number, signed, table
from vol3d.report.run_facts import (
    Calibration,
    Earlier,
    MethodScores,
    RunReport,
    ScanFacts,
    SlicePicture,
    Step,
    TrainingFacts,
)
from vol3d.report.run_report import write_run_report
from vol3d.report.slices import slice_png
from vol3d.sampling import HoldOut, hold_out
from vol3d.volume import Affine, LabelTable, SparseLabels
from vol3d.workflows.baselines import score_interpolation
from vol3d.workflows.case import Case
from vol3d.workflows.held_out_pictures import held_out_planes
from vol3d.workflows.run_report import Outcome, next_steps, report_run, short_name
from vol3d.workflows.scores import HeldOutScore, ValueScore

RENDER = MarkdownIt("commonmark").enable("table").enable("strikethrough")
NAN = math.nan
ODD = "cell|wall\n<script>alert(1)</script> *x* `y` [z](javascript:1) \\ # $a$ &lt; ~~s~~ @me http://x.y 1."


def text_of(html):
    """The text that a reader sees."""
    import html as entities

    return entities.unescape(re.sub(r"<[^>]+>", "", html))


def score(name, iou, voxels=100, dice=0.8):
    return ClassScore(0, name, iou, dice, 0.7, 0.6, 0.5, 0.4, voxels, 90)


def facts(**changes):
    base = RunReport(
        title="Training on scan.nii.gz",
        classes=("background", "ball"),
        scans=(
            ScanFacts("scan.nii.gz", (30, 28, 26), (0.5, 0.5, 2.0), 0.123, {"x": 3, "y": 0, "z": 2}, (1200, 34)),
            ScanFacts("dense.nii.gz", (8, 8, 8), (1e-4, 1e-4, 1e-4), 1.0, None, (500, 12)),
        ),
        training=TrainingFacts("semantic", "unet", 1234567, (48, 48, 24), 2, 1500, 601.3, "cpu", "1.2.3", 7),
        held_out="held out for validation: 2 of 8 slices (z=3, x=9)",
        network=MethodScores("network", (score("background", 0.9), score("ball", 0.6, 20, 0.7))),
    )
    return replace(base, **changes)


EVERYTHING = {
    "baselines": (
        MethodScores("interpolation", (score("background", 0.8), score("ball", 0.4)), "no answer for b.nii.gz"),
        MethodScores("pixels", (score("background", 0.8), score("ball", NAN))),
    ),
    "refitted": True,
    "earlier": Earlier({"background": 0.85, "ball": 0.5}, 0.675),
    "calibration": Calibration(0.123, 0.045, "reliability.png"),
    "slices": (
        SlicePicture("held_out_best.png", "scan.nii.gz, slice z=3", 0.8, "best"),
        SlicePicture("held_out_worst.png", "scan.nii.gz, slice x=9", 0.1, "worst"),
    ),
    "curves": "curves.png",
    "preview": "preview.png",
    "warnings": ("class ball is painted in one slice only",),
    "notes": ("a note",),
    "steps": (Step("Segment a scan", ("vol3d predict scan.nii.gz -m run",)),),
}


def written(tmp_path, **changes):
    path = write_run_report(tmp_path, facts(**changes))
    assert path == tmp_path / "report.md"
    return path.read_text(encoding="utf-8")


def cells(html, wanted):
    """Rows of the table whose first head cell is `wanted`."""
    for block in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        rows = [
            [text_of(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
            for row in re.findall(r"<tr>.*?</tr>", block, re.DOTALL)
        ]
        if rows[0][0] == wanted:
            return rows
    raise AssertionError(f"no table with {wanted}")


# Markdown


@given(st.text(max_size=30))
@settings(max_examples=200)
def test_any_text_is_shown_as_it_is(text):
    wanted = " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "–"
    for html in (RENDER.render(f"- {escape(text)}"), RENDER.render(table(["a", "b"], [[escape(text), "x"]]))):
        assert not re.search(r"<(?!/?(ul|li|table|thead|tbody|tr|th|td)\b)", html)
    assert text_of(RENDER.render(f"- {escape(text)}")).strip() == wanted
    assert cells(html, "a")[1:] == [[wanted, "x"]]


@pytest.mark.parametrize("text", [ODD, "1. one", "- a", "+ a", "= =", "# a", "_a_", "a_b", "---", "a &#124; b", "\x00"])
def test_odd_names_make_no_markup(text):
    html = RENDER.render(table(["a", "b"], [[escape(text), "x"]]))
    assert cells(html, "a")[1] == [" ".join(text.replace("\x00", " ").split()) or "–", "x"]
    assert "<script" not in html
    assert "<a " not in html


def test_plain_names_stay_readable_in_the_file():
    assert escape("cell_wall (S2) 1.5 mm, 30 %") == "cell_wall (S2) 1.5 mm, 30 %"
    assert escape("") == escape(" \n ") == "–"


def test_code_blocks_hold_their_lines():
    lines = ["vol3d predict '```.nii.gz' -m a", "b\nc"]
    (token,) = RENDER.parse(code_block(lines))
    assert token.type == "fence"
    assert token.content == "vol3d predict '```.nii.gz' -m a\nb?c\n"


def test_numbers():
    assert [number(NAN), number(0.12345), signed(-0.5), signed(0.25)] == ["–", "0.123", "−0.500", "+0.250"]
    found = [duration(s) for s in (0.2, 48.4, 59.7, 725, 3599.6, 7620)]
    assert found == ["0.2 s", "48 s", "1 min 0 s", "12 min 5 s", "1 h 0 min", "2 h 7 min"]


# the report from its facts


def test_a_bare_report_says_what_is_missing(tmp_path):
    text = written(tmp_path, network=None, held_out="too few labels to hold any out")
    assert "No labels were held out, so nothing here says how good the network is" in text
    assert "Too few labels to hold any out." in text
    assert "Paint at least four slices" in text
    for absent in ("Warnings", "Before →", "Held-out slices", "How sure", "How to go on", "![", "IoU", "nan", "None"):
        assert absent not in text
    assert text.endswith("vol3d is research software, not a medical device.\n")


def test_a_full_report_has_every_section_and_picture(tmp_path):
    text = written(tmp_path, **EVERYTHING)
    html = RENDER.render(text)
    heads = re.findall(r"<h2>(.*?)</h2>", html)
    assert heads == [
        "Warnings",
        "Held-out labels",
        "Before → after these labels",
        "Held-out slices",
        "How sure it may be",
        "Data",
        "Training",
        "How to go on",
    ]
    assert re.findall(r'<img src="(.*?)"', html) == [
        "held_out_best.png",
        "held_out_worst.png",
        "reliability.png",
        "curves.png",
        "preview.png",
    ]
    assert "class ball is painted in one slice only" in text
    assert "**before** the held-out labels joined its training" in text
    assert "0.123 before, 0.045 after calibration" in text
    assert "vol3d predict scan.nii.gz -m run" in text
    assert "no answer for b.nii.gz" in text
    assert "None" not in text


@pytest.mark.parametrize("name", [f.name for f in fields(RunReport) if f.name in EVERYTHING])
def test_every_part_stands_alone_and_may_be_missing(tmp_path, name):
    one = written(tmp_path, **{name: EVERYTHING[name]})
    rest = written(tmp_path, **{key: value for key, value in EVERYTHING.items() if key != name})
    bare, full = written(tmp_path), written(tmp_path, **EVERYTHING)
    assert len({one, rest, bare, full}) == 4
    assert len(bare) < len(one) < len(full)
    assert len(bare) < len(rest) < len(full)


def test_scores_stand_beside_each_other(tmp_path):
    rows = cells(RENDER.render(written(tmp_path, **EVERYTHING)), "class")
    assert rows == [
        ["class", "voxels", "IoU", "Dice", "precision", "recall", "interpolation: IoU", "pixels: IoU"],
        ["background", "100", "0.900", "0.800", "0.700", "0.600", "0.800", "0.800"],
        ["ball", "20", "0.600", "0.700", "0.700", "0.600", "0.400", "–"],
        ["mean", "120", "0.750", "0.750", "0.700", "0.600", "0.600", "0.800"],
        ["mean without background", "20", "0.600", "0.700", "0.700", "0.600", "0.400", "–"],
    ]


def test_classes_that_occur_nowhere_have_no_row(tmp_path):
    network = MethodScores("network", (score("background", 0.9), score("ball", NAN, 0)))
    text = written(tmp_path, network=network)
    assert [row[0] for row in cells(RENDER.render(text), "class")] == [
        "class",
        "background",
        "mean",
        "mean without background",
    ]
    assert "Neither drawn nor predicted there: ball." in text
    assert "Mean IoU on held-out labels: **0.900**" in text


@pytest.mark.parametrize(
    ("iou", "said"),
    [
        (0.4, "Interpolation reaches 0.400; the network adds +0.200."),
        (0.602, "Interpolation reaches 0.602: the network is no better."),
        (0.8, "**Interpolation reaches 0.800: better than the network.** Train longer, or paint more."),
    ],
)
def test_the_headline_says_what_the_network_adds(tmp_path, iou, said):
    other = MethodScores("interpolation", (score("background", 0.8), score("ball", iou)))
    text = written(tmp_path, baselines=(other,))
    assert f"Mean IoU without background on held-out labels: **0.600**. {said}" in text


@pytest.mark.parametrize(("weight", "said"), [(0.35, True), (0.0, False)])
def test_a_pixel_classifier_in_the_model_is_told(tmp_path, weight, said):
    text = written(tmp_path, calibration=Calibration(0.1, 0.05, None, weight))
    assert ("pixel classifier, which counts 35 %. That share was chosen on these labels." in text) is said


def test_gain_per_class(tmp_path):
    rows = cells(RENDER.render(written(tmp_path, earlier=Earlier({"ball": 0.7}, 0.7)).split("## Before")[1]), "class")
    assert rows[1:] == [
        ["background", "–", "0.900", "–"],
        ["ball", "0.700", "0.600", "−0.100"],
        ["mean", "0.700", "0.750", "+0.050"],
    ]


def test_data_and_training(tmp_path):
    html = RENDER.render(written(tmp_path))
    assert cells(html, "scan")[1:] == [
        ["scan.nii.gz", "30 × 28 × 26", "500 µm × 500 µm × 2 mm", "12.3 %", "x: 3, z: 2", "1,200", "34"],
        ["dense.nii.gz", "8 × 8 × 8", "100 nm × 100 nm × 100 nm", "100 %", "everything", "500", "12"],
    ]
    assert cells(html, "")[1:] == [
        ["task", "semantic"],
        ["network", "unet, 1,234,567 parameters"],
        ["patch", "48 × 48 × 24 voxels, 2 at a time"],
        ["iterations", "1,500"],
        ["time", "10 min 1 s on cpu"],
        ["seed", "7"],
        ["vol3d", "1.2.3"],
    ]


def test_many_classes_get_a_table_of_their_own(tmp_path):
    names = tuple(f"class {k}" for k in range(9))
    scan = ScanFacts("a", (8, 8, 8), (1.0, 1.0, 1.0), 0.5, {"x": 0, "y": 0, "z": 0}, tuple(range(9)))
    html = RENDER.render(written(tmp_path, classes=names, scans=(scan,), network=None))
    assert cells(html, "scan")[1] == ["a", "8 × 8 × 8", "1 mm × 1 mm × 1 mm", "50 %", "none"]
    assert cells(html, "class")[1:] == [[name, str(k)] for k, name in enumerate(names)]


def test_a_regression_is_told_by_its_values(tmp_path):
    text = written(tmp_path, network=None, classes=(), values={"MAE": 1.25, "R²": 0.5})
    assert "On held-out labels: **MAE 1.25**, **R² 0.5**." in text
    assert cells(RENDER.render(text), "score")[1:] == [["MAE", "1.25"], ["R²", "0.5"]]
    assert "IoU" not in text


def test_odd_names_everywhere(tmp_path):
    full = EVERYTHING | {
        "title": ODD,
        "classes": (ODD, "ball"),
        "scans": (ScanFacts(ODD, (1, 2, 3), (1.0, 1.0, 1.0), 0.5, {"x": 1}, (1, 2)),),
        "network": MethodScores("network", (score(ODD, 0.5), score("ball", 0.5))),
        "baselines": (MethodScores(ODD, (score(ODD, 0.5), score("ball", 0.5)), ODD),),
        "earlier": Earlier({ODD: 0.4}, 0.4),
        "slices": (SlicePicture("a b.png", ODD, 0.5, "only"),),
        "held_out": ODD,
        "warnings": (ODD,),
        "notes": (ODD,),
    }
    html = RENDER.render(written(tmp_path, **full))
    shown = " ".join(ODD.split())
    assert "<script" not in html
    assert "<a " not in html
    assert '<img src="a%20b.png"' in html
    assert {len(row) for row in cells(html, "class")} == {7}
    assert cells(html, "class")[1][0] == shown
    assert cells(html, "scan")[0][-2] == cells(html, "scan")[1][0] == shown
    assert text_of(html).count(shown) >= 9


# pictures


def picture(path):
    with Image.open(path) as opened:
        assert opened.format == "PNG"
        return np.asarray(opened.convert("RGB")).astype(int)


def has(array, color, least=50, slack=30):
    return (np.abs(array - color).max(axis=-1) <= slack).sum() >= least


@pytest.mark.parametrize("shape", [(40, 40, 30), (30, 12, 9), (9, 60, 8), (60, 4, 4), (20, 1, 24)])
def test_a_slice_shows_errors_of_every_kind(tmp_path, shape):
    names = LabelTable.from_codes([0, 1, 2], names={1: "one", 2: "two"})
    axis = 1
    drawn, predicted = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    x, z = (n // 4 for n in (shape[0], shape[2]))
    drawn[: 2 * x, :, :z], predicted[: 2 * x, :, z : 2 * z] = 1, 2
    drawn[2 * x : 3 * x], predicted[2 * x : 3 * x] = 1, 2
    labeled = np.ones(shape, bool)
    labeled[-1:] = False
    rng = np.random.default_rng(0)
    path = slice_png(
        tmp_path / "a.png",
        rng.normal(size=shape).astype(np.float32),
        Affine.from_spacing((1, 1, 2)),
        (axis, shape[axis] // 2),
        drawn,
        labeled,
        predicted,
        names,
        title="scan, slice y=3",
    )
    pixels = picture(path)
    for color in ((58, 134, 255), (255, 145, 0), (214, 40, 110)):
        assert has(pixels, color)
    assert max(pixels.shape) < 2600
    clean = slice_png(
        tmp_path / "b.png", np.zeros(shape), Affine.from_spacing((1, 1, 2)), (1, 0), drawn, labeled, drawn, names
    )
    assert not has(picture(clean), (255, 145, 0), slack=4)


def test_unlabeled_voxels_are_not_looked_at(tmp_path):
    """What a prediction holds where nothing is scored, even no class at all, draws nothing."""
    shape = (12, 12, 12)
    labeled = np.zeros(shape, bool)
    labeled[3:9] = True
    drawn = np.zeros(shape, np.uint8)
    predicted = np.where(labeled, drawn, 77).astype(np.uint8)
    names = LabelTable.from_codes([0, 1])
    arguments = (np.zeros(shape), Affine.from_spacing((1, 1, 1)), (2, 5))
    one = slice_png(tmp_path / "a.png", *arguments, drawn, labeled, predicted, names)
    other = slice_png(tmp_path / "b.png", *arguments, drawn, labeled, drawn, names)
    np.testing.assert_array_equal(picture(one), picture(other))


def test_a_slice_that_is_not_there_is_refused(tmp_path):
    drawn = np.zeros((5, 6, 7), np.uint8)
    known, names, affine = np.ones(drawn.shape, bool), LabelTable.from_codes([0, 1]), Affine.from_spacing((1, 1, 1))
    with pytest.raises(GeometryError, match="expected a plane of a grid"):
        slice_png(tmp_path / "a.png", np.zeros(drawn.shape), affine, (2, 7), drawn, known, drawn, names)
    with pytest.raises(GeometryError, match="of the image's"):
        slice_png(tmp_path / "a.png", np.zeros((5, 6, 8)), affine, (2, 0), drawn, known, drawn, names)
    line = np.zeros((5, 1, 7), np.uint8)
    with pytest.raises(GeometryError, match="a mere line"):
        slice_png(tmp_path / "a.png", np.zeros(line.shape), affine, (0, 2), line, line == 0, line, names)
    assert not list(tmp_path.iterdir())


def test_which_planes_are_looked_at():
    labeled = np.zeros((8, 9, 10), bool)
    assert held_out_planes(labeled) == []
    labeled[:, 4], labeled[:, :, 2] = True, True
    labeled[3] = False
    assert held_out_planes(labeled) == [(1, 4), (2, 2)]
    blocks = np.zeros((8, 9, 10), bool)
    blocks[:4, :3, 2:6] = True
    assert held_out_planes(blocks) == [
        *((0, i) for i in range(4)),
        *((1, i) for i in range(3)),
        *((2, i) for i in range(2, 6)),
    ]
    flat = np.zeros((8, 1, 10), bool)
    flat[2, 0, 3] = True
    assert held_out_planes(flat) == [(1, 0)]
    assert held_out_planes(np.ones((8, 1, 1), bool)) == []


# from a run


TABLE = LabelTable.from_codes([0, 1], names={1: "ball"})
MEANING = SimpleNamespace(table=TABLE, spec=TaskSpec())
FOLDER_NAME = "/somewhere/else/of_me"


def plan():
    network = SimpleNamespace(kind="unet", dimensions=2)
    device = SimpleNamespace(name="cpu")
    config = Config.model_validate({"sampling": {"planes": ["x", "z"]}})
    patch = (16, 16)
    return SimpleNamespace(config=config, network=network, device=device, patch=patch, batch_size=2, planes=(0, 2))


def make_case(name=f"{FOLDER_NAME}/scan.h5:raw", seed=0, count=3):
    """A scan that is stored ZYX and flipped: z of the file is x of the grid."""
    image, truth = balls(seed=seed)
    codes = painted(truth, count)
    labels = SparseLabels(codes, codes != 255, Affine.from_spacing((1, 1, 1)), f"{FOLDER_NAME}/labels.nii.gz")
    x, y, z = image.shape
    scan = {
        "shape": [z, y, x],
        "spacing_mm": [3.0, 2.0, 1.0],
        "order": (2, 1, 0),
        "flips": (True, False, False),
    }
    return Case(name, torch.from_numpy(image[None]), labels, (3.0, 2.0, 1.0), scan)


def outcome(case, split, wrong=0.2, **changes):
    rng = np.random.default_rng(0)
    answer = split.validation.classes.copy()
    answer[~split.validation.labeled] = 0
    answer = np.where(rng.random(answer.shape) < wrong, 1 - answer, answer).astype(np.uint8)
    counts = Contingency.from_labels(answer, split.validation.classes, split.validation.labeled, 2)
    found = Outcome(HeldOutScore.from_counts(counts, TABLE), [answer], 12345, 100, 61.0)
    return replace(found, **changes)


def test_a_run_is_reported_with_its_pictures(tmp_path):
    case = make_case()
    split = hold_out(case.labels, 3, name=case.file_plane)
    baseline = score_interpolation([case], [split], MEANING)
    (tmp_path / "curves.png").touch()
    end = outcome(
        case,
        split,
        baselines=[baseline],
        refitted=True,
        warnings=[f"{FOLDER_NAME}/labels.nii.gz: odd", "see /home/somebody/secret/file.txt too"],
        earlier=HeldOutScore({"background": 0.5, "ball": 0.25}, 0.375, 0.25, 0.5, 0.5),
    )
    path = report_run(tmp_path, plan(), [case], MEANING, [split], end)
    text = path.read_text(encoding="utf-8")
    assert "unet, 2-D, slice by slice across x, z (probabilities averaged), 12,345 parameters" in text
    html = RENDER.render(text)
    for hidden in ("somewhere", "of_me", "somebody", "secret", str(tmp_path)):
        assert hidden not in text
    assert re.findall(r'<img src="(.*?)"', html) == ["held_out_best.png", "held_out_worst.png", "curves.png"]
    shown = dict(re.findall(r"The (best|worst) slice: scan.h5:raw, slice (\w=\d+)", text))
    assert set(shown) == {"best", "worst"}
    assert set(shown.values()) <= set(re.findall(r"[xyz]=\d+", split.said))
    rows = cells(html, "class")
    assert rows[2][2] == f"{end.score.iou['ball']:.3f}"
    assert rows[2][6] == f"{baseline.score.iou['ball']:.3f}"
    assert rows[-2][2] == f"{end.score.mean_iou:.3f}"
    assert rows[-1][3] == f"{end.score.mean_dice_without_background:.3f}"
    assert cells(html, "scan")[1][1:3] == ["26 × 28 × 30", "1 mm × 2 mm × 3 mm"]
    assert cells(html, "scan")[1][4] == "x: 3, y: 3, z: 3"
    for name in ("held_out_best.png", "held_out_worst.png"):
        assert has(picture(tmp_path / name), (58, 134, 255), slack=60)


def test_the_worst_slice_is_the_one_with_most_errors(tmp_path):
    case = make_case(count=4)
    split = hold_out(case.labels, 3, name=case.file_plane)
    planes = held_out_planes(split.validation.labeled)
    end = outcome(case, split, wrong=0.02)
    answer = end.answers[0].copy()
    axis, index = planes[1]
    at = (slice(None),) * axis + (index,)
    answer[at] = 1 - answer[at]
    counts = Contingency.from_labels(answer, split.validation.classes, split.validation.labeled, 2)
    end = replace(end, score=HeldOutScore.from_counts(counts, TABLE), answers=[answer])
    text = report_run(tmp_path, plan(), [case], MEANING, [split], end).read_text(encoding="utf-8")
    assert f"The worst slice: scan.h5:raw, slice {case.file_plane(axis, index)}, mean IoU of foreground 0." in text


def test_without_the_answers_scores_are_as_written_down(tmp_path):
    """A run that was taken up again knows its scores, not what was predicted then."""
    case = make_case()
    split = hold_out(case.labels, 3)
    end = outcome(case, split)
    text = report_run(tmp_path, plan(), [case], MEANING, [split], replace(end, answers=[None])).read_text()
    ball = cells(RENDER.render(text), "class")[2]
    iou = end.score.iou["ball"]
    assert ball[1:] == [
        f"{split.validation.counts(2)[1]:,}",
        f"{iou:.3f}",
        f"{2 * iou / (1 + iou):.3f}",
        "–",
        "–",
    ]
    assert "Held-out slices" not in text
    assert not list(tmp_path.glob("*.png"))


def test_answers_of_another_network_are_refused(tmp_path):
    case = make_case()
    split = hold_out(case.labels, 3)
    end = outcome(case, split)
    with pytest.raises(AssertionError, match="not those that were scored"):
        report_run(tmp_path, plan(), [case], MEANING, [split], replace(end, answers=[1 - end.answers[0]]))
    assert not list(tmp_path.iterdir())


def test_nothing_held_out_is_said(tmp_path):
    case = make_case()
    split = HoldOut(case.labels, None, f"{FOLDER_NAME}/scan.h5:raw: too few labels")
    text = report_run(tmp_path, plan(), [case], MEANING, [split], Outcome(None, [None], 1, 2, 3.0)).read_text()
    assert "No labels were held out" in text
    assert "Scan.h5:raw: too few labels." in text


def test_values_and_objects(tmp_path):
    case = make_case()
    split = hold_out(case.labels, 3)
    regression = SimpleNamespace(table=TABLE, spec=SimpleNamespace(kind="regression"))
    end = Outcome(ValueScore(1.5, 2.5, 0.75), [None], 1, 2, 3.0)
    text = report_run(tmp_path, plan(), [case], regression, [split], end).read_text()
    assert "**MAE 1.5**, **RMSE 2.5**, **R² 0.75**" in text
    assert "IoU" not in text
    objects = SimpleNamespace(table=TABLE, spec=SimpleNamespace(kind="instances"))
    text = report_run(tmp_path, plan(), [case], objects, [split], outcome(case, split)).read_text()
    assert "not of whole objects" in text


def test_calibration_is_passed_on(tmp_path):
    case = make_case()
    split = hold_out(case.labels, 3)
    errors = [SimpleNamespace(expected_calibration_error=value) for value in (0.2, 0.1)]
    (tmp_path / "reliability.png").touch()
    found = SimpleNamespace(before=errors[0], final=errors[1], changes=True, pool_weight=0.2)
    text = report_run(tmp_path, plan(), [case], MEANING, [split], outcome(case, split, calibration=found)).read_text()
    assert "0.200 before, 0.100 after calibration" in text
    assert "](reliability.png)" in text
    assert "which counts 20 %" in text
    found.changes = False
    text = report_run(tmp_path, plan(), [case], MEANING, [split], outcome(case, split, calibration=found)).read_text()
    assert "labels: 0.200. At an error of 0," in text


def test_commands_name_files_without_folders(tmp_path):
    steps = next_steps(tmp_path / "my run", f"{FOLDER_NAME}/scan.h5:raw")
    assert [step.commands[0] for step in steps] == [
        "vol3d predict scan.h5:raw -m 'my run'",
        "vol3d suggest scan.h5:raw -m 'my run'",
        "vol3d train --resume 'my run' -l scan_paint.h5:label",
    ]
    relative = next_steps(type(tmp_path)("runs/a"), "array")
    assert relative[0].commands == ("vol3d predict SCAN.nii.gz -m runs/a",)
    assert [short_name(name) for name in ("/a/b.nii.gz", "b.nii.gz", "array", "c.h5:")] == [
        "b.nii.gz",
        "b.nii.gz",
        "array",
        "c.h5:",
    ]


def test_where_parts_of_slices_are_held_out_the_planes_with_most_of_them_are_looked_at():
    labeled = np.zeros((60, 50, 40), bool)
    labeled[20, :20, :20] = True
    labeled[:25, 30, 20:] = True
    assert held_out_planes(labeled) == [(0, 20), (1, 30)]
