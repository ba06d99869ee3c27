"""`ccella bench`: where the time of an exam goes on this machine."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from ..zoo.registry import find_card
from .options import batch_size_option, compute_options, memory_option, preset_option, steps_option, stream_options
from .output import Output
from .stages import announce_runtime, require_weights

if TYPE_CHECKING:
    from ..pipeline.speed import StageSpeed

COLUMNS = ("stage", "times", "seconds", "TFLOP", "TFLOP/s", "of matrix rate", "peak GiB")


@click.command()
@click.argument("model", metavar="MODEL")
@preset_option
@steps_option
@click.option(
    "--random-weights", is_flag=True,
    help="Random weights for parts that have none here; speed does not depend on them.",
)  # fmt: skip
@click.option(
    "--repeats", type=click.IntRange(min=1), default=3, show_default=True, metavar="N",
    help="Timed runs of each stage, after one that warms up; the median counts.",
)  # fmt: skip
@batch_size_option
@memory_option
@compute_options
@stream_options
def command(
    model: str,
    preset: str | None,
    steps: int | None,
    random_weights: bool,
    repeats: int,
    batch_size: int,
    memory_bytes: int | None,
    device: str,
    runtime: str,
    precision: str,
    as_json: bool,
) -> None:
    """Measure where the time of an exam goes when MODEL samples on this machine.

    One row per stage, for one exam: how often it runs, seconds and floating-point operations of one time, the rate that
    makes, its share of the rate of a large matrix product measured in the same run ("matrix product"), and the most
    memory in use meanwhile. "exam" adds the stages up.
    """
    from ..pipeline.sampler_settings import choose_settings
    from ..pipeline.speed import load_networks, measure_matrix_rate, measure_stages

    card = find_card(model)
    settings = choose_settings(card, preset=preset, steps=steps, batch_size=batch_size)
    settings = replace(settings, memory_bytes=memory_bytes)
    if not random_weights:
        require_weights(card, "text_encoder", "denoiser", "autoencoder")
    chosen = announce_runtime(
        card, runtime=runtime, device=device, precision=precision, batch_size=settings.batch_size,
        guidance_scale=settings.guidance_scale,
    )  # fmt: skip
    networks = load_networks(card, chosen, random_weights=random_weights)
    common = {
        "model": card.id, "runtime": chosen.name, "device": str(chosen.device), "precision": chosen.precision,
        "batch_size": batch_size, "sampler": settings.sampler, "guidance_scale": settings.guidance_scale,
        "guidance_interval": settings.guidance_interval,
    }  # fmt: skip
    rate = measure_matrix_rate(chosen.device, chosen.dtype)
    # Other runtimes have allocators of their own, so that on a GPU only the whole device's memory tells.
    shared = chosen.name != "torch" and chosen.device.type == "cuda"
    common["peak_of"] = "device" if shared else "PyTorch" if chosen.device.type == "cuda" else "process"
    columns = (*COLUMNS[:-1], "device GiB") if shared else COLUMNS
    with Output(*columns, as_json=as_json) as output:
        if not as_json:
            output.add_row("matrix product", None, None, None, f"{rate / 1e12:.4g}", "100%", None)
        for stage in measure_stages(networks, chosen, settings, repeats=repeats):
            if as_json:
                output.add_object(stage.entry(rate) | common)
            else:
                output.add_row(*_row(stage, rate))


def _row(stage: "StageSpeed", rate: float) -> list[object]:
    speed, share, peak = stage.flop_per_s, stage.share(rate), stage.peak_bytes
    return [
        stage.stage,
        stage.count,
        f"{stage.seconds:.4g}",
        f"{stage.flop / 1e12:.4g}" if stage.flop else None,
        None if speed is None else f"{speed / 1e12:.4g}",
        None if share is None else f"{share:.0%}",
        None if peak is None else f"{peak / 2**30:.2f}",
    ]
