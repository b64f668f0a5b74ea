"""Learning-rate schedules: pure functions of the step, without state that needs saving."""

import math
from dataclasses import dataclass
from fractions import Fraction

from train.config.experiment import Cooldown, ScheduleConfig, ScheduleShape


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule resolved to whole steps."""

    shape: ScheduleShape
    total_steps: int
    """The run's horizon."""
    warmup_steps: int
    cooldown_steps: int
    """Steps of the WSD cooldown, 0 for other shapes."""
    cooldown: Cooldown
    final_ratio: float
    decay_end_step: int
    """Step at which the decay reaches final_ratio: the horizon, or a longer one for kaplan."""

    @property
    def fork_step(self) -> int | None:
        """Step at which the run leaves the trunk that it shares with longer horizons.

        wsd leaves at the start of its cooldown, constant at its end. Other shapes depend on their
        horizon from the end of the warm-up on: they have no trunk.
        """
        if self.shape in (ScheduleShape.wsd, ScheduleShape.constant):
            return self.total_steps - self.cooldown_steps
        return None

    def multiplier(self, step: int) -> float:
        """Multiplier of the peak learning rate for update number `step`, counted from 0.

        Warm-up is linear and reaches 1 at step `warmup_steps`. The decay would end at step
        `total_steps`, one after the last update.

        Source:
            cosine: Loshchilov & Hutter 2017 (arXiv:1608.03983); wsd and its linear and 1 - sqrt
            cooldowns: Hagele et al. 2024 (arXiv:2405.18392), section 3; kaplan: one cosine to a
            horizon that is not the run's, Kaplan et al. 2020 (arXiv:2001.08361), section 2.2.
        """
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.shape is ScheduleShape.constant:
            return 1.0
        if self.shape is ScheduleShape.wsd:
            return self._wsd(step)
        span = max(1, self.decay_end_step - self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / span)
        if self.shape is ScheduleShape.linear:
            falling = 1.0 - progress
        else:
            falling = 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.final_ratio + (1.0 - self.final_ratio) * falling

    def _wsd(self, step: int) -> float:
        start = self.total_steps - self.cooldown_steps
        if step < start or self.cooldown_steps == 0:
            return 1.0
        progress = (step - start) / self.cooldown_steps
        is_linear = self.cooldown is Cooldown.linear
        falling = 1.0 - (progress if is_linear else math.sqrt(progress))
        return self.final_ratio + (1.0 - self.final_ratio) * falling


def shares_trunk(short: Schedule, long: Schedule) -> bool:
    """Whether `short` can branch off `long` at its fork step: equal multipliers until then.

    Both need a trunk that `long` does not leave before `short`, and equal warm-ups. A fork step of
    0 shares nothing.
    """
    if short.fork_step is None or long.fork_step is None:
        return False
    return 0 < short.fork_step <= long.fork_step and short.warmup_steps == long.warmup_steps


def resolve_schedule(
    config: ScheduleConfig, *, total_steps: int, batch_tokens: int, n_params_standard: int
) -> Schedule:
    """Convert tokens and fractions to whole steps; validate.py checks the rules."""
    if config.warmup_steps is not None:
        warmup_steps = config.warmup_steps
    elif config.warmup_tokens is not None:
        warmup_steps = round(config.warmup_tokens / batch_tokens)
    elif config.warmup_tokens_per_param is not None:
        # a product of floats could overflow
        per_param = Fraction(config.warmup_tokens_per_param)
        warmup_steps = round(per_param * n_params_standard / batch_tokens)
    else:
        warmup_steps = round((config.warmup_fraction or 0.0) * total_steps)
    is_wsd = config.shape is ScheduleShape.wsd
    is_kaplan = config.shape is ScheduleShape.kaplan and config.horizon_tokens is not None
    return Schedule(
        shape=config.shape,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        cooldown_steps=round(config.cooldown_fraction * total_steps) if is_wsd else 0,
        cooldown=config.cooldown,
        final_ratio=config.final_lr_ratio,
        decay_end_step=(
            round(config.horizon_tokens / batch_tokens)
            if is_kaplan and config.horizon_tokens
            else total_steps
        ),
    )


def evaluation_steps(total_steps: int, points: int) -> tuple[int, ...]:
    """Steps of the evaluations: log-spaced from a hundredth of the run, and the last one.

    Earlier losses say little about the end of a run (ours).
    """
    if points <= 0:
        return (total_steps,)
    first = max(1.0, total_steps / 100)
    ratio = total_steps / first
    on_the_way = {round(first * ratio ** (i / points)) for i in range(points)}
    return tuple(sorted(on_the_way | {total_steps}))
