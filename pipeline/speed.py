"""Where the time of an exam goes: each stage of sampling on its own, against the device's measured matrix rate."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..diffusion.noise import draw_noise
from ..export.layouts import choose_layouts
from ..zoo.card import Card
from ..zoo.errors import WeightsMissingError
from ..zoo.family import load_family
from ..zoo.forward import noise_schedule, predictor
from ..zoo.loading import load_part, load_text_encoder
from .conditions import choose_spacing
from .decode import check_memory, decode_images, to_image
from .flops import count_exam, count_flops
from .images import grid_affine, write_images
from .memory import read_peak, reset_peak
from .run_folder import RunFolder
from .sampler_settings import SampleSettings

if TYPE_CHECKING:
    from ..export.runtimes import Runtime
    from ..zoo.families.ccella.text import TextEncoder

# Sides of a matrix product that is bound by arithmetic and takes about 0.1 s or less.
MATRIX_SIZES = {"cpu": 1536, "cuda": 8192, "mps": 4096}
MATRIX_REPEATS = 7
# Token features that stand in where there is no text encoder: the length of a usual report.
TOKENS = 200
REPORT = """FINDINGS: Good image quality. The gland measures 51 x 38 x 47 mm, calculated volume 48 mL. Mild BPH of the
transition zone. There is a 19 mm focal lesion in the left posterolateral peripheral zone at the mid-gland, markedly
hypointense on ADC and markedly hyperintense on high b-value images. PI-RADS category 5. No extraprostatic extension.
Seminal vesicles are normal. No enlarged lymph nodes and no destructive bone lesion.
IMPRESSION: Lesion in the left mid-gland posterolateral peripheral zone (19 mm), PI-RADS 5. Targeted biopsy suggested.
"""


@dataclass(frozen=True)
class StageSpeed:
    """What one stage costs an exam.

    Attributes:
        stage: text encoding, adapter, step, decode or write; "exam" for all of them together.
        count: How often an exam needs it.
        seconds: Of one time, median of the repeats, divided by the batch size where the stage is batched.
        flop: Floating-point operations of one time, per exam; 0 where it multiplies no matrices.
        peak_bytes: Most memory in use meanwhile, see `memory.read_peak`.
    """

    stage: str
    count: int
    seconds: float
    flop: int
    peak_bytes: int | None

    @property
    def flop_per_s(self) -> float | None:
        """Operations per second; None where there are none."""
        return self.flop / self.seconds if self.flop else None

    def share(self, matrix_rate: float) -> float | None:
        """Part of the device's matrix rate (operations per second) that is reached; None without operations."""
        return None if self.flop_per_s is None else self.flop_per_s / matrix_rate

    def entry(self, matrix_rate: float) -> dict[str, Any]:
        """As JSON, with what follows from the figures."""
        return {
            **asdict(self),
            "flop_per_s": self.flop_per_s,
            "share_of_matrix_rate": self.share(matrix_rate),
            "matrix_flop_per_s": matrix_rate,
        }


def add_stages(stages: Sequence[StageSpeed]) -> StageSpeed:
    """The whole exam: every stage as often as it is needed, and the largest peak."""
    return StageSpeed(
        "exam",
        1,
        sum(stage.count * stage.seconds for stage in stages),
        sum(stage.count * stage.flop for stage in stages),
        max((stage.peak_bytes for stage in stages if stage.peak_bytes is not None), default=None),
    )


def time_repeats(compute: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each of `repeats` runs, the device's queue emptied before and after, after one that warms up."""
    compute()
    seconds = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        compute()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def measure_matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product: the best of several, as it is a yardstick."""
    size = MATRIX_SIZES[device.type]
    a, b = (torch.randn(size, size, generator=torch.Generator().manual_seed(i)).to(device, dtype) for i in (0, 1))
    return 2 * size**3 / min(time_repeats(lambda: a @ b, device, MATRIX_REPEATS))


@dataclass(frozen=True)
class Networks:
    """A model's parts, loaded.

    Attributes:
        card: The model, with `latent.scale`.
        text_encoder: None where it has no weights here: random token features stand in for a report.
        denoiser: As the runtime executes it.
        autoencoder: Likewise.
        counted: Denoiser and autoencoder in PyTorch, whose operations are counted; the same two with that runtime.
    """

    card: Card
    text_encoder: "TextEncoder | None"
    denoiser: torch.nn.Module
    autoencoder: torch.nn.Module
    counted: tuple[torch.nn.Module, torch.nn.Module]


def load_networks(card: Card, runtime: "Runtime", *, random_weights: bool = False) -> Networks:
    """Loads what is to be measured.

    Args:
        card: The model.
        runtime: What executes its parts.
        random_weights: Give parts that have no weights random ones: speed does not depend on the values.

    Raises:
        WeightsMissingError, DigestMismatchError, CardError: As `zoo.loading.load_part`.
    """

    def load(part: str) -> torch.nn.Module:
        if card.part(part).files or not random_weights:
            return runtime.load(card, part)
        network: torch.nn.Module = load_family(card.family).build(card.part(part))
        network = network.to(device=runtime.device, dtype=runtime.dtype).eval().requires_grad_(False)
        choose_layouts(network)
        return network

    try:
        text_encoder = load_text_encoder(card, device=str(runtime.device))
    except WeightsMissingError:
        if not random_weights:
            raise
        text_encoder = None
    denoiser, autoencoder = load("denoiser"), load("autoencoder")
    counted = (denoiser, autoencoder)
    if runtime.name != "torch":
        counted = (load_part(card, "denoiser"), load_part(card, "autoencoder"))
    if random_weights and card.latent.scale is None:
        card = card.with_generation(latent=replace(card.latent, scale=(1.0,) * card.latent.channels))
    return Networks(card, text_encoder, denoiser, autoencoder, counted)


@torch.no_grad()
def measure_stages(
    networks: Networks, runtime: "Runtime", settings: SampleSettings, *, repeats: int = 3
) -> Iterator[StageSpeed]:
    """Measures each stage in the order of sampling, then adds them to an exam.

    Args:
        networks: What is measured.
        runtime: What executes it.
        settings: Timestep table, guidance, batch size and the memory for decoding.
        repeats: Timed runs of each stage.

    Yields:
        The stages, then "exam".

    Raises:
        InputError: The memory for decoding does not suffice.
    """
    check_memory(networks.card, networks.autoencoder, settings.memory_bytes, runtime)
    done = []
    for stage in _each_stage(networks, runtime, settings, repeats):
        done.append(stage)
        yield stage
    yield add_stages(done)


def _each_stage(networks: Networks, runtime: "Runtime", settings: SampleSettings, repeats: int) -> Iterator[StageSpeed]:
    card, device, batch = networks.card, runtime.device, settings.batch_size
    family, encoder = load_family(card.family), networks.text_encoder

    def measure(stage: str, compute: Callable[[], Any], flop: int, count: int = 1, items: int = 1) -> StageSpeed:
        reset_peak(device)
        seconds = statistics.median(time_repeats(compute, device, repeats)) / items
        return StageSpeed(stage, count, seconds, flop, read_peak(device, whole_device=runtime.name != "torch"))

    if encoder is None:
        text = torch.randn(TOKENS, family.text_width(card), generator=torch.Generator().manual_seed(0))
    else:
        embed = partial(encoder.encode, [REPORT])
        text = embed()[0]
        yield measure("text encoding", embed, count_flops(embed))
    text = text.to(device, runtime.dtype)
    flops = count_exam(card, settings, *networks.counted, text)
    spacing_mm = choose_spacing(card, None, "The exam")
    # Reports of their own: the adapter works once for those that are the same.
    label = 0 if family.class_input(card) == "given" else None
    items = [family.Conditions(text.clone(), False, label, spacing_mm) for _ in range(batch)]
    plan = family.prepare(
        card, networks.denoiser, items,
        timesteps=settings.timesteps, guidance_scales=settings.guidance_scales, null_text=text[:1],
    )  # fmt: skip
    yield measure("adapter", plan.run_adapter, flops["adapter"], items=batch)
    z = torch.stack([draw_noise(seed, card.latent_shape) for seed in range(batch)]).to(device)
    predict = partial(predictor(card, plan, settings.timesteps, runtime.dtype), z)
    for kind, entries in settings.kinds_of_step.items():
        yield measure(kind, partial(predict, entries[0]), flops[kind], len(entries), batch)
    # The network's first estimate of the exam: what is decoded and written should look like one.
    clean = noise_schedule(card).to_x0(z, predict(0), torch.tensor(settings.timesteps[0]))
    latent = family.unscale_latent(card, clean)[:1].to(runtime.dtype)
    decode = partial(decode_images, card, networks.autoencoder, latent, settings.memory_bytes)
    yield measure("decode", decode, flops["decode"])
    image, affine = to_image(decode()[0]), grid_affine(card, spacing_mm)
    with tempfile.TemporaryDirectory() as scratch, RunFolder(Path(scratch), command="bench") as run:
        write = partial(write_images, run, card, "exam", image, affine=affine, data={"synthetic": True})
        yield measure("write", write, 0)
