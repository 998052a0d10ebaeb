"""Quicker precisions than float32: what they answer, and that they are used only where they prove themselves."""

import dataclasses
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from workflow_parts import TINY, UNLABELED, balls, painted

import vol3d
from vol3d import io
from vol3d.cli.main import main
from vol3d.config import UNetConfig, UNetPlusPlusConfig
from vol3d.errors import ConfigError, ModelError
from vol3d.inference import plan_axes, plan_for
from vol3d.inference.int8 import Int8Network, in_int8
from vol3d.networks import LogPool, build, reestimate
from vol3d.volume import Affine, Volume
from vol3d.workflows import device, precision
from vol3d.workflows.device import Device, emulates_bf16, pick_device
from vol3d.workflows.large import predict_large
from vol3d.workflows.listener import Quiet
from vol3d.workflows.outputs import PredictOptions
from vol3d.workflows.precision import LEAST_AGREEMENT, Trial, require_precision, tried

pytestmark = pytest.mark.usefixtures("single_threaded")
ENCODER = ((8, 8), (16, 16))
KINDS = {
    "same": UNetConfig(encoder=ENCODER, padding="same"),
    "valid": UNetConfig(encoder=ENCODER, padding="valid"),
    "interpolated": UNetConfig(encoder=ENCODER, padding="valid", up="interpolate"),
    "2-D": UNetConfig(encoder=ENCODER, padding="same", dimensions=2),
    "U-Net++": UNetPlusPlusConfig(widths=(8, 16), dimensions=2),
}


class Noting(Quiet):
    """Keeps what was told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def smooth(shape, seed=0):
    """A float32 image with structure and noise, (1, *shape)."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.sin(np.linspace(0, n / 4, n)) for n in shape], indexing="ij")
    return (sum(axes) + 0.2 * rng.normal(size=shape)).astype(np.float32)[None]


def drawn(config, seed=0):
    """A network with drawn weights whose BatchNorm knows images like these."""
    network = build(config, 1, 3, generator=torch.Generator().manual_seed(seed))
    size = network.input_size((16,) * network.dimensions)
    reestimate(network, [torch.from_numpy(smooth(size, n))[None] for n in range(2)])
    return network.eval()


def examples(network, count=3):
    size = network.input_size((20,) * network.dimensions)
    return [torch.from_numpy(smooth(size, 10 + n))[None] for n in range(count)]


@pytest.mark.parametrize(
    "kind", [kind if kind in {"valid", "2-D"} else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
@torch.no_grad()
def test_int8_answers_nearly_the_same_at_any_size(kind):
    network = drawn(KINDS[kind])
    quick = Int8Network(network, examples(network)).eval()
    assert (quick.margin, quick.total_stride, quick.local) == (network.margin, network.total_stride, network.local)
    for least in ((17, 22, 30), (33, 20, 18)):
        image = torch.from_numpy(smooth(network.input_size(least[: network.dimensions]), 5))[None]
        exact, found = network(image), quick(image)
        assert found.shape == exact.shape
        off = (found - exact).abs()
        assert 0 < off.max() < 0.2 * (exact.max() - exact.min())
        assert off.mean() < 0.03 * (exact.max() - exact.min())


@torch.no_grad()
def test_a_pool_keeps_its_other_source_as_it_is():
    network = drawn(KINDS["same"])
    pool = LogPool(network, 0.5)
    batch = torch.cat([examples(network, 1)[0], torch.log_softmax(torch.randn(1, 3, 20, 20, 20), 1)], 1)
    quick = in_int8(pool, [batch])
    assert isinstance(pool.network, type(network))
    own = quick.network(batch[:, :1])
    assert torch.equal(quick(batch), torch.lerp(own, batch[:, 1:], 0.5))
    with pytest.raises(ModelError, match="int8 is for vol3d's networks, found Identity"):
        in_int8(torch.nn.Identity(), [batch])


def plans_for(network, shape, planes):
    return plan_axes(network, shape, planes, memory_bytes=1e9, bytes_per_voxel=1.0)


NAMES = ("air", "wall", "core")


@pytest.fixture
def with_bf16(monkeypatch):
    """Networks as small as these can have it anywhere."""
    monkeypatch.setattr(device, "_cpu_flags", set)


@pytest.fixture
def lenient(monkeypatch, with_bf16):
    """Weights that are drawn leave classes close to each other."""
    monkeypatch.setattr(precision, "LEAST_AGREEMENT", 0.7)
    monkeypatch.setattr(precision, "LEAST_DICE", 0.5)


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("wanted", ["bf16", "int8"])
def test_a_precision_that_agrees_is_used(wanted):
    network, image = drawn(KINDS["2-D"]), smooth((24, 30, 26))
    plans = plans_for(network, image.shape[1:], (0, 2))
    quick, name, trial = tried(network, image, plans, wanted, Device("cpu"), NAMES)
    assert trial is not None
    assert trial.objection is None
    if wanted == "bf16":
        assert (quick, name) == (network, "bf16")
    else:
        assert isinstance(quick, Int8Network)
        assert name == "float32"


def test_a_precision_that_does_not_agree_is_not_used(monkeypatch):
    network, image = drawn(KINDS["2-D"]), smooth((24, 30, 26))
    monkeypatch.setattr(precision, "in_int8", lambda _network, _examples: drawn(KINDS["2-D"], seed=1))
    plans = plans_for(network, image.shape[1:], (2,))
    used, name, trial = tried(network, image, plans, "int8", Device("cpu"), NAMES)
    assert (used, name) == (network, "float32")
    assert trial is not None
    assert trial.agreement < LEAST_AGREEMENT
    assert trial.said.endswith("fewer than 99.9 %: predicting in float32")


@pytest.mark.parametrize(
    ("counts", "objection"),
    [
        ([[99000, 0, 0], [0, 500, 0], [0, 0, 500]], None),
        ([[99000, 0, 0], [200, 300, 0], [0, 0, 500]], "fewer than 99.9 %"),
        ([[99999, 0, 0], [40, 0, 0], [0, 0, 500]], "class wall has a Dice of 0.000, less than 0.99"),
        ([[99000, 0, 0], [0, 500, 0], [30, 0, 470]], "class core has a Dice of 0.969, less than 0.99"),
        ([[99000, 0, 0], [0, 500, 0], [0, 0, 0]], "class core was not among them"),
    ],
)
def test_every_class_has_to_agree(counts, objection):
    trial = Trial("int8", np.array(counts), NAMES, 2.0)
    assert trial.objection == objection
    assert trial.said.startswith(f"int8: {100 * trial.agreement:.3f} % of the labels")
    assert "2.0 × as fast" in trial.said


def test_bf16_is_refused_where_it_is_emulated(trained, monkeypatch):
    for flags, emulated in (({"sse2", "avx2"}, True), ({"sse2", "avx512bw"}, False), (set(), False)):
        monkeypatch.setattr(device, "_cpu_flags", lambda flags=flags: flags)
        assert emulates_bf16() is emulated
        require_precision(trained, PredictOptions(precision="bf16"), Device("cuda:0"))
        if emulated:
            with pytest.raises(ConfigError, match="no instructions for bf16"):
                require_precision(trained, PredictOptions(precision="bf16"), Device("cpu"))
            with pytest.raises(ConfigError, match="no instructions for bf16"):
                pick_device("cpu", "bf16")
        else:
            require_precision(trained, PredictOptions(precision="bf16"), Device("cpu"))
            assert pick_device("cpu", "bf16").precision == "bf16"


def test_labels_are_counted_by_class():
    class Threshold(torch.nn.Module):
        margin, total_stride, in_channels, classes, local = (0, 0, 0), (1, 1, 1), 1, 2, True

        def __init__(self, at):
            super().__init__()
            self.at = at

        def input_size(self, size):
            return tuple(size)

        def forward(self, x):
            return torch.cat([self.at - x, x - self.at], 1)

    image = np.arange(1000, dtype=np.float32).reshape(1, 10, 10, 10)
    network = Threshold(499.5)
    plan = plan_for(network, (10, 10, 10), memory_bytes=1e9, bytes_per_voxel=1.0)
    _, name, trial = tried(network, image, (plan,), "bf16", Device("cpu"), ("below", "above"))
    assert name == "bf16"
    assert trial is not None
    assert trial.counts.sum() == 8 * 1000
    assert trial.counts[0, 1] == trial.counts[1, 0] == 0
    assert trial.counts[1, 1] > 0


def test_float32_is_not_tried():
    network = drawn(KINDS["2-D"])
    assert tried(network, smooth((8, 8, 8)), (), "float32", Device("cpu"), NAMES) == (network, "float32", None)


def test_what_is_missing_is_named(monkeypatch):
    network = drawn(KINDS["2-D"])
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ModelError, match=r"int8 needs OpenVINO and NNCF .*pip install 'vol3d\[cpu\]'"):
        Int8Network(network, examples(network))


def test_nothing_is_reported_to_anybody():
    code = (
        "import sys; from vol3d.inference.int8 import _tools; _tools(); "
        "sys.exit(any('openvino_telemetry' in name for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_network_that_looks_at_everything_is_not_had():
    network = build(UNetConfig(encoder=ENCODER, padding="same", normalization="instance"), 1, 3).eval()
    with pytest.raises(ModelError, match="looks at all of its input"):
        Int8Network(network, examples(network))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    image, classes = balls()
    run = tmp_path_factory.mktemp("int8") / "run"
    return vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=TINY, output=run).bundle


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("wanted", ["bf16", "int8"])
def test_a_prediction_says_how_its_precision_did(trained, wanted):
    scan, tell = Volume(balls()[0][None], Affine.from_spacing((1.0, 1.0, 1.0)), "scan"), Noting()
    exact = vol3d.predict(scan, trained)
    found = vol3d.predict(scan, trained, precision=wanted, listener=tell)
    assert exact.trial is None
    assert isinstance(found.trial, Trial)
    assert found.trial.objection is None
    assert found.trial.agreement > 0.98
    assert (found.codes == exact.codes).mean() > 0.98
    assert tell.notes == [f"scan: {found.trial.said}"]


@pytest.mark.usefixtures("lenient")
def test_a_scan_in_parts_too(trained, tmp_path):
    scan = Volume(balls((40, 36, 34))[0][None], Affine.from_spacing((1.0, 1.0, 1.0)), "scan")
    io.write_image(str(tmp_path / "scan.h5"), scan.array, scan)
    choice = PredictOptions(precision="int8", tile=(24, 24, 24), preview=False)
    tell = Noting()
    found = predict_large(str(tmp_path / "scan.h5"), trained, str(tmp_path / "out.h5"), choice, tell)
    assert found.trial is not None
    assert found.trial.objection is None
    assert any("int8: " in note for note in tell.notes)
    exact = vol3d.predict(str(tmp_path / "scan.h5"), trained, tmp_path / "exact.h5", preview=False)
    with h5py.File(tmp_path / "out.h5") as file:
        codes = file["label"][()].transpose()
    assert (codes == exact.codes).mean() > 0.98


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({"precision": "fp16"}, "cpu", "expected precision float32, bf16, int8, found 'fp16'"),
        ({"precision": "int8"}, "cuda:0", "int8 is for CPUs"),
        ({"precision": "bf16", "uncertainty": True}, "cpu", "--uncertainty goes with float32 alone"),
        ({"precision": "bf16", "probabilities": True}, "cpu", "--probabilities goes with float32 alone"),
    ],
)
def test_what_cannot_be_is_refused(trained, options, name, message):
    with pytest.raises(ConfigError, match=message):
        require_precision(trained, PredictOptions(**options), Device(name))


def test_objects_are_told_apart_in_float32_alone(trained):
    objects = dataclasses.replace(trained, task=trained.task.model_copy(update={"kind": "instances"}))
    with pytest.raises(ConfigError, match="task instances goes with float32 alone"):
        require_precision(objects, PredictOptions(precision="bf16"), Device("cpu"))


def test_a_refusal_comes_before_anything_is_written(trained, tmp_path, capsys, monkeypatch):
    scan = Volume(balls()[0][None], Affine.from_spacing((1.0, 1.0, 1.0)), "scan")
    io.write_image(str(tmp_path / "scan.nii.gz"), scan.array, scan)
    trained.save(tmp_path / "model.safetensors")
    arguments = ["predict", str(tmp_path / "scan.nii.gz"), "-m", str(tmp_path / "model.safetensors")]
    assert main([*arguments, "--precision", "int8", "--uncertainty"]) == 2
    assert "float32 alone" in capsys.readouterr().err
    monkeypatch.setattr(precision, "INT8_NEEDS", ("openvino", "no_such_package"))
    for more in ([], ["--dry-run"]):
        assert main([*arguments, "--precision", "int8", *more]) == 2
        assert "pip install 'vol3d[cpu]'" in capsys.readouterr().err
    assert not (tmp_path / "scan_seg.nii.gz").exists()
