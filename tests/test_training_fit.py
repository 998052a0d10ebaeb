import itertools
import math
import time

import pytest
import torch
from training_parts import (
    Patches,
    Poisoned,
    cpu,
    losses,
    one_thread,  # noqa: F401  a fixture
    run,
    score,
    settings,
    sparse_loss,
    tiny_network,
)

from vol3d.errors import ModelError, TrainingError
from vol3d.training import Stage, fit, load_checkpoint, save_checkpoint, time_steps


def _stages():
    return [Stage(Patches(1), 6, (2, 4, 6)), Stage(Patches(2), 9), Stage(Patches(3), 12, (10, 12))]


FULL = {"accumulate": 2, "ema_decay": 0.9}


def _stop_at(iteration):
    """Stops a run before it does more than `iteration` iterations in all."""
    done = []
    return {"on_log": done.append, "should_stop": lambda: bool(done) and done[-1].iteration >= iteration}


def test_the_loss_falls():
    found = losses(run(settings(80)))
    assert sum(found[-9:]) < 0.6 * sum(found[:9])


def test_a_run_is_a_function_of_its_parts_and_workers_change_nothing():
    first = run(settings(**FULL), _stages(), validate=score)
    for workers in (0, 1, 2):
        again = run(settings(**FULL, workers=workers), _stages(), validate=score)
        assert losses(again) == losses(first)
        assert all(torch.equal(again.weights[name], first.weights[name]) for name in first.weights)


def test_hooks_do_not_steer_the_run():
    plain = run(settings(**FULL), _stages(), validate=score)
    states = []

    def disturb(state):
        states.append(state.iteration)
        for value in (*state.model.values(), *state.optimizer.tensors.values()):
            value.zero_()

    busy = run(
        settings(**FULL, checkpoint_seconds=0.0),
        _stages(),
        validate=lambda network: (score(network), network.apply(lambda m: m.train()))[0],
        on_log=lambda _row: torch.rand(3),
        on_checkpoint=disturb,
    )
    assert losses(busy) == losses(plain)
    assert busy.best_score == plain.best_score
    assert states == [*range(1, 13), 12]


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd"}, {"freeze_at": 4}], ids=["adamw", "sgd", "frozen"])
def test_r19_interrupted_anywhere_the_losses_go_on_bit_for_bit(tmp_path, changes):
    how = settings(**FULL, **changes)
    whole = run(how, _stages(), validate=score)
    for at in range(1, 12):  # within stages, at their ends, at validations
        part = run(how, _stages(), validate=score, **_stop_at(at))
        assert part.stopped
        assert part.state.iteration == at
        save_checkpoint(tmp_path / str(at), part.state)
        kept = load_checkpoint(tmp_path / str(at))
        assert kept.same_as(part.state)
        rest = run(how, _stages(), network=tiny_network(seed=77), validate=score, start=kept)
        assert not rest.stopped
        assert losses(rest) == losses(whole)
        assert [row.validation for row in rest.history] == [row.validation for row in whole.history]
        assert all(torch.equal(rest.weights[name], whole.weights[name]) for name in whole.weights)
        assert rest.best_score == whole.best_score


def test_r19_holds_on_several_threads(tmp_path):
    torch.set_num_threads(2)
    whole = run(settings(4))
    save_checkpoint(tmp_path, run(settings(4), **_stop_at(2)).state)
    assert losses(run(settings(4), start=load_checkpoint(tmp_path))) == losses(whole)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_r19_holds_in_mixed_precision_and_channels_last(tmp_path, precision):
    how = settings(6, channels_last=True)
    whole = run(how, fabric=cpu(precision))
    part = run(how, fabric=cpu(precision), **_stop_at(3))
    assert (part.state.scaler is not None) == (precision == "16-mixed")
    save_checkpoint(tmp_path, part.state)
    rest = run(how, fabric=cpu(precision), start=load_checkpoint(tmp_path))
    assert losses(rest) == losses(whole)
    assert rest.state.scaler == whole.state.scaler
    assert losses(whole) == pytest.approx(losses(run(settings(6))), rel=0.1)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_statistics_are_frozen_at_the_averaged_ones_and_learned_with(ema):
    changes = {"ema_decay": ema, "freeze_at": 5}
    seen = [run(settings(12, **changes), **_stop_at(at)).state for at in (5, 6, 12)]
    before = seen[0].model if ema is None else seen[0].averaged
    for state in seen[1:]:
        for name in ("1.running_mean", "1.running_var"):
            assert torch.equal(state.model[name], before[name])
    network = tiny_network()
    result = run(settings(12, **changes), network=network)
    assert not network[1].training
    thawed = run(settings(12, ema_decay=ema))
    assert losses(result)[:5] == losses(thawed)[:5]
    assert losses(result)[5:] != losses(thawed)[5:]


def test_resuming_a_finished_run_gives_its_result():
    whole = run(settings(**FULL), _stages(), validate=score)
    again = run(settings(**FULL), _stages(), validate=score, start=whole.state)
    assert again.state.same_as(whole.state)
    assert all(torch.equal(again.weights[name], whole.weights[name]) for name in whole.weights)


def test_r23_a_stop_saves_the_state_at_once():
    saved = []
    result = run(settings(9), on_checkpoint=saved.append, should_stop=lambda: True)
    assert result.stopped
    assert [state.iteration for state in saved] == [0]
    assert saved[0].same_as(result.state)
    assert not result.history
    complete = run(settings(2), on_checkpoint=saved.append)
    assert not complete.stopped
    assert saved[-1].same_as(complete.state)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_stage_that_validated_goes_back_to_its_best_weights(ema):
    scores = itertools.chain([0.1, 0.9, math.nan, 0.3], itertools.repeat(0.0))
    seen = []

    def validate(network):
        assert not network.training
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return next(scores)

    result = run(settings(8, ema_decay=ema), [Stage(Patches(), 8, (2, 4, 6, 8))], validate=validate)
    assert result.best_score == 0.9
    assert all(torch.equal(result.weights[name], seen[1][name]) for name in seen[1])
    assert not torch.equal(seen[3]["0.weight"], seen[1]["0.weight"])
    moments = {key: value for key, value in result.state.optimizer.tensors.items() if key.endswith("exp_avg")}
    assert not any(value.any() for value in moments.values())
    assert [row.validation is None for row in result.history] == [True, False] * 4
    assert result.state.best is None


def test_the_next_stage_starts_from_the_best_weights_and_its_end_is_final():
    scores = iter([1.0, 0.0])
    stages = [Stage(Patches(), 4, (2, 4)), Stage(Patches(5), 8)]
    both = run(settings(8, ema_decay=None), stages, validate=lambda _network: next(scores))
    two = run(settings(8), [Stage(Patches(), 8)], **_stop_at(2))
    best = run(settings(8), [Stage(Patches(), 4, (2,)), Stage(Patches(5), 8)], validate=lambda _network: 1.0)
    assert both.best_score == best.best_score == 1.0
    assert losses(both) == losses(best)
    assert losses(both)[:2] == losses(two)
    assert not torch.equal(both.weights["0.weight"], two.weights["0.weight"])


def test_a_best_that_is_the_last_keeps_the_momentum():
    plain = run(settings(6), [Stage(Patches(), 3), Stage(Patches(), 6)])
    validated = run(settings(6), [Stage(Patches(), 3, (3,)), Stage(Patches(), 6)], validate=lambda _network: 0.5)
    assert losses(validated) == losses(plain)


def test_r28_nan_is_never_best():
    result = run(settings(4), [Stage(Patches(), 4, (2, 4))], validate=lambda _network: math.nan)
    assert result.best_score is None
    assert result.state.best is None
    assert math.isnan(result.history[1].validation)


@pytest.mark.parametrize("workers", [0, 1])
def test_r28_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_state(tmp_path, workers):
    how = settings(9, checkpoint_seconds=0.0, workers=workers)
    with pytest.raises(TrainingError, match=r"the loss is nan in iteration 6; .*learning_rate.*float32"):
        run(how, [Stage(Poisoned(at=10), 9)], on_checkpoint=lambda state: save_checkpoint(tmp_path, state))
    kept = load_checkpoint(tmp_path)
    assert kept.iteration == 5
    assert all(value.isfinite().all() for value in kept.model.values())


class Overflowing(torch.nn.Module):
    """A finite loss with an infinite gradient."""

    def weights(self, _classes, weight):
        return weight

    def forward(self, logits, _classes, _weight, _total):
        return (logits.abs().sum() * 1e-30).sqrt() * 0 + (logits * 0).abs().sum().sqrt()


def test_r28_an_infinite_gradient_stops_in_float32():
    with pytest.raises(TrainingError, match=r"the gradient of the loss is (nan|inf) in iteration 1"):
        run(settings(3), loss=Overflowing())


def test_r28_fp16_that_never_finds_a_scale_stops():
    with pytest.raises(TrainingError, match="fp16 finds no scale"):
        run(settings(60), loss=Overflowing(), fabric=cpu("16-mixed"))


def test_r14_patches_without_labels_train_nothing():
    result = run(settings(3, weight_decay=0.0), [Stage(Patches(labeled=0.0), 3)])
    assert losses(result) == [0.0] * 3
    assert [row.gradient_norm for row in result.history] == [0.0] * 3
    assert torch.equal(result.weights["0.weight"], tiny_network().state_dict()["0.weight"])


def test_log_rows_tell_what_happened():
    rows = []
    how = settings(10, warmup_fraction=0.2, decay_power=1.0, accumulate=2)
    result = run(how, [Stage(Patches(), 10, (5,))], on_log=rows.append, validate=score)
    assert rows == list(result.history)
    assert [row.iteration for row in rows] == list(range(1, 11))
    assert rows[0].learning_rate == pytest.approx(how.learning_rate / 2)
    assert rows[1].learning_rate == how.learning_rate
    assert rows[-1].learning_rate < 0.2 * how.learning_rate
    assert all(math.isfinite(row.loss) and row.gradient_norm > 0 and row.samples_per_second > 0 for row in rows)
    assert sorted(row.seconds for row in rows) == [row.seconds for row in rows]
    assert [row.validation for row in rows if row.validation is not None] == [result.best_score]


def test_two_dimensions_and_dice_train_too():
    class Flat(Patches):
        def __getitem__(self, index):
            return {
                key: value[..., 2] if key != "image" else value[..., 3]
                for key, value in super().__getitem__(index).items()
            }

    how = settings(3, channels_last=True)
    result = run(how, [Stage(Flat(size=(8, 8, 8)), 3)], network=tiny_network(dimensions=2), loss=sparse_loss(dice=1.0))
    assert all(math.isfinite(value) for value in losses(result))


@pytest.mark.parametrize(
    "stages",
    [[], [Stage(Patches(), 5)], [Stage(Patches(), 12), Stage(Patches(), 12)], [Stage(Patches(), 12, (13,))]],
)
def test_stages_must_fit_the_schedule(stages):
    with pytest.raises(ValueError, match="expected"):
        fit(tiny_network(), stages, sparse_loss(), settings(12), fabric=cpu())


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"batch_size": 0}, {"workers": -1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="at least one"):
        settings(**wrong)


def test_a_state_of_another_network_or_configuration_is_refused():
    state = run(settings(2)).state
    with pytest.raises(ModelError, match="another network"):
        run(settings(4), network=tiny_network(norm=False), start=state)
    with pytest.raises(ModelError, match="without averaged weights"):
        run(settings(4, ema_decay=0.9), start=state)
    with pytest.raises(ModelError, match="optimizer"):
        run(settings(4, optimizer="sgd"), start=state)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_timing_leaves_everything_as_it_was(workers, precision):
    network, fabric = tiny_network(), cpu(precision)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    class Slow(Patches):
        def __getitem__(self, index):
            time.sleep(0.01)
            return super().__getitem__(index)

    scale = fabric.strategy.precision.state_dict()
    seconds = time_steps(network, Slow(), sparse_loss(), settings(workers=workers), fabric, 3)
    assert 0.002 < seconds < 5
    assert workers or seconds > 0.02
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert fabric.strategy.precision.state_dict() == scale
    with pytest.raises(ValueError, match="at least one step"):
        time_steps(network, Patches(), sparse_loss(), settings(), fabric, 0)


class Counted(Patches):
    """Remembers which samples were asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __getitem__(self, index):
        self.asked.append(index)
        return super().__getitem__(index)


def test_timing_keeps_to_its_limit():
    source = Counted()
    assert time_steps(tiny_network(), source, sparse_loss(), settings(), cpu(), 50, limit_seconds=0.0) > 0
    assert source.asked == [0, 1, 2, 3, 4, 5]


def test_timing_goes_on_for_a_while():
    source = Counted()
    begin = time.monotonic()
    seconds = time_steps(tiny_network(), source, sparse_loss(), settings(), cpu(), 2, least_seconds=0.5)
    taken = time.monotonic() - begin
    iterations = len(source.asked) // 2 - 1  # the last one's patches were cut ahead
    assert iterations > 4
    assert taken >= 0.5
    assert seconds == pytest.approx(0.5 / iterations, rel=0.5)


def test_what_workers_had_ready_is_not_timed():
    class SlowLater(Patches):
        def __getitem__(self, index):
            time.sleep(0.0 if index < 12 else 0.05)  # two to warm up and four in the queue, of two patches each
            return super().__getitem__(index)

    seconds = time_steps(tiny_network(), SlowLater(), sparse_loss(), settings(workers=2), cpu(), 3)
    assert seconds > 0.03  # two patches of 0.05 s by two workers


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_patches_that_lie_on_a_gpu_teach_the_same(precision):
    import lightning_fabric

    class There(Patches):
        def __getitem__(self, index):
            return {name: value.cuda() for name, value in super().__getitem__(index).items()}

    fabric = lightning_fabric.Fabric(accelerator="cuda", devices=1, precision=precision)
    how = settings(8, channels_last=True, gradient_clip=1.0)
    here, there = (losses(run(how, [Stage(source(), 8)], fabric=fabric)) for source in (Patches, There))
    assert there == pytest.approx(here, rel=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_gpu_trains_and_resumes(tmp_path, precision):
    import lightning_fabric

    fabric = lightning_fabric.Fabric(accelerator="cuda", devices=1, precision=precision)
    how = settings(8, workers=2, channels_last=True, ema_decay=0.9)
    stages = [Stage(Patches(), 4, (4,)), Stage(Patches(2), 8)]
    validate = lambda network: score(network.cpu())  # noqa: E731
    part = run(how, stages, fabric=fabric, validate=validate, **_stop_at(5))
    save_checkpoint(tmp_path, part.state)
    rest = run(how, stages, fabric=fabric, validate=validate, start=load_checkpoint(tmp_path))
    assert losses(rest)[:5] == losses(part)
    assert all(value.device.type == "cpu" for value in rest.weights.values())
