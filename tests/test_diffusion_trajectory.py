"""A teacher's steps are those of the samplers, and a student that says what is asked lands where its teacher does."""

import pytest
import torch

from ccella.diffusion.preconditioning import Preconditioner
from ccella.diffusion.samplers import sample
from ccella.diffusion.schedule import NoiseSchedule
from ccella.diffusion.timesteps import timestep_table
from ccella.diffusion.trajectory import Trajectory

MEAN, STD = (1.5, -0.25, 0.0), (2.0, 0.3, 1.0)


def make_schedule(prediction: str) -> NoiseSchedule:
    kind = "rectified_flow" if prediction == "flow" else "scaled_linear"
    return NoiseSchedule(1000, kind, 0.0015, 0.0195, prediction)


def denoise(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A denoiser that is neither linear nor the same at all timesteps."""
    level = t.float().view(-1, *[1] * (z.ndim - 1)) / 1000
    return torch.tanh(2 * z) * (1 - 0.6 * level) + 0.3 * torch.sin(5 * z + 3 * level)


def draw(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 4, 4, 2, generator=torch.Generator().manual_seed(5))


def land(trajectory: Trajectory, z: torch.Tensor, step: int, answer: torch.Tensor) -> torch.Tensor:
    """Where a sampler's step leads a network that predicts `answer` at the student's step."""
    schedule, seen = trajectory.schedule, []

    def predict(z: torch.Tensor, i: int) -> torch.Tensor:
        seen.append(z)
        return answer

    sampler = "euler" if schedule.is_flow else "ddim"
    table = trajectory.student_timesteps[step:]
    end = sample(predict, z, schedule=schedule, sampler=sampler, timesteps=table)
    return [*seen, end][1]


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("prediction", ["sample", "v_prediction", "flow"])
def test_one_step_towards_the_target_lands_where_the_teacher_does(prediction: str, second_order: bool) -> None:
    schedule = make_schedule(prediction)
    trajectory = Trajectory(schedule, timestep_table(1000, 20, "quadratic"), 5, second_order)
    assert trajectory.student_timesteps == (999, 542, 224, 44)
    steps, z = torch.arange(4), draw(4)
    landing = trajectory.walk(denoise, z, steps)
    clean = trajectory.clean_target(z, landing, steps)
    torch.testing.assert_close(clean[3], landing[3])  # The last landing is the clean latent.
    t = torch.tensor(trajectory.student_timesteps)
    signal, noise = schedule.factors(z, t)
    answer = schedule.target(clean, (z - signal * clean) / noise, t)
    for step in range(4):
        one = slice(step, step + 1)
        arrived = land(trajectory, z[one], step, answer[one])
        torch.testing.assert_close(arrived, landing[one], rtol=1e-5, atol=1e-5)
        assert (landing[one] - z[one]).abs().max() > 0.1


def test_a_preconditioned_student_lands_there_too() -> None:
    schedule = make_schedule("sample")
    scaling = Preconditioner(schedule, MEAN, STD)
    trajectory = Trajectory(schedule, timestep_table(1000, 12, "quadratic"), 3)
    steps, z = torch.arange(4), draw(4)
    t = torch.tensor(trajectory.student_timesteps)

    def teach(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return scaling.clean_latent(z, denoise(scaling.network_input(z, t), t), t)

    landing = trajectory.walk(teach, z, steps)
    clean = trajectory.clean_target(z, landing, steps)
    base = scaling.clean_latent(z, torch.zeros_like(z), t)
    slope = scaling.clean_latent(z, torch.ones_like(z), t) - base
    answer = scaling.clean_latent(z, (clean - base) / slope, t)
    for step in range(4):
        one = slice(step, step + 1)
        arrived = land(trajectory, z[one], step, answer[one])
        torch.testing.assert_close(arrived, landing[one], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("second_order", "sampler", "prediction"),
    [(False, "ddim", "sample"), (True, "dpmsolver++", "sample"), (False, "euler", "flow")],
)
def test_the_teacher_goes_where_the_sampler_goes(second_order: bool, sampler: str, prediction: str) -> None:
    schedule, table, z = make_schedule(prediction), timestep_table(1000, 9, "quadratic"), draw(2)

    def predict(z: torch.Tensor, i: int) -> torch.Tensor:
        t = torch.tensor([table[i]])
        clean = denoise(z, t)
        signal, noise = schedule.factors(z, t)
        return schedule.target(clean, (z - signal * clean) / noise, t)

    expected = sample(predict, z, schedule=schedule, sampler=sampler, timesteps=table)
    # A single step of a student takes in the whole table.
    walked = Trajectory(schedule, table, 9, second_order).walk(denoise, z, torch.tensor([0, 0]))
    torch.testing.assert_close(walked, expected, rtol=1e-4, atol=1e-5)
    if not second_order:
        z_n, cut = z, Trajectory(schedule, table, 3)
        for step in range(3):
            z_n = cut.walk(denoise, z_n, torch.tensor([step, step]))
        torch.testing.assert_close(z_n, expected, rtol=1e-4, atol=1e-5)


def test_a_single_small_step_asks_for_what_the_teacher_said() -> None:
    trajectory = Trajectory(make_schedule("sample"), (999, 500, 100), 1, second_order=True)
    z, step = draw(3), torch.arange(3)
    target = trajectory.clean_target(z, trajectory.walk(denoise, z, step), step)
    torch.testing.assert_close(target, denoise(z, torch.tensor([999, 500, 100])), rtol=1e-5, atol=1e-5)


def test_steps_are_found_by_their_timesteps() -> None:
    trajectory = Trajectory(make_schedule("sample"), (999, 700, 400, 100), 2)
    assert trajectory.locate(torch.tensor([400, 999, 400])).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match=r"\[999, 700\] are not all in the student's table \(999, 400\)"):
        trajectory.locate(torch.tensor([999, 700]))
    with pytest.raises(ValueError, match="4 timesteps cannot be cut into student steps of 3"):
        Trajectory(make_schedule("sample"), (999, 700, 400, 100), 3)
    with pytest.raises(ValueError, match="strictly descending"):
        Trajectory(make_schedule("sample"), (400, 999), 1)
