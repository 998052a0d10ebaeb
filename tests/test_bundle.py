import json
import os
import pickle
import random
import subprocess
import sys
import time
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vol3d.bundle import ModelBundle, read_header
from vol3d.config import UNetConfig
from vol3d.errors import ConfigError, ModelError, ResourceError
from vol3d.networks import build
from vol3d.volume import LabelTable

CONFIG = UNetConfig(encoder=((4, 6), (6, 8)), padding="valid", kernels=((3, 3, 1), (3, 3, 3)))
TABLE = LabelTable.from_codes([0, 1, 40, 70000], unlabeled=(255,), names={40: "tubule/wall"})


def _bundle(**changes):
    network = build(CONFIG, 2, len(TABLE), generator=torch.Generator().manual_seed(3))
    parts = {
        "network": CONFIG,
        "in_channels": 2,
        "weights": dict(network.state_dict()),
        "preprocessing": {"spacing_mm": [1.0, 0.5, 2.25], "normalization": "zscore", "window": None},
        "labels": TABLE,
        "statistics": "running",
        "training_range": {"orientation": "RAS", "channels": [{"p1": -3.0, "p99": 17.123456789}]},
        "provenance": {"vol3d": "0.1", "versions": {"torch": "2.13.0+cpu"}, "data": ["ab" * 32]},
    }
    return ModelBundle(**{**parts, **changes})


@pytest.fixture
def saved(tmp_path):
    return _bundle().save(tmp_path / "model.safetensors")


def _rewrite(path, edit=lambda header: header, tensors=None, outer=lambda entries: entries, tail=b""):
    """A copy of a model with another header."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    header = edit(json.loads(entries["__metadata__"]["vol3d"]))
    entries["__metadata__"]["vol3d"] = header if isinstance(header, str) else json.dumps(header)
    text = json.dumps(outer({**entries, **(tensors or {})})).encode()
    changed = path.with_name("changed.safetensors")
    changed.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :] + tail)
    return changed


def test_what_is_saved_is_loaded(saved):
    before, after = _bundle(), ModelBundle.load(saved)
    for part in ("network", "in_channels", "preprocessing", "labels", "statistics", "training_range", "provenance"):
        assert getattr(after, part) == getattr(before, part)
    assert after.weights.keys() == before.weights.keys()
    assert all(torch.equal(after.weights[name], before.weights[name]) for name in before.weights)
    assert after.weights_sha256 == before.weights_sha256
    assert [path.name for path in saved.parent.iterdir()] == ["model.safetensors"]


def test_the_same_model_is_the_same_file(saved, tmp_path):
    again = ModelBundle.load(saved).save(tmp_path / "again.safetensors")
    assert again.read_bytes() == saved.read_bytes()


def test_build_gives_the_network_in_evaluation_mode_and_keeps_its_own_weights(saved):
    bundle = ModelBundle.load(saved)
    network = bundle.build()
    assert not network.training
    image = torch.randn(1, 2, 24, 24, 20, generator=torch.Generator().manual_seed(0))
    reference = build(CONFIG, 2, len(TABLE), generator=torch.Generator().manual_seed(3)).eval()
    with torch.no_grad():
        assert torch.equal(network(image), reference(image))
        next(network.parameters()).zero_()
        assert torch.equal(bundle.build()(image), reference(image))


def test_current_statistics_are_those_of_the_input():
    network = _bundle(statistics="current").build()
    image = torch.randn(1, 2, 24, 24, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(network(image), network(image * 5 + 2), atol=1e-2)


def test_channels_last_weights_are_saved_all_the_same(saved, tmp_path):
    network = build(CONFIG, 2, len(TABLE), generator=torch.Generator().manual_seed(3))
    network.to(memory_format=torch.channels_last_3d)
    other = _bundle(weights=dict(network.state_dict())).save(tmp_path / "last.safetensors")
    assert other.read_bytes() == saved.read_bytes()


def test_the_header_needs_no_torch(saved):
    program = (
        "import sys, json; from vol3d.bundle import read_header; header = read_header(sys.argv[1]); "
        "assert 'torch' not in sys.modules and 'monai' not in sys.modules; print(json.dumps(header))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(saved)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    header = json.loads(done.stdout)
    assert header == read_header(saved)
    assert header["parameters"] == sum(p.numel() for p in _bundle().build().parameters())
    assert LabelTable.from_json(header["labels"]) == TABLE


def test_weights_that_are_not_numbers_are_refused():
    weights = dict(_bundle().weights)
    name = next(iter(weights))
    for value in (float("nan"), float("inf")):
        broken = {**weights, name: torch.full_like(weights[name], value)}
        with pytest.raises(ModelError, match="NaN or Inf"):
            _bundle(weights=broken)


def test_weights_that_do_not_fit_are_refused():
    weights = dict(_bundle().weights)
    name = sorted(weights)[0]
    for broken in (
        {key: value for key, value in weights.items() if key != name},
        {**weights, name: weights[name][:1]},
        {**weights, name: weights[name].half()},
        {**weights, "0.surplus": torch.zeros(1)},
    ):
        with pytest.raises(ModelError, match="weights and network differ"):
            _bundle(weights=broken)
    with pytest.raises(ModelError, match="weights and network differ"):
        _bundle(in_channels=1)
    with pytest.raises(ModelError, match="expected statistics"):
        _bundle(statistics="best")


@pytest.mark.parametrize(
    "provenance",
    [
        {"data": "/home/ann/scan"},
        {"data": [{"name": "scan.nii.gz"}]},
        {"a": {"b": "C:\\scans"}},
        {"kidney.h5": 1},
        {"data": ("~/x",)},
    ],
)
def test_no_file_is_named(provenance):
    for part in ("provenance", "training_range", "preprocessing"):
        with pytest.raises(ModelError, match=f"{part}.* must not name files"):
            _bundle(**{part: provenance})


def test_the_name_must_say_what_it_is(tmp_path):
    with pytest.raises(ConfigError, match=r"must end in \.safetensors"):
        _bundle().save(tmp_path / "model.pt")


def test_no_room_leaves_the_old_model(saved):
    import resource

    before = saved.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1000, len(before) - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(ResourceError, match="cannot be written"):
                _bundle(statistics="current").save(saved)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert saved.read_bytes() == before
        assert len(list(saved.parent.iterdir())) == 1


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.pkl"])
def test_r29_a_pickle_is_refused_and_never_executed(tmp_path, protocol, name):
    trap = tmp_path / "executed"
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Touch(trap), protocol))
    for read in (ModelBundle.load, read_header):
        with pytest.raises(ModelError, match=r"a pickle or an archive" if protocol > 1 else "not a safetensors file"):
            read(path)
    assert not trap.exists()
    pickle.loads(path.read_bytes())
    assert trap.exists()  # the trap works


def test_r29_a_torch_file_or_an_archive_is_refused(tmp_path):
    trap = tmp_path / "executed"
    torch.save({"weights": Touch(trap)}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Touch(trap)))
    torch.save(Touch(trap), tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    for name in ("model.pt", "model.zip", "legacy.pth"):
        with pytest.raises(ModelError, match="a pickle or an archive"):
            ModelBundle.load(tmp_path / name)
    assert not trap.exists()


def test_r29_no_length_of_a_true_header_looks_like_a_pickle(tmp_path):
    lengths = set()
    for extra in range(0, 300, 3):
        path = _bundle(provenance={"note": "x" * extra}).save(tmp_path / "model.safetensors")
        lengths.add(path.read_bytes()[0])
        assert read_header(path)["provenance"]["note"] == "x" * extra
    assert 0x80 in lengths


def test_r34_expressions_are_inert_text(saved, tmp_path):
    trap = tmp_path / "executed"
    code = f"__import__('os').system('touch {trap}')"

    def edit(header):
        header["labels"]["classes"][0]["name"] = code
        header["training_range"] = {"_target_": "os.system", "eval": "1 + 1", "${oc.env:HOME}": "{{ 7 * 7 }}"}
        return header

    bundle = ModelBundle.load(_rewrite(saved, edit))
    bundle.build()
    assert bundle.labels.names[0] == code
    assert bundle.training_range["eval"] == "1 + 1"
    for value in ("2 + 2", "3", code, 3.0, True, None):
        with pytest.raises(ModelError):
            ModelBundle.load(_rewrite(saved, lambda header, v=value: {**header, "in_channels": v}))
        with pytest.raises(ModelError):
            ModelBundle.load(
                _rewrite(saved, lambda header, v=value: {**header, "network": {**header["network"], "up_bias": v or 7}})
                if value is not True
                else _rewrite(saved, lambda header: {**header, "network": {**header["network"], "_target_": code}})
            )
    assert not trap.exists()


def _tensor(name, shape=(1,), begin=0, end=4, dtype="F32"):
    return {name: {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}}


def _in_time(path, match=None):
    began = time.monotonic()
    with pytest.raises(ModelError, match=match) as caught:
        ModelBundle.load(path)
    assert time.monotonic() - began < 2
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize(
    ("count", "match"), [(1_000_000, "declares a header of"), (100_000, "declares 1000.. tensors")]
)
def test_r35_a_million_entries_are_refused_at_once(saved, count, match):
    data = saved.read_bytes()
    length = int.from_bytes(data[:8], "little")
    more = b",".join(b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(count))
    text = b"{" + more + b"," + data[9 : 8 + length]
    saved.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert str(saved) in _in_time(saved, match)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (_tensor("x", (10**12,), 0, 4 * 10**12), "no valid header"),
        (_tensor("x", (10**6, 10**6, 10**6), 0, 4), "no valid header"),
        (_tensor("x", (2**63, 2**63)), "no valid header"),
        (_tensor("x", (-1,)), "no valid header"),
        (_tensor("x", (1.5,)), "no valid header"),
        (_tensor("x", ()), "weights and network differ"),
        (_tensor("x", (1,) * 9), "no valid header"),
        (_tensor("x", dtype="F16"), "no valid header"),
        ({"x": 3}, "not one that vol3d made"),
        ({"x": {"dtype": "F32"}}, "not one that vol3d made"),
        (_tensor("encoder.0.layers.0.weight"), "weights and network differ"),
        (_tensor("x", (0,), 0, 0), "weights and network differ"),
    ],
)
def test_r35_unexpected_tensors_are_refused_before_any_is_read(saved, monkeypatch, tensors, match):
    monkeypatch.setattr("safetensors.torch.load_file", lambda *_: pytest.fail("tensors were read"))
    _in_time(_rewrite(saved, tensors=tensors), match)


@pytest.mark.parametrize(
    "network",
    [
        {"encoder": [[4, 6]] * 1000},
        {"encoder": [[10**9, 10**9], [10**9]]},
        {"encoder": [[2**62]]},
        {"encoder": [[60000, 60000], [60000, 60000]], "kernels": [[99, 99, 99], [9999, 9999, 9999]]},
        {"kernels": [[10**9 + 1] * 3] * 2},
        {"encoder": []},
        {"encoder": "((4, 6),)"},
        {"dimensions": 2},
        {"pooling": [[10**12] * 3]},
        {"surprise": 1},
    ],
)
def test_r35_networks_beyond_reason_are_refused_before_they_are_built(saved, network):
    assert _in_time(_rewrite(saved, lambda header: {**header, "network": {**header["network"], **network}}))


def test_r35_nested_or_malformed_headers_are_refused(saved):
    _in_time(_rewrite(saved, lambda _: '{"a": ' * 100_000), "no valid header")
    _in_time(_rewrite(saved, lambda _: "[]"), "not one that vol3d made")
    _in_time(_rewrite(saved, lambda _: '{"format": NaN}'), "not a JSON number")
    _in_time(_rewrite(saved, lambda _: '{"format": 1, "format": 1}'), "a key occurs twice")
    _in_time(_rewrite(saved, lambda _: '{"format": ' + "9" * 10_000 + "}"), "no valid header")
    _in_time(_rewrite(saved, lambda header: {**header, "format": 2}), "format 2; this version")
    _in_time(_rewrite(saved, lambda header: {**header, "labels": {"classes": []}}))
    for key in _bundle().header().keys() - {"pixel_classifier"}:  # null there: none
        _in_time(_rewrite(saved, lambda header, k=key: {**header, k: None}), f"expected '{key}' in its header")
    _in_time(_rewrite(saved, lambda header: {**header, "pixel_classifier": 3}), "describes no pixel classifier")
    features = {"scales": [1.0], "grid_scales": [], "textures": []}
    described = {"members": 5, "hidden": 64, "features": features, "context": features}
    _in_time(_rewrite(saved, lambda header: {**header, "pixel_classifier": described}), "weights and network differ")
    deep = current = {}
    for _ in range(400):
        current["a"] = current = {}
    assert ModelBundle.load(_rewrite(saved, lambda header: {**header, "training_range": deep})).training_range == deep


def test_a_file_that_is_longer_or_shorter_or_changed_is_refused(saved):
    _in_time(_rewrite(saved, tail=b"\0"), "cannot be read")
    data = saved.read_bytes()
    other = saved.with_name("other.safetensors")
    for size in (0, 1, 7, 8, 9, 100, len(data) - 1):
        other.write_bytes(data[:size])
        with pytest.raises(ModelError):
            ModelBundle.load(other)
    begin = 8 + int.from_bytes(data[:8], "little")
    rng = random.Random(0)
    for _ in range(20):
        changed = bytearray(data)
        changed[rng.randrange(begin, len(data))] ^= 1 << rng.randrange(8)
        other.write_bytes(changed)
        with pytest.raises(ModelError, match=r"corrupt|NaN or Inf"):
            ModelBundle.load(other)


def test_other_safetensors_and_no_files_are_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="not one that vol3d made"):
        ModelBundle.load(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="No such file"):
        ModelBundle.load(tmp_path / "missing.safetensors")
    with pytest.raises(ModelError, match="directory"):
        ModelBundle.load(tmp_path)
    (tmp_path / "huge.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match="not a safetensors file, or is truncated"):
        ModelBundle.load(tmp_path / "huge.safetensors")
    with (tmp_path / "sparse.safetensors").open("wb") as file:
        file.write((1 << 39).to_bytes(8, "little") + b"{")
        file.truncate(1 << 40)
    _in_time(tmp_path / "sparse.safetensors", "declares a header of")


@pytest.mark.parametrize(
    "network",
    [
        {"kind": "fcn", "convolutions": [65536] * 5},
        {"kind": "fcn", "widths": [8] * 400, "convolutions": [1] * 400},
        {"kind": "unet_plus_plus", "widths": [8] * 200},
        {"kind": "unet3plus", "joined": 10**9},
        {"kind": "monai", "monai": "SegResNet", "arguments": {"blocks_down": [60000, 60000]}},
        {"kind": "monai", "monai": "SegResNet", "arguments": {"init_filters": 65536, "blocks_down": [1] * 4}},
        {"kind": "monai", "monai": "os.system"},
        {"kind": "planned", "plan": "unet"},
    ],
    ids=str,
)
def test_r35_networks_of_other_kinds_are_bounded_too(saved, network):
    import_module("monai.networks.nets")  # takes seconds, once
    assert _in_time(_rewrite(saved, lambda header: {**header, "network": network}))


@pytest.mark.parametrize(
    "task",
    [
        {"kind": "instances"},
        {"kind": "semantic", "planes": [2]},
        {"kind": "regression"},
        {"kind": "semantic", "planes": [0, 0]},
        {"kind": "regression", "sd": 0},
        {"kind": "cook"},
        {"kind": "instances", "scheme": {"classes": [1] * 10**5, "divisor": None}, "rules": {}},
        {"kind": "instances", "scheme": {"classes": [], "divisor": 5}, "rules": {"seed_threshold": "x"}},
    ],
    ids=lambda task: str(task)[:60],
)
def test_tasks_that_do_not_go_with_the_network_are_refused(saved, task):
    assert _in_time(_rewrite(saved, lambda header: {**header, "task": task}))


def test_models_from_before_there_were_tasks_still_load(saved):
    path = _rewrite(saved, lambda header: {key: value for key, value in header.items() if key != "task"})
    assert ModelBundle.load(path).task.kind == "semantic"
