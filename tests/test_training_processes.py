import lightning_fabric
import pytest
import torch
from training_parts import (
    Patches,
    cpu,
    one_thread,  # noqa: F401  a fixture
    score,
    settings,
    sparse_loss,
    tiny_network,
)

from vol3d.training import Stage, fit, time_steps


def _work(fabric, how, stop_rank=None, stop_after=0):
    """What one process does; plain values only, since they travel between processes."""
    rows, saved, asked = [], [], []

    def should_stop():
        asked.append(1)
        return fabric.global_rank == stop_rank and len(asked) > stop_after

    result = fit(
        tiny_network(norm=False),
        [Stage(Patches(), 3, (2, 3)), Stage(Patches(2), how.iterations)],
        sparse_loss(dice=0.5),
        how,
        fabric=fabric,
        validate=score,
        on_log=lambda row: rows.append(row.loss),
        on_checkpoint=lambda state: saved.append(state.iteration),
        should_stop=should_stop,
    )
    weights = {name: value.tolist() for name, value in result.weights.items()}
    return [row.loss for row in result.history], weights, result.best_score, rows, saved, result.stopped


def _launch(*arguments, work=_work):
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=2, strategy="ddp_fork")
    return fabric.launch(work, *arguments)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_train_as_one_with_their_batches_together():
    losses, weights, best, *_ = _work(cpu(), settings(6, batch_size=2, accumulate=2))
    found, others, score_of_two, rows, saved, stopped = _launch(settings(6, batch_size=1, accumulate=2))
    assert found == pytest.approx(losses, rel=1e-5)
    assert rows == found
    assert score_of_two == pytest.approx(best, rel=1e-5)
    for name, value in weights.items():
        assert torch.allclose(torch.tensor(others[name]), torch.tensor(value), atol=1e-5)
    assert (saved, stopped) == ([6], False)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_r23_a_stop_of_one_process_stops_all():
    losses, _, _, rows, saved, stopped = _launch(settings(6, batch_size=1), 1, 4)
    assert stopped
    assert len(losses) == len(rows) == 4
    assert saved == [4]


def _timed(fabric, how):
    return time_steps(tiny_network(), Patches(), sparse_loss(), how, fabric, 2)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_agree_on_the_time_of_a_step():
    assert 0 < _launch(settings(), work=_timed) < 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_compiled_network_trains_the_same():
    plain, *_ = _work(cpu(), settings(5))
    compiled, *_ = _work(cpu(), settings(5, compile=True))
    assert compiled == pytest.approx(plain, rel=1e-4)
