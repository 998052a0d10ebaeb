"""A plan and a length → what is learned when, and how: the stages and the settings of `training.fit`."""

from __future__ import annotations

from vol3d.training import FitSettings, PatchSource, Stage
from vol3d.workflows.batch_statistics import freeze_at
from vol3d.workflows.budget import Length
from vol3d.workflows.plan import Plan


def make_stages(
    plan: Plan, length: Length, training: PatchSource, everything: PatchSource, *, held: bool
) -> list[Stage]:
    """First the patches that train while others are held out, then, for a last part, all of them.

    training, everything: patches without and with the held-out labels. held: whether there are any.
    """
    wanted, iterations = plan.config.training, length.iterations
    if not held or length.validations == 0:
        return [Stage(everything if not held or wanted.refit else training, iterations, ())]
    first = iterations
    if wanted.refit:
        first = max(1, round(iterations * (1 - wanted.refit_fraction)))
    count = min(length.validations, first)
    marks = tuple(sorted({round(first * (k + 1) / count) for k in range(count)}))
    stages = [Stage(training, first, marks)]
    if first < iterations:
        stages.append(Stage(everything, iterations, ()))
    return stages


def fit_settings(plan: Plan, iterations: int, workers: int = 0) -> FitSettings:
    """How a run of so many iterations is optimised. workers: processes that cut patches."""
    training = plan.config.training
    return FitSettings(
        iterations=iterations,
        batch_size=plan.batch_size,
        accumulate=training.accumulate,
        workers=workers,
        optimizer=training.optimizer,
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        warmup_fraction=training.warmup_fraction,
        decay_power=training.decay_power,
        gradient_clip=training.gradient_clip,
        ema_decay=(default_ema(iterations) if training.ema_decay is None else training.ema_decay) or None,
        channels_last=training.channels_last,
        compile=training.compile,
        checkpoint_seconds=60 * training.checkpoint_minutes,
        freeze_at=freeze_at(training, iterations),
        seed=training.seed,
    )


def default_ema(iterations: int) -> float:
    """Decay of the averaged weights: they remember about the last twentieth of the run."""
    return max(0.0, min(0.999, 1 - 20 / max(iterations, 1)))
