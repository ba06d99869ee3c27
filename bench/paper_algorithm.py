"""An exam, from prompt to files, against the paper's algorithm written plainly with MONAI's classes.

The plain version is what the paper describes: 1000 steps of MONAI's DDPMScheduler without guidance, adapter and U-Net
together at every step, MONAI's AutoencoderKlMaisi with its splits for each sequence, one exam at a time. Both versions
run in this process on the same weights, fp32, and are compared before anything is timed: one prediction and one decode.
Loading is not counted. With --timed-steps N only N of the 1000 steps are carried out and timed, and their seconds are
scaled to 1000; the output says so.

    python bench/paper_algorithm.py                    # two minutes on two cores
    python bench/paper_algorithm.py --preset fast
    python bench/paper_algorithm.py --model ./runs/student/model     # both versions with the student's weights
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from machine import report
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.networks.schedulers.ddpm import DDPMScheduler
from plain_step import Denoiser

from ccella.diffusion.noise import draw_noise
from ccella.export.runtimes import choose_runtime
from ccella.pipeline.images import grid_affine
from ccella.pipeline.prompts import PromptItem
from ccella.pipeline.run_folder import RunFolder
from ccella.pipeline.sample import sample
from ccella.pipeline.sampler_settings import SampleSettings, choose_settings
from ccella.pipeline.speed import Networks, load_networks
from ccella.zoo.card import Card
from ccella.zoo.family import load_family
from ccella.zoo.forward import preconditioner, predictor
from ccella.zoo.registry import find_card

PROMPT = Path(__file__).resolve().parents[1] / "examples" / "report.txt"
LARGEST_DIFFERENCE = 1e-3


def clock() -> np.ndarray:
    """Wall and CPU seconds: the second says what a busy machine hides."""
    return np.array([time.perf_counter(), time.process_time()])


@dataclass
class PlainModel:
    """The paper's model from MONAI's classes, with a card's weights."""

    card: Card
    denoiser: Denoiser
    autoencoder: AutoencoderKlMaisi

    def predict(self, z: torch.Tensor, t: int, text: torch.Tensor) -> torch.Tensor:
        """Adapter and U-Net at one timestep, with the scaling that the card's network was trained with."""
        times, spacing = torch.tensor([t]), torch.tensor([self.card.image.spacing_mm])
        scaling = preconditioner(self.card)
        if scaling is None:
            return self.denoiser(z, times, text[None], spacing)[0]
        output, _ = self.denoiser(scaling.network_input(z, times), times, text[None], spacing)
        return scaling.clean_latent(z, output, times)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The sequences of a latent B C x y z, one after another."""
        each = self.card.latent.channels_per_image_channel
        return torch.cat([self.autoencoder.decode(part) for part in z.split(each, 1)], 1).clamp(0, 1)


def build_plain(networks: Networks) -> PlainModel:
    """The plain classes with the weights that the networks have."""
    card = networks.card
    denoiser = Denoiser(dict(card.part("denoiser").config))
    denoiser.load_state_dict(networks.denoiser.state_dict(), strict=True)
    config = networks.autoencoder.config
    autoencoder = AutoencoderKlMaisi(
        spatial_dims=3, in_channels=1, out_channels=1, latent_channels=config.latent_channels,
        num_channels=config.channels, num_res_blocks=config.num_res_blocks, norm_num_groups=config.norm_num_groups,
        norm_eps=config.norm_eps, attention_levels=[False] * len(config.channels),
        with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False, use_checkpointing=False,
        use_convtranspose=config.transposed_upsampling, norm_float16=False, num_splits=2, dim_split=1,
    )  # fmt: skip
    autoencoder.load_state_dict(networks.autoencoder.state_dict(), strict=True)
    return PlainModel(card, denoiser.eval(), autoencoder.eval())


@torch.no_grad()
def sample_plainly(
    model: PlainModel, networks: Networks, prompt: str, out: Path, timed_steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One exam: wall and CPU seconds of the text, of one step, and of decoding and writing."""
    card, schedule = model.card, model.card.schedule
    started = clock()
    assert networks.text_encoder is not None
    text = networks.text_encoder.encode([prompt])[0].float()
    text_done = clock()
    scheduler = DDPMScheduler(
        num_train_timesteps=schedule.train_timesteps, schedule=f"{schedule.beta_schedule}_beta",
        beta_start=schedule.beta_start, beta_end=schedule.beta_end, prediction_type=schedule.prediction,
        clip_sample=False,
    )  # fmt: skip
    scheduler.set_timesteps(schedule.train_timesteps)
    z = draw_noise(0, card.latent_shape)[None]
    every = max(1, schedule.train_timesteps // timed_steps)
    visited = scheduler.timesteps[::every][:timed_steps]
    for t in visited:
        z, _ = scheduler.step(model.predict(z, int(t), text), int(t), z)
    steps_done = clock()
    x = model.decode(load_family(card.family).unscale_latent(card, z))[0]
    affine = grid_affine(card, card.image.spacing_mm or ())
    for channel, image in zip(card.image.channels, x, strict=True):
        low, high = channel.intensity.get("output") or (channel.intensity["lower"], channel.intensity["upper"])
        volume = np.asarray(low + (high - low) * image.numpy(), np.float32)
        nibabel.save(nibabel.Nifti1Image(volume, affine), out / f"plain_{channel.name}.nii.gz")
    ended = clock()
    return text_done - started, (steps_done - text_done) / len(visited), ended - steps_done


def sample_with_ccella(networks: Networks, settings: SampleSettings, prompt: str, out: Path, count: int) -> np.ndarray:
    """Wall and CPU seconds per exam of `count` exams through the same functions as `ccella sample`."""
    items = [PromptItem(f"exam{i}", prompt, seed=i) for i in range(count)]
    runtime = choose_runtime("torch", networks.card, device="cpu", precision="fp32")
    assert networks.text_encoder is not None
    started = clock()
    with RunFolder(out, command="sample") as run:
        for _ in sample(
            items, networks.card, text_encoder=networks.text_encoder, denoiser=networks.denoiser,
            autoencoder=networks.autoencoder, run=run, runtime=runtime, settings=settings,
        ):  # fmt: skip
            pass
    return (clock() - started) / count


@torch.no_grad()
def compare(model: PlainModel, networks: Networks, prompt: str) -> tuple[float, float]:
    """Largest differences of one prediction and of one decode, relative to the largest value."""
    card = networks.card
    family = load_family(card.family)
    z = draw_noise(0, card.latent_shape)[None]
    assert networks.text_encoder is not None
    text = networks.text_encoder.encode([prompt])[0].float()
    t = card.schedule.train_timesteps // 2
    conditions = family.Conditions(text, False, None, card.image.spacing_mm)
    plan = family.prepare(
        card, networks.denoiser, [conditions], timesteps=[t], guidance_scales=[1.0], null_text=text[:1]
    )  # fmt: skip
    ours, theirs = predictor(card, plan, [t], torch.float32)(z, 0), model.predict(z, t, text)
    image, plain = family.decode_latent(card, networks.autoencoder, z), model.decode(z)
    return tuple(float((a - b).abs().max() / a.abs().max()) for a, b in ((ours, theirs), (image, plain)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ccella-pp/phantom")
    parser.add_argument("--preset", help="of the model; default: the model's own sampler")
    parser.add_argument("--steps", type=int, help="steps of ccella; default: the preset's or the model's")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4], help="exams at a time, of ccella")
    parser.add_argument("--timed-steps", type=int, help="carry out and time only so many of the 1000 steps")
    parser.add_argument("--repeats", type=int, default=3, help="runs of ccella, in turn before and after the plain one")
    options = parser.parse_args()
    networks = load_networks(find_card(options.model), choose_runtime("torch", find_card(options.model), device="cpu"))
    card = networks.card
    settings = choose_settings(card, preset=options.preset, steps=options.steps)
    prompt = PROMPT.read_text(encoding="utf-8")
    model = build_plain(networks)
    differences = compare(model, networks, prompt)
    if max(differences) > LARGEST_DIFFERENCE:
        raise SystemExit(f"The two versions differ: prediction {differences[0]:.2e}, decode {differences[1]:.2e}.")
    total = card.schedule.train_timesteps
    timed = min(options.timed_steps or total, total)
    seconds: dict[int, list[np.ndarray]] = {size: [] for size in options.batch_sizes}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)

        def sample_each(name: str) -> None:
            for size, found in seconds.items():
                settings = choose_settings(card, preset=options.preset, steps=options.steps, batch_size=size)
                found.append(sample_with_ccella(networks, settings, prompt, out / f"{name}-{size}", size))

        sample_with_ccella(networks, settings, prompt, out / "warm", 1)
        sample_each("before")
        text_s, step_s, files_s = sample_plainly(model, networks, prompt, out, timed)
        for i in range(1, options.repeats):
            sample_each(str(i))
    plain = text_s + total * step_s + files_s
    how = f"all {total} steps timed" if timed == total else f"SCALED from {timed} of {total} steps"
    rows: list[tuple[str, object]] = [
        ("plain MONAI, one step (adapter and U-Net)", f"{step_s[0]:.4g} s"),
        ("plain MONAI, decode and write", f"{files_s[0]:.4g} s"),
        (f"plain MONAI, prompt to files, {total} steps", f"{plain[0]:.4g} s ({how})"),
        ("ccella's sampler", f"{settings.sampler}, {settings.steps} steps, {settings.guidance_words}"),
    ]
    for size, found in seconds.items():
        walls = [float(each[0]) for each in found]
        ours = np.median(found, axis=0)
        how = f"batches of {size}" if size > 1 else "one exam at a time"
        rows += [
            (f"ccella, prompt to files, {how}",
             f"{ours[0]:.4g} s an exam ({min(walls):.4g} to {max(walls):.4g}, {len(walls)} runs)"),
            (f"ratio to the paper's algorithm, {how}", f"{plain[0] / ours[0]:.1f}x, CPU {plain[1] / ours[1]:.1f}x"),
        ]  # fmt: skip
    rows.append(("largest relative difference, prediction and decode", "{:.1e}, {:.1e}".format(*differences)))
    kind = "student" if card.sampler.distilled else options.preset
    report(
        "paper_algorithm" if kind is None else f"paper_algorithm_{kind}",
        rows,
        {
            "plain": {"text": text_s.tolist(), "step": step_s.tolist(), "decode and write": files_s.tolist()},
            "timed_steps": timed,
            "ccella": {size: [each.tolist() for each in found] for size, found in seconds.items()},
        },
    )


if __name__ == "__main__":
    main()
