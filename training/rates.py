"""The learning rate as a function of the step."""

import math

from .config import LoopTraining

# Peak of a run's late phase, as a share of the first one's.
LATE_PEAK = 2 / 3


def learning_rate(options: LoopTraining, step: int) -> float:
    """The learning rate of optimizer step `step`, counted from 0.

    A linear warm-up, then constant, polynomial or cosine decay towards `lr_final` of the peak at the last of `steps`;
    steps after those do so once more, from a lower peak.
    """
    peak, steps = options.learning_rate, options.steps
    if steps < options.last_step and step >= steps:
        peak, steps, step = peak * LATE_PEAK, options.last_step - steps, step - steps
    if step < options.warmup_steps:
        return peak * (step + 1) / options.warmup_steps
    if options.lr_schedule == "constant":
        return peak
    share = min((step - options.warmup_steps) / max(steps - options.warmup_steps, 1), 1.0)
    if options.lr_schedule == "polynomial":
        fall = (1.0 - share) ** options.lr_power
    else:
        fall = 0.5 * (1.0 + math.cos(math.pi * share))
    return peak * (options.lr_final + (1.0 - options.lr_final) * fall)
