import json
import os
import random
import resource
import shutil
import signal
import time
import warnings

import pytest
import torch
from training_parts import (
    Patches,
    one_thread,  # noqa: F401  a fixture
    run,
    score,
    settings,
    tiny_network,
)

from vol3d.bundle_header import read_checkpoint_header, read_header
from vol3d.errors import ModelError, ResourceError
from vol3d.training import LogRow, Stage, TrainingState, load_checkpoint, save_checkpoint
from vol3d.training.optimizer import OptimizerState


def _state(iteration=3, fill=0.5):
    model = {"weight": torch.full((4, 3), fill), "count": torch.tensor(iteration)}
    optimizer = OptimizerState(
        {"0.exp_avg": torch.rand(4, 3)}, {"kind": "AdamW", "groups": [], "values": {"0.x": None}}
    )
    rows = (LogRow(1, 0.1, 1e-3, float("inf"), 0.5, 7.0), LogRow(2, 0.3, 1e-3, 2.0, 0.9, 7.0, float("nan")))
    return TrainingState(iteration, model, optimizer, best_score=0.7, scaler={"scale": 3.0}, history=rows)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_r19_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    how = settings(6, accumulate=2, ema_decay=0.9)
    states = [_state()]
    stages = [Stage(Patches(), 6, (2, 6))]
    states.append(run(how, stages, validate=score, on_checkpoint=states.append).state)
    interrupted = []
    run(
        settings(6, checkpoint_seconds=0.0),
        stages,
        network=tiny_network().to(memory_format=torch.channels_last_3d),
        validate=score,
        on_checkpoint=interrupted.append,
    )
    assert interrupted[3].best is not None
    for number, state in enumerate([*states, *interrupted]):
        folder = tmp_path / str(number)
        save_checkpoint(folder, state)
        again = load_checkpoint(folder)
        assert again.same_as(state)
        assert [repr(row) for row in again.history] == [repr(row) for row in state.history]


def test_states_differ_by_a_bit():
    state = _state()
    assert state.same_as(state)
    other = _state()
    other.optimizer.tensors.update(state.optimizer.tensors)
    assert state.same_as(other)
    other.model["weight"][1, 1] = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))
    assert not state.same_as(other)
    assert not state.same_as(_state(iteration=4))
    narrower = _state()
    narrower.optimizer.tensors.update(state.optimizer.tensors)
    narrower.model["weight"] = narrower.model["weight"].half()
    assert not state.same_as(narrower)


def test_the_last_two_are_kept_and_strays_swept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "checkpoint-000000.safetensors").write_text("lost its seal")
    (tmp_path / "checkpoint-mine.safetensors").write_text("not ours")
    for iteration in (1, 2, 3, 3):
        seal = save_checkpoint(tmp_path, _state(iteration))
    assert seal.name == "checkpoint-000004.json"
    assert _names(tmp_path) == [
        "checkpoint-000003.json",
        "checkpoint-000003.safetensors",
        "checkpoint-000004.json",
        "checkpoint-000004.safetensors",
        "checkpoint-mine.safetensors",
        "notes.txt",
    ]


def _flip(path, position, bit=3):
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_r20_a_corrupt_newest_is_named_and_the_one_before_serves(tmp_path, suffix):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    save_checkpoint(whole, _state(5))
    save_checkpoint(whole, _state(8))
    size = (whole / f"checkpoint-000002.{suffix}").stat().st_size
    rng = random.Random(1)
    for position in [0, 1, size - 1, *(rng.randrange(size) for _ in range(25))]:
        shutil.copytree(whole, broken)
        _flip(broken / f"checkpoint-000002.{suffix}", position, rng.randrange(8))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            state = load_checkpoint(broken)
        if caught:
            assert state.iteration == 5
            assert "Going on from checkpoint-000001.json, iteration 5" in str(caught[0].message)
        else:  # a bit of the seal that says nothing about the data
            assert suffix == "json"
            assert state.iteration == 8
        shutil.rmtree(broken)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda _data: b"", lambda data: data + b"\0"])
def test_r20_a_truncated_newest_too(tmp_path, damage):
    save_checkpoint(tmp_path, _state(5))
    data = save_checkpoint(tmp_path, _state(8)).with_suffix(".safetensors")
    data.write_bytes(damage(data.read_bytes()))
    with pytest.warns(UserWarning, match="corrupt"):
        assert load_checkpoint(tmp_path).iteration == 5
    data.unlink()
    with pytest.warns(UserWarning, match="cannot be read"):
        assert load_checkpoint(tmp_path).iteration == 5
    save_checkpoint(tmp_path, _state(9))
    assert load_checkpoint(tmp_path).iteration == 9


@pytest.mark.parametrize(
    "change",
    [
        {"vol3d_checkpoint": 2},
        {"iteration": 9},
        {"sha256": None},
        {"sha256": "0" * 64},
    ],
)
def test_r20_a_seal_that_does_not_fit_is_no_seal(tmp_path, change):
    seal = save_checkpoint(tmp_path, _state(8))
    facts = json.loads(seal.read_text()) | change
    seal.write_text(json.dumps({key: value for key, value in facts.items() if value is not None}))
    with pytest.raises(ModelError, match=r"no whole checkpoint: .*checkpoint-000001"):
        load_checkpoint(tmp_path)
    seal.write_text("[" * 100000)
    with pytest.raises(ModelError, match="no whole checkpoint"):
        load_checkpoint(tmp_path)


def test_r21_nothing_to_resume_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"not a folder with checkpoints.*--resume"):
        load_checkpoint(tmp_path / "missing")
    with pytest.raises(ModelError, match=r"holds no checkpoint.*--resume"):
        load_checkpoint(tmp_path)


def test_the_header_tells_what_it_is_without_the_tensors(tmp_path):
    data = save_checkpoint(tmp_path, _state(8)).with_suffix(".safetensors")
    facts = read_checkpoint_header(data)
    assert (facts["iteration"], facts["best_score"]) == (8, 0.7)
    with pytest.raises(ModelError, match="not one that vol3d made"):
        read_header(data)


def test_r24_no_room_is_an_error_and_the_old_one_stays(tmp_path):
    size = save_checkpoint(tmp_path, _state(5)).with_suffix(".safetensors").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in range(0, size, size // 19):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(ResourceError, match="cannot be written"):
                save_checkpoint(tmp_path, _state(8))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert load_checkpoint(tmp_path).iteration == 5
        assert all(name.startswith("checkpoint-00000") for name in _names(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be made"):
        save_checkpoint(tmp_path / "file", _state(8))


def _save_for_ever(folder, started, acknowledge):
    """In a child: checkpoint after checkpoint, telling each that is complete."""
    os.close(started)
    iteration = 0
    while True:
        iteration += 1
        save_checkpoint(folder, _state(iteration, fill=float(iteration)))
        os.write(acknowledge, iteration.to_bytes(4, "little"))


def _kill_while_saving(folder, delay):
    """Kill −9 a child `delay` seconds after its first checkpoint; returns the last one it had told."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _save_for_ever(folder, told, tell)
        finally:
            os._exit(1)
    os.close(tell)
    try:
        last = os.read(told, 4)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(told, 4):
            last = more
    finally:
        os.close(told)
    return int.from_bytes(last, "little")


def _kills(tmp_path, times):
    """For every kill: what was told last, what is loaded then, whether it fell into a save, whether saving goes on."""
    rng = random.Random(7)
    found = []
    for number in range(times):
        folder = tmp_path / str(number)
        acknowledged = _kill_while_saving(folder, rng.uniform(0, 0.05))
        interrupted = any(name.startswith(".") for name in _names(folder))
        state = load_checkpoint(folder)
        whole = state.model["weight"].unique().tolist() == [float(state.iteration)]
        save_checkpoint(folder, _state(1000))
        clean = load_checkpoint(folder).iteration == 1000 and not any(n.startswith(".") for n in _names(folder))
        found.append((state.iteration - acknowledged, whole, clean, interrupted))
        shutil.rmtree(folder)
    return found


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_r17_kill_9_while_saving_leaves_the_old_one_or_the_new_one(tmp_path):
    for newer, whole, clean, _ in _kills(tmp_path, 6):
        assert newer in (0, 1)
        assert whole
        assert clean


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_r17_kill_9_fifty_times(tmp_path):
    found = _kills(tmp_path, 50)
    assert {newer for newer, *_ in found} <= {0, 1}
    assert all(whole and clean for _, whole, clean, _ in found)
    assert any(interrupted for *_, interrupted in found)
