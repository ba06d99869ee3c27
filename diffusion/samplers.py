"""Samplers: from noise to a clean latent in a given table of timesteps.

The arithmetic of a step is diffusers'; what decides the result is ours. Each scheduler is built on the chain that
holds only the table's timesteps ("respacing": Nichol and Dhariwal 2021, "Improved denoising diffusion probabilistic
models", section 4), so that its neighbours are the table's neighbours and no library default for spacing, offset or
rounding can take part. The last step always lands on the clean latent (cumulative alpha 1, sigma 0). Samples are never
clipped: a latent has no fixed range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from .schedule import NoiseSchedule
from .timesteps import check_table

SAMPLERS = ("ddpm", "ddim", "dpmsolver++", "unipc")
# A rectified flow has a sampler of its own.
FLOW_SAMPLERS = ("euler",)

Predict = Callable[[torch.Tensor, int], torch.Tensor]
_Step = Callable[[torch.Tensor, int, torch.Tensor], torch.Tensor]
_Config = dict[str, int | str | bool | list[float]]


class _Scheduler(Protocol):
    """What this module uses of a diffusers scheduler."""

    alphas_cumprod: torch.Tensor
    timesteps: torch.Tensor

    def set_timesteps(self, num_inference_steps: int) -> None: ...

    def step(
        self, model_output: torch.Tensor, timestep: int, sample: torch.Tensor, **options: object
    ) -> tuple[torch.Tensor, ...]: ...


def is_stochastic(sampler: str, eta: float = 0.0) -> bool:
    """Say whether a sampler adds noise on the way, and so needs a generator per item.

    Args:
        sampler: one of SAMPLERS.
        eta: DDIM's share of added noise.

    Returns:
        True for "ddpm", and for "ddim" with eta above 0.

    Raises:
        ValueError: if the sampler is unknown, or eta is out of range or given to another sampler than DDIM.
    """
    known = (*SAMPLERS, *FLOW_SAMPLERS)
    if sampler not in known:
        raise ValueError(f"Sampler {sampler!r} is unknown; known are {', '.join(known)}.")
    if not 0 <= eta <= 1:
        raise ValueError(f"The share of added noise, eta, must lie within 0 .. 1, got {eta}.")
    if eta and sampler != "ddim":
        raise ValueError(f"Only the sampler 'ddim' takes eta, but eta {eta} was given to {sampler!r}.")
    return sampler == "ddpm" or eta > 0


@torch.no_grad()
def sample(
    predict: Predict,
    noise: torch.Tensor,
    *,
    schedule: NoiseSchedule,
    sampler: str,
    timesteps: Sequence[int],
    eta: float = 0.0,
    generators: Sequence[torch.Generator] | None = None,
    callback: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Turn noise into clean latents.

    A pure function of its arguments (generators are advanced): no global random state, no progress bar. Every operation
    acts on one item at a time, so an item's result depends on its neighbours only as far as `predict` makes it so.

    Args:
        predict: `predict(z, i)` gives the network's output for the noisy latents z [B, ...] float32 at
            `timesteps[i]`, in the schedule's prediction type; i counts 0, 1, ..., so that the conditions of each step
            can be prepared beforehand.
        noise: standard normal noise [B, C, ...].
        schedule: the noise schedule the network was trained with.
        sampler: "ddpm" (Ho et al. 2020, posterior variance), "ddim" (Song et al. 2021), "dpmsolver++" (the 2M variant,
            Lu et al. 2022) or "unipc" (order 2, B2(h), Zhao et al. 2023); for a rectified flow "euler".
        timesteps: strictly descending timesteps to visit.
        eta: DDIM's share of added noise: 0 is deterministic, 1 adds as much as DDPM.
        generators: one CPU generator per item, see `noise.ancestral_generator`; required where the sampler adds
            noise, unused otherwise.
        callback: called with i after step i is done.

    Returns:
        float32 latents of the noise's shape, on its device.

    Raises:
        ValueError: if an argument is unknown or out of range, a stochastic sampler lacks its generators, or `predict`
            gives another shape than it was given.
    """
    table = check_table(timesteps, schedule.train_timesteps)
    if noise.ndim < 2:
        raise ValueError(f"The noise must have a batch and a channel axis, got shape {tuple(noise.shape)}.")
    streams: list[torch.Generator] | None = None
    if is_stochastic(sampler, eta):
        if generators is None or len(generators) != len(noise):
            given = "none" if generators is None else str(len(generators))
            raise ValueError(
                f"Sampler {sampler!r} adds noise and needs {len(noise)} generators, one per item, got {given}."
            )
        streams = list(generators)
    if (sampler in FLOW_SAMPLERS) != schedule.is_flow:
        raise ValueError(f"Sampler {sampler!r} does not go with the schedule {schedule.beta_schedule!r}.")
    build = _build_flow_step if schedule.is_flow else _build_step
    step = build(sampler, schedule, table, eta, streams)
    z = noise.to(torch.float32)
    for i in range(len(table)):
        prediction = predict(z, i)
        if prediction.shape != z.shape:
            raise ValueError(
                f"The network gave shape {tuple(prediction.shape)} for latents of shape {tuple(z.shape)} at step {i}."
            )
        z = step(prediction.to(torch.float32), i, z)
        if callback is not None:
            callback(i)
    return z


def _build_step(
    sampler: str,
    schedule: NoiseSchedule,
    table: tuple[int, ...],
    eta: float,
    generators: list[torch.Generator] | None,
) -> _Step:
    """Build the function (prediction, i, z) -> z that carries out step i of the table."""
    alphas = schedule.alphas_cumprod[list(reversed(table))]
    scheduler = _BUILDERS[sampler](_shared_config(alphas, schedule.prediction))
    # Float64 in place of the scheduler's own float32 product of alphas; as scalars they leave the latents float32.
    scheduler.alphas_cumprod = alphas
    scheduler.set_timesteps(len(table))
    _check_installed(scheduler, alphas)
    extra: dict[str, object] = {}
    if sampler == "ddim":
        extra = {"eta": eta, "generator": generators}
    elif sampler == "ddpm":
        extra = {"generator": generators}

    def step(prediction: torch.Tensor, i: int, z: torch.Tensor) -> torch.Tensor:
        return scheduler.step(prediction, len(table) - 1 - i, z, return_dict=False, **extra)[0]

    return step


def _build_flow_step(
    sampler: str,
    schedule: NoiseSchedule,
    table: tuple[int, ...],
    eta: float,
    generators: list[torch.Generator] | None,
) -> _Step:
    """As `_build_step`, along the straight line of a rectified flow."""
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    levels = schedule.levels[1][list(table)]
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=schedule.train_timesteps, shift=1.0)
    scheduler.set_timesteps(sigmas=levels.tolist())
    wanted = torch.cat([levels, torch.zeros(1, dtype=levels.dtype)])
    if not torch.allclose(scheduler.sigmas.double(), wanted, rtol=1e-6):
        raise ValueError(
            f"{type(scheduler).__name__} of the installed diffusers does not follow the timestep table it was given."
        )

    def step(prediction: torch.Tensor, i: int, z: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = scheduler.step(prediction, scheduler.timesteps[i], z, return_dict=False)[0]
        return moved

    return step


def _shared_config(alphas: torch.Tensor, prediction: str) -> _Config:
    """Give the settings all schedulers share, for a chain with these cumulative alphas (ascending noise)."""
    before = torch.cat([torch.ones(1, dtype=alphas.dtype), alphas[:-1]])
    return {
        "num_train_timesteps": len(alphas),
        "trained_betas": (1 - alphas / before).tolist(),
        "prediction_type": prediction,
        # The chain is the table itself, so this spacing visits every position: n - 1, ..., 0.
        "timestep_spacing": "trailing",
        "thresholding": False,
        "rescale_betas_zero_snr": False,
    }


def _ddpm(config: _Config) -> _Scheduler:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler: _Scheduler = DDPMScheduler(**config, variance_type="fixed_small", clip_sample=False, steps_offset=0)
    return scheduler


def _ddim(config: _Config) -> _Scheduler:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler: _Scheduler = DDIMScheduler(**config, clip_sample=False, set_alpha_to_one=True, steps_offset=0)
    return scheduler


def _dpmsolver_2m(config: _Config) -> _Scheduler:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    scheduler: _Scheduler = DPMSolverMultistepScheduler(
        **config,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=True,
        euler_at_final=False,
        final_sigmas_type="zero",
        steps_offset=0,
    )
    return scheduler


def _unipc(config: _Config) -> _Scheduler:
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    scheduler: _Scheduler = UniPCMultistepScheduler(
        **config,
        solver_order=2,
        solver_type="bh2",
        predict_x0=True,
        lower_order_final=True,
        final_sigmas_type="zero",
        steps_offset=0,
    )
    return scheduler


_BUILDERS: dict[str, Callable[[_Config], _Scheduler]] = {
    "ddpm": _ddpm,
    "ddim": _ddim,
    "dpmsolver++": _dpmsolver_2m,
    "unipc": _unipc,
}


def _check_installed(scheduler: _Scheduler, alphas: torch.Tensor) -> None:
    """Make sure that the scheduler will visit our table and nothing else, whatever its version does by default."""
    expected = list(range(len(alphas) - 1, -1, -1))
    visited = [int(position) for position in scheduler.timesteps]
    # DDPM and DDIM read the cumulative alphas; the multistep solvers keep their own levels, sigma = noise / signal.
    levels: torch.Tensor | None = getattr(scheduler, "sigmas", None)
    sigmas = torch.cat([((1 - alphas) / alphas).sqrt().flip(0), torch.zeros(1, dtype=alphas.dtype)])
    if visited != expected or (
        levels is not None and not (levels.shape == sigmas.shape and torch.allclose(levels.double(), sigmas, rtol=1e-6))
    ):
        raise ValueError(
            f"{type(scheduler).__name__} of the installed diffusers does not follow the timestep table it was given."
        )
