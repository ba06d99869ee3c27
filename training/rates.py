"""The learning rate as a function of the step."""

import math

from .config import LoopTraining


def learning_rate(options: LoopTraining, step: int) -> float:
    """The learning rate of optimizer step `step`, counted from 0.

    A linear warm-up, then constant, polynomial or cosine decay towards `lr_final` of the peak at the run's last step.
    """
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    if options.lr_schedule == "constant":
        return options.learning_rate
    share = min((step - options.warmup_steps) / max(options.steps - options.warmup_steps, 1), 1.0)
    if options.lr_schedule == "polynomial":
        fall = (1.0 - share) ** options.lr_power
    else:
        fall = 0.5 * (1.0 + math.cos(math.pi * share))
    return options.learning_rate * (options.lr_final + (1.0 - options.lr_final) * fall)
