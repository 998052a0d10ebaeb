import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_parts import (
    Patches,
    cpu,
    one_thread,  # noqa: F401  a fixture
    run,
    settings,
    tiny_network,
)

from vol3d.errors import GeometryError, TrainingError
from vol3d.training import Stage
from vol3d.training.loader import Share, Span, load_batches, named_worker_faults


def _flat(batches):
    return [part for iteration in batches for b in iteration for part in (b.image, b.classes, b.weight)]


@given(
    batch_size=st.integers(1, 4),
    accumulate=st.integers(1, 4),
    ranks=st.integers(1, 4),
    iteration=st.integers(0, 10**6),
)
def test_however_an_iteration_is_split_its_samples_are_the_same(batch_size, accumulate, ranks, iteration):
    n = batch_size * accumulate * ranks
    shares = [Share(batch_size, accumulate, rank, ranks) for rank in range(ranks)]
    parts = [micro for share in shares for micro in share.indices(iteration)]
    assert {len(micro) for micro in parts} == {batch_size}
    assert [i for micro in parts for i in micro] == list(range(iteration * n, (iteration + 1) * n))
    assert {share.samples for share in shares} == {n}


def test_a_span_is_the_iterations_in_turn():
    span = Span(Share(2, 2), 1, 3)
    assert list(span) == [[4, 5], [6, 7], [8, 9], [10, 11]]
    assert len(span) == 4
    assert not list(load_batches(Patches(), Span(Share(2), 3, 3)))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_and_draw_no_global_random_number(workers):
    span = Span(Share(2, 2), 3, 7)
    torch.manual_seed(1)
    alone = _flat(load_batches(Patches(), span))
    shared = _flat(load_batches(Patches(), span, workers=workers))
    drawn = torch.rand(1)
    assert len(alone) == len(shared) == 4 * 2 * 3
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(alone, shared, strict=True))
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))


class Broken(Patches):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def __getitem__(self, index):
        patch = super().__getitem__(index)
        if index == 3:
            return self.what(patch)
        return patch


def _geometry(_patch):
    raise GeometryError("scan.nii.gz: two grids. Choose one.")


def _division(_patch):
    return 1 / 0


def _other_shape(patch):
    return {key: value[..., :-1] for key, value in patch.items()}


def _no_weight(patch):
    return {"image": patch["image"], "classes": patch["classes"]}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (_geometry, GeometryError, r"^scan.nii.gz: two grids. Choose one.$"),
        (_division, TrainingError, r"^patch 3 cannot be cut: ZeroDivisionError: division by zero$"),
        (_other_shape, TrainingError, "one shape in a batch"),
        (_no_weight, TrainingError, r"patch 2: .* no 'weight'"),
    ],
)
def test_errors_of_the_data_set_come_back_named(workers, what, error, message):
    stream = load_batches(Broken(what), Span(Share(2), 0, 4), workers=workers)
    with pytest.raises(error, match=message):
        list(stream)


def _children():
    return {int(p.parent.name) for p in Path("/proc").glob("[0-9]*/stat") if _parent(p) == os.getpid()}


def _parent(stat):
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_closing_the_stream_ends_the_workers():
    before = _children()
    stream = load_batches(Patches(), Span(Share(1), 0, 10**6), workers=2)
    next(stream)
    workers = _children() - before
    assert len(workers) >= 2
    stream.close()
    assert not workers & _children()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_r23_a_stop_leaves_no_worker_behind():
    before, during = _children(), []
    result = run(
        settings(50, workers=2),
        on_log=lambda _row: during.append(len(_children() - before)),
        should_stop=lambda: len(during) == 3,
    )
    assert result.stopped
    assert during[0] >= 2
    assert not _children() - before


class Dying(Patches):
    def __init__(self, signal_number):
        super().__init__()
        self.signal_number = signal_number

    def __getitem__(self, index):
        if index == 5:
            os.kill(os.getpid(), self.signal_number)
            time.sleep(60)
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("number", "message"),
    [(signal.SIGKILL, r"a data worker died \(.*(SIGKILL|Killed)"), (signal.SIGBUS, "out of shared memory")],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of files that PyTorch opens to count those it may still open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_r27_a_worker_that_dies_is_named_at_once(number, message):
    began = time.monotonic()
    with pytest.raises(TrainingError, match=message) as caught:
        run(settings(8, workers=1), [Stage(Dying(number), 8)])
    assert "sampling.workers=0" in str(caught.value)
    assert time.monotonic() - began < 30


def test_r27_the_loss_of_a_worker_is_named_in_any_line():
    with pytest.raises(TrainingError, match=r"a data worker died .*Killed"), named_worker_faults():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    with pytest.raises(RuntimeError, match="else"), named_worker_faults():
        raise RuntimeError("something else")


class Stuck(Patches):
    def __getitem__(self, index):
        if index >= 2:
            time.sleep(50)
        return super().__getitem__(index)


def test_r27_a_stuck_worker_is_an_error_not_a_hang():
    began = time.monotonic()
    with pytest.raises(TrainingError, match="gave no patch in time"):
        list(load_batches(Stuck(), Span(Share(1), 0, 9), workers=2, timeout_seconds=1.0))
    assert time.monotonic() - began < 15


def test_r27_out_of_the_main_thread_a_killed_worker_is_found_too():
    caught = []

    def work():
        try:
            list(load_batches(Dying(signal.SIGKILL), Span(Share(1), 0, 9), workers=1, timeout_seconds=3.0))
        except TrainingError as error:
            caught.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(2):
        # torch hears of dead workers in the main thread, if it ever had workers there: not what is tested here
        with contextlib.suppress(RuntimeError):
            thread.join(20)
    assert not thread.is_alive()
    assert caught
    assert "worker" in caught[0]


_FULL = """
import sys
from training_parts import Patches
from vol3d.errors import TrainingError
from vol3d.training.loader import Share, Span, load_batches
try:
    list(load_batches(Patches(size=(64, 64, 64)), Span(Share(2), 0, 9), workers=1))
except TrainingError as error:
    print(error)
"""


def test_r27_full_shared_memory_is_named(tmp_path):
    script = tmp_path / "full.py"
    script.write_text(_FULL)
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm && exec " + f"{sys.executable} {script}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    try:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", mount],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except OSError:
        pytest.skip("needs unshare")
    if done.returncode and "python" not in done.stderr.lower():
        pytest.skip("needs the right to mount")
    assert "ran out of shared memory (/dev/shm has" in done.stdout, done.stderr
    assert "--shm-size" in done.stdout


def test_workers_leave_ctrl_c_to_the_main_process():
    before = _children()
    stream = load_batches(Patches(), Span(Share(1), 0, 40), workers=1)
    first = next(stream)
    for worker in _children() - before:
        os.kill(worker, signal.SIGINT)
    rest = list(stream)
    assert len([first, *rest]) == 40


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_batches_reach_a_gpu_as_they_are(workers):
    span = Span(Share(2), 0, 3)
    for pinned, plain in zip(
        load_batches(Patches(), span, workers=workers, pin=True), load_batches(Patches(), span), strict=True
    ):
        assert pinned[0].image.is_pinned()
        there = pinned[0].to(torch.device("cuda"), torch.channels_last_3d)
        assert torch.equal(there.image.cpu(), plain[0].image)
        assert torch.equal(there.classes.cpu(), plain[0].classes)


def test_a_batch_moves_into_the_layout_that_is_asked_for():
    batch = next(load_batches(Patches(), Span(Share(2), 0, 1)))[0]
    moved = batch.to(cpu().device, torch.channels_last_3d)
    assert moved.image.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(moved.image, batch.image)
    assert tiny_network()(moved.image).shape[2:] == moved.classes.shape[1:]
