"""What a person looks at: previews, curves, tables, and the files a run leaves."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import types
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from vol3d.errors import FileFormatError, GeometryError, LabelError, ModelError, ResourceError
from vol3d.report import (
    Layer,
    MetricsFile,
    curves_png,
    open_tensorboard,
    preview_png,
    read_metrics,
    read_record,
    write_record,
)
from vol3d.report import figure as paper
from vol3d.report.curves import smooth
from vol3d.report.layout import lay_out, length_text, nice_length
from vol3d.report.learning_curve import MEAN, Curve, CurvePoint, learning_curve_png
from vol3d.report.metrics import COLUMNS
from vol3d.report.overlay import paint_classes, to_gray, zoom
from vol3d.report.planes import interesting_voxel, planes_through
from vol3d.volume import Affine, LabelTable, Orientation

TABLE = LabelTable.from_codes([0, 1, 2], names={1: "wall", 2: "inside"})
UNIT = Affine.from_spacing((1, 1, 1))


ORIENTATIONS = [
    Orientation(order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


def _size(path):
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        return picture.size


def _scene(shape=(20, 18, 12), seed=0):
    rng = np.random.default_rng(seed)
    classes = (np.indices(shape).sum(axis=0) // 6 % 3).astype(np.uint8)
    return rng.normal(size=shape).astype(np.float32) + classes, classes


# planes


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_planes_look_the_same_however_the_grid_is_stored(orientation):
    shape, voxel = (5, 4, 3), (1, 2, 0)
    spacing = Affine.from_spacing((1, 2, 3))
    world = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    stored = orientation.apply(world)
    affine = orientation.apply_affine(spacing, shape)
    where = np.argwhere((stored == np.reshape(voxel, (3, 1, 1, 1))).all(axis=0))[0]
    straight = planes_through(voxel, shape, spacing)
    turned = planes_through(tuple(where), stored.shape[1:], affine)
    for a, b in zip(straight, turned, strict=True):
        np.testing.assert_array_equal(a.cut(world, spacing), b.cut(stored, affine))
        assert (a.left, a.right, a.top, a.bottom) == (b.left, b.right, b.top, b.bottom)
        assert (a.width_mm, a.height_mm) == (b.width_mm, b.height_mm)
        assert b.index == where[b.axis]


def test_right_anterior_and_superior_are_where_the_letters_say():
    world = np.stack(np.meshgrid(*map(np.arange, (5, 4, 3)), indexing="ij"))
    for plane, letters in zip(planes_through((0, 0, 0), (5, 4, 3), UNIT), ("LRAP", "LRSI", "PASI"), strict=True):
        assert plane.left + plane.right + plane.top + plane.bottom == letters
        shown = plane.cut(world, UNIT)
        across, up = (a for a in range(3) if a != plane.world_axis)
        assert (np.diff(shown[across], axis=1) == 1).all()
        assert (np.diff(shown[up], axis=0) == -1).all()


@pytest.mark.parametrize(("shape", "axes"), [((9, 8, 1), [2]), ((1, 8, 7), [0]), ((1, 1, 1), [2, 1, 0])])
def test_a_single_slice_gives_that_slice(shape, axes):
    assert [plane.axis for plane in planes_through((99, -5, 3), shape, UNIT)] == axes
    assert all(0 <= plane.index < shape[plane.axis] for plane in planes_through((99, -5, 3), shape, UNIT))


def test_interesting_voxel_lies_where_most_classes_meet():
    classes = np.zeros((30, 20, 10), np.uint8)
    classes[5:8, 3, 7] = [1, 2, 3]
    assert interesting_voxel(classes)[1:] == (3, 7)
    assert 5 <= interesting_voxel(classes)[0] < 8
    labeled = np.ones(classes.shape, bool)
    labeled[5:8] = False
    classes[20, 11, 2] = 1
    assert interesting_voxel(classes, labeled) == (20, 11, 2)
    avoid = np.zeros(classes.shape, bool)
    avoid[20] = True
    assert interesting_voxel(classes, labeled, avoid)[0] != 20
    assert interesting_voxel(np.zeros((3, 5, 7), np.uint8)) == (1, 2, 3)


def test_interesting_voxel_of_a_big_volume_is_found_through_a_coarse_grid():
    classes = np.broadcast_to(np.arange(700, dtype=np.uint16)[:, None, None] == 400, (700, 900, 800)).view(np.uint8)
    assert interesting_voxel(classes)[0] in range(700)


# overlay


@given(
    classes=hnp.arrays(np.uint8, (6, 7), elements=st.integers(0, 2)),
    labeled=hnp.arrays(np.bool_, (6, 7)),
    line=st.integers(1, 3),
    data=st.data(),
)
def test_unlabeled_codes_change_no_pixel(classes, labeled, line, data):
    picture = np.full((6, 7, 3), 0.5, np.float32)
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    filled = np.array([False, True, True])
    other = np.where(labeled, classes, data.draw(hnp.arrays(np.uint8, (6, 7), elements=st.integers(0, 255))))
    shown = paint_classes(picture, classes, labeled, colors, filled, line)
    np.testing.assert_array_equal(shown, paint_classes(picture, other, labeled, colors, filled, line))
    background = labeled & (classes == 0)
    assert (shown[background] == 128).all()
    assert (shown[~labeled] > 128).all()
    assert (shown[labeled & (classes == 1)] != 128).all()


def test_outlines_have_the_class_colour_and_stay_inside():
    classes = np.zeros((9, 9), np.uint8)
    classes[2:7, 2:7] = 1
    colors = np.array([[0, 0, 0], [255, 0, 0]], np.uint8)
    shown = paint_classes(np.zeros((9, 9, 3), np.float32), classes, None, colors, np.array([False, True]))
    ring = np.zeros((9, 9), bool)
    ring[2:7, 2:7] = True
    ring[3:6, 3:6] = False
    assert (shown[ring] == [255, 0, 0]).all()
    assert (shown[classes == 0] == 0).all()
    assert 0 < shown[4, 4, 0] < 255


def test_gray_window_and_zoom():
    plane = np.array([[-5.0, 0, 5, 10, 20, np.nan, np.inf, -np.inf]])
    np.testing.assert_allclose(to_gray(plane, 0, 10), [[0, 0, 0.5, 1, 1, 0, 1, 0]])
    assert (to_gray(np.full((2, 2), 3), 3, 3) == 0).all()
    assert zoom(np.arange(6).reshape(2, 3), 2, 4).shape == (4, 12)


# layout


@settings(max_examples=200)
@given(
    shape=st.tuples(*[st.integers(1, 2000)] * 3),
    spacing=st.tuples(*[st.floats(1e-6, 10)] * 3),
    rows=st.integers(1, 6),
    lines=st.integers(0, 5),
)
def test_pictures_fit_the_page_and_do_not_overlap(shape, spacing, rows, lines):
    planes = planes_through((0, 0, 0), shape, Affine.from_spacing(spacing))
    layout = lay_out(planes, rows, titled=True, legend_lines=lines)
    assert layout.width < 12
    assert layout.height < 25
    boxes = [layout.box(row, column) for row in range(rows) for column in range(len(planes))]
    for left, bottom, wide, high in boxes:
        assert left > 0
        assert bottom * layout.height > 0.1
        assert left + wide < 1
        assert bottom + high < 1
        assert min(wide * layout.width, high * layout.height) > 0.02
    for (l1, b1, w1, h1), (l2, b2, w2, h2) in itertools.combinations(boxes, 2):
        assert min(l1 + w1, l2 + w2) <= max(l1, l2) or min(b1 + h1, b2 + h2) <= max(b1, b2)
    if not any(place.note for place in layout.places):
        scales = [p.width / q.width_mm for p, q in zip(layout.places, planes, strict=True)]
        scales += [p.height / q.height_mm for p, q in zip(layout.places, planes, strict=True)]
        np.testing.assert_allclose(scales, scales[0], rtol=1e-6)


@given(st.floats(1e-9, 1e4))
def test_scale_bar_is_round_and_short(length):
    nice = nice_length(length)
    assert nice <= length * (1 + 1e-6)
    assert length / nice < 2.5 + 1e-6
    digits = f"{nice:e}".partition("e")[0]
    assert float(digits) in (1, 2, 5)


def test_lengths_read_well():
    assert [length_text(v) for v in (20, 1, 0.02, 5e-4, 5e-7)] == ["20 mm", "1 mm", "20 µm", "500 nm", "0.5 nm"]


# preview


def test_preview_shows_layers_as_rows(tmp_path):
    image, classes = _scene()
    one = _size(preview_png(tmp_path / "one.png", image, UNIT, [("scan", None)], TABLE))
    layers = [("scan", None), ("prediction", classes), Layer("painted", classes, classes == 1)]
    three = _size(preview_png(tmp_path / "three.png", image, UNIT, layers, TABLE, title="scan.nii.gz"))
    assert three[0] == one[0]
    assert three[1] > 2 * one[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.png", "three.png"]


@pytest.mark.parametrize("shape", [(1, 1, 1), (40, 30, 1), (1, 30, 5), (200, 3, 3), (3, 3, 300)])
def test_preview_of_odd_shapes(tmp_path, shape):
    image, classes = _scene(shape)
    affine = Affine.from_spacing((0.004, 0.004, 0.05))
    width, height = _size(preview_png(tmp_path / "p.png", image, affine, [("labels", classes)], TABLE))
    assert 300 < width < 2000
    assert 80 < height < 3000


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_preview_of_channels(tmp_path, channels, dtype):
    image, classes = _scene((8, 7, 6))
    image = np.stack([image * 20] * channels).astype(dtype)
    assert min(_size(preview_png(tmp_path / "p.png", image, UNIT, [("image", None), ("labels", classes)], TABLE))) > 80


def test_preview_of_hopeless_images(tmp_path):
    for value in (np.nan, 7.0):
        path = preview_png(tmp_path / "p.png", np.full((6, 5, 4), value), UNIT, [("scan", None)], TABLE)
        assert min(_size(path)) > 80


def test_preview_of_a_big_volume_is_quick_and_small(tmp_path):
    image = np.broadcast_to(np.arange(3000, dtype=np.uint16)[:, None, None], (3000, 2000, 1500))
    classes = np.broadcast_to(np.uint8(1), image.shape)
    path = preview_png(tmp_path / "p.png", image, UNIT, [("labels", classes)], TABLE)
    assert max(_size(path)) < 2000


def test_preview_ignores_codes_under_unlabeled_voxels(tmp_path):
    image, classes = _scene()
    labeled = np.random.default_rng(1).random(classes.shape) < 0.4
    pictures = []
    for number, shown in enumerate((classes, np.where(labeled, classes, 200).astype(np.uint8))):
        path = preview_png(tmp_path / f"{number}.png", image, UNIT, [Layer("painted", shown, labeled)], TABLE)
        pictures.append(path.read_bytes())
    negative = np.where(labeled, classes.astype(int), -1)
    pictures.append(preview_png(tmp_path / "n.png", image, UNIT, [("painted", negative)], TABLE).read_bytes())
    assert pictures[0] == pictures[1] == pictures[2]


def test_preview_is_the_same_for_the_same_input(tmp_path):
    image, classes = _scene()
    a, b = (preview_png(tmp_path / f"{n}.png", image, UNIT, [("x", classes)], TABLE).read_bytes() for n in "ab")
    assert a == b


def test_preview_looks_beside_painted_planes(tmp_path, monkeypatch):
    from vol3d.report import preview

    image, classes = _scene((21, 21, 21))
    painted = np.zeros(classes.shape, bool)
    painted[10], painted[:, 10], painted[:, :, 10] = True, True, True
    seen = []
    monkeypatch.setattr(preview, "planes_through", lambda voxel, *a: seen.append(voxel) or planes_through(voxel, *a))
    preview_png(tmp_path / "a.png", image, UNIT, [Layer("s", classes, painted), ("p", classes)], TABLE)
    preview_png(tmp_path / "b.png", image, UNIT, [Layer("s", classes, painted)], TABLE)
    preview_png(
        tmp_path / "c.png", image, UNIT, [Layer("s", classes, painted), ("p", classes)], TABLE, through=(1, 2, 3)
    )
    assert 10 not in seen[0]
    assert seen[1:] == [(10, 10, 10), (1, 2, 3)]


def test_preview_with_many_classes_and_strange_names(tmp_path):
    names = {k: f"organ_{k} $\\frac{{1}}$ 神" for k in range(1, 60)}
    table = LabelTable.from_codes(list(range(60)), names=names)
    classes = np.random.default_rng(0).integers(0, 60, (30, 30, 30)).astype(np.uint8)
    path = preview_png(tmp_path / "p.png", classes * 1.0, UNIT, [("$a_b$ " * 40, classes)], table, title="π" * 500)
    assert max(_size(path)) < 3000


def test_preview_refuses_what_does_not_fit(tmp_path):
    image, classes = _scene((6, 5, 4))
    with pytest.raises(GeometryError, match="layer 'prediction' has shape"):
        preview_png(tmp_path / "p.png", image, UNIT, [("prediction", classes[1:])], TABLE)
    with pytest.raises(GeometryError, match="expected an image"):
        preview_png(tmp_path / "p.png", image[0], UNIT, [("scan", None)], TABLE)
    with pytest.raises(GeometryError, match="at least one layer"):
        preview_png(tmp_path / "p.png", image, UNIT, [], TABLE)
    with pytest.raises(LabelError, match="found 7; turn codes into indices"):
        preview_png(tmp_path / "p.png", image, UNIT, [("codes", classes * 0 + 7)], TABLE)
    with pytest.raises(ResourceError, match="cannot be written"):
        preview_png(tmp_path / "missing" / "p.png", image, UNIT, [("scan", None)], TABLE)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_drawing_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "p.png"
    path.write_bytes(b"old")
    drawing = paper.new_figure(2, 2)

    def half(target, **_):
        target.write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drawing, "savefig", half)
    with pytest.raises(ResourceError, match="No space left"):
        paper.save_png(drawing, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_nothing_heavy_is_imported_before_something_is_drawn():
    code = (
        "import sys, vol3d.report; print(sorted({'matplotlib', 'torch', 'rich', 'monai'} & set(sys.modules)));"
        "import numpy as np; from vol3d.volume import Affine, LabelTable; from pathlib import Path; import tempfile;"
        "folder = Path(tempfile.mkdtemp());"
        "vol3d.report.preview_png(folder / 'p.png', np.zeros((3, 3, 3)), Affine.from_spacing((1, 1, 1)),"
        " [('x', None)], LabelTable.from_codes([0, 1]));"
        "vol3d.report.curves_png(folder / 'c.png', []);"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "False"]


def test_long_texts_lose_their_middle():
    assert paper.shorten("abc", 3) == "abc"
    assert paper.shorten("abcdefghij", 5) == "ab…ij"
    assert paper.printable("a\nb") == "a b"
    assert paper.printable("µm 神") == "µm □"


# curves


@dataclass(frozen=True)
class Logged:
    iteration: int
    loss: float
    learning_rate: float
    validation: float | None = None


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [Logged(1, 0.7, 1e-3)],
        [Logged(i, 1 / i, 1e-3, 0.5 if i % 10 == 0 else None) for i in range(1, 200)],
        [{"iteration": i, "loss": 10.0**-i} for i in range(12)],
        [{"iteration": i, "loss": -1.0 * i, "validation": math.nan, "learning_rate": 0.0} for i in range(40)],
        [{"iteration": i, "loss": math.nan if i % 3 else 2.0} for i in range(9)],
        [{"iteration": 5, "loss": math.nan, "validation": 1.0}],
    ],
)
def test_curves_of_any_history(tmp_path, rows):
    path = curves_png(tmp_path / "curves.png", rows, title="run $x$", marks=[(3, "all slices")])
    width, height = _size(path)
    assert width == 1200
    assert height > 300


def test_a_panel_per_quantity(tmp_path):
    loss = [{"iteration": i, "loss": 1.0 + i} for i in range(5)]
    full = [row | {"validation": 0.5, "learning_rate": 0.1} for row in loss]
    heights = [_size(curves_png(tmp_path / "c.png", rows))[1] for rows in (loss, full)]
    assert heights[1] > heights[0] + 300


@given(hnp.arrays(np.float64, st.integers(0, 40), elements=st.floats(-1e6, 1e6)), st.floats(0, 100))
def test_smoothing_stays_within_what_it_saw(values, window):
    averaged = smooth(values, window)
    assert averaged.shape == values.shape
    for n in range(len(values)):
        slack = 1e-9 * (1 + np.abs(values[: n + 1]).max())
        assert values[: n + 1].min() - slack <= averaged[n] <= values[: n + 1].max() + slack
    if len(values):
        assert averaged[0] == pytest.approx(values[0])


# metrics.csv

_FLOATS = st.floats(allow_nan=False, allow_infinity=True)
_ROWS = st.lists(
    st.builds(
        Logged,
        iteration=st.integers(0, 10**9),
        loss=_FLOATS,
        learning_rate=_FLOATS,
        validation=st.none() | _FLOATS,
    ),
    max_size=6,
)


@settings(max_examples=50, deadline=None)
@given(before=_ROWS, after=_ROWS)
def test_metrics_come_back_as_they_were_written(tmp_path_factory, before, after):
    path = tmp_path_factory.mktemp("run") / "metrics.csv"
    file = MetricsFile(path, before)
    for row in after:
        file.add(row)
    read = read_metrics(path)
    assert len(read) == len(before) + len(after)
    for row, found in zip([*before, *after], read, strict=True):
        assert tuple(found) == COLUMNS
        for name in COLUMNS:
            assert found[name] == getattr(row, name, None)


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    rows = [Logged(i, 1.0 / i, 0.1) for i in range(1, 6)]
    file = MetricsFile(path)
    for row in rows:
        file.add(row)
    with path.open("a") as torn:
        torn.write("6,0.1")  # the process died here
    assert [row["iteration"] for row in read_metrics(path)] == [1, 2, 3, 4, 5]
    MetricsFile(path, rows[:3]).add({"iteration": 4, "loss": math.nan, "unknown": 1.0})
    read = read_metrics(path)
    assert [row["iteration"] for row in read] == [1, 2, 3, 4]
    assert read[3]["loss"] is None
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_metrics_that_cannot_be_written_or_read(tmp_path):
    with pytest.raises(ResourceError, match="cannot be written"):
        MetricsFile(tmp_path / "missing" / "metrics.csv")
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ResourceError, match=r"metrics\.csv cannot be written"):
        file.add(Logged(1, 1.0, 1.0))
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_metrics(path)
    with pytest.raises(FileFormatError, match="is missing"):
        read_metrics(tmp_path / "other.csv")
    for text, fault in (("a,b\n1,x\n", "line 2: expected numbers"), ("a,b\n1\n", "line 2: expected 2 cells")):
        bad = tmp_path / "bad.csv"
        bad.write_text(text)
        with pytest.raises(FileFormatError, match=fault):
            read_metrics(bad)
    (tmp_path / "empty.csv").touch()
    assert read_metrics(tmp_path / "empty.csv") == []


# record and TensorBoard


def test_record_comes_back(tmp_path):
    record = {"a": [1, 2.5, math.nan, (math.inf, None)], "b": {"c": "µ", 3: True}}
    assert write_record(tmp_path, record) == tmp_path / "run.json"
    assert read_record(tmp_path) == {"a": [1, 2.5, None, [None, None]], "b": {"c": "µ", "3": True}}


def test_damaged_records_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"run\.json is missing"):
        read_record(tmp_path)
    for text in ("{", json.dumps([1])):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ModelError, match=r"run\.json: expected the record of a run"):
            read_record(tmp_path)


def test_tensorboard_only_where_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("vol3d.report.board.util.find_spec", lambda _: None)
    assert open_tensorboard(tmp_path) is None
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = lambda folder: ("writer", folder)
    for name in ("torch", "torch.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr("vol3d.report.board.util.find_spec", lambda name: name == "tensorboard")
    assert open_tensorboard(tmp_path) == ("writer", str(tmp_path))


def test_learning_curves_are_drawn(tmp_path):
    points = tuple(
        CurvePoint(n, n / 40, {"a": (0.5, 0.6), "b": (math.nan,), MEAN: (n / 10, n / 10 + 0.05)}) for n in (3, 5, 9)
    )
    path = learning_curve_png(tmp_path / "c.png", [Curve("3-D", points), Curve("2-D", points[:1])], title="curves")
    from matplotlib.image import imread

    high, wide, _ = imread(path).shape
    assert high > wide > 1000
    assert imread(path).std() > 0.05
