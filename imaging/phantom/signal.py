"""Images from tissue maps: T2-weighted spin echo, high b-value diffusion and a fitted ADC map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from .anatomy import TissueMaps
from .fields import Array, Grid, centred_grid, draw_field
from .findings import Findings
from .parameters import Acquisition, Tissue, load_parameters


@dataclass(frozen=True)
class Images:
    """The three sequences [x, y, z] float32 on one grid, whole numbers; `adc` in 1e-6 mm2/s."""

    t2w: Array
    hbv: Array
    adc: Array


def spin_echo(tissues: Sequence[Tissue], tr_ms: float, te_ms: float) -> Array:
    """Signal of each tissue, PD (1 - exp(-TR/T1)) exp(-TE/T2): float32 [tissue]."""
    values = [t.pd * (1.0 - np.exp(-tr_ms / t.t1_ms)) * np.exp(-te_ms / t.t2_ms) for t in tissues]
    return np.array(values, dtype=np.float32)


def diffusion_signal(tissues: Sequence[Tissue], acquisition: Acquisition, b_s_mm2: Sequence[float]) -> Array:
    """Signal S0 exp(-b ADC), S0 of the EPI spin echo with fat suppressed: float32 [b, tissue]."""
    s0 = spin_echo(tissues, acquisition.dwi_tr_ms, acquisition.dwi_te_ms)
    names = list(load_parameters().tissues)
    for name in ("fat", "marrow"):
        s0[names.index(name)] *= acquisition.fat_suppression
    adc_mm2_s = np.array([t.adc_um2_s for t in tissues]) * 1e-6
    return (s0 * np.exp(-np.outer(b_s_mm2, adc_mm2_s))).astype(np.float32)


def make_images(rng: np.random.Generator, maps: TissueMaps, grid: Grid, findings: Findings) -> Images:
    """Acquires the three sequences of one exam.

    Args:
        rng: The exam's generator for coils and noise.
        maps: Tissue maps on `grid`.
        grid: Grid of the T2 sequence; diffusion is acquired on its institution's coarser grid and resampled.
        findings: For the institution and the image quality.
    """
    acquisition = load_parameters().institutions[findings.institution]
    bias = np.exp(_bias(rng, grid) * np.float32(acquisition.bias_amplitude))
    t2w = _acquire_t2(rng, maps, bias, acquisition, findings.quality == "motion")
    hbv, adc = _acquire_dwi(rng, maps, grid, bias, acquisition, findings)
    return Images(t2w, hbv, adc)


def _bias(rng: np.random.Generator, grid: Grid) -> Array:
    """Log sensitivity of a surface array: brighter in front and behind, with a smooth random part."""
    y = grid.axes[1] / np.float32(48.0)
    field = draw_field(rng, 60.0, 8).sample(grid)
    return 0.5 * field + 0.6 * (y * y - 0.33) + np.float32(rng.normal(0.0, 0.3)) * y


def rician(rng: np.random.Generator, signal: Array, deviation: float, point_spread_voxels: float = 0.0) -> Array:
    """Magnitude of `signal` with complex Gaussian noise of `deviation` per channel (Gudbjartsson and Patz, 1995).

    A point spread, in-plane full width at half maximum, blurs signal and noise alike: both pass through k-space.
    """
    real = signal + rng.standard_normal(signal.shape, dtype=np.float32) * np.float32(deviation)
    imaginary = rng.standard_normal(signal.shape, dtype=np.float32) * np.float32(deviation)
    if point_spread_voxels > 0:
        width = point_spread_voxels / (2.0 * np.sqrt(2.0 * np.log(2.0)))
        real, imaginary = (gaussian_filter(part, (width, width, 0.0), truncate=3.0) for part in (real, imaginary))
    return np.hypot(real, imaginary)


def _mix(maps: TissueMaps, weights: Array) -> Array:
    """Sums tissue fractions with `weights` [n, tissue]: [n, x, y, z]."""
    flat = maps.fractions.reshape(len(maps.tissues), -1)
    return (weights @ flat).reshape(len(weights), *maps.labels.shape)


def _acquire_t2(
    rng: np.random.Generator, maps: TissueMaps, bias: Array, acquisition: Acquisition, motion: bool
) -> Array:
    weights = spin_echo(maps.tissues, acquisition.t2_tr_ms, acquisition.t2_te_ms)
    signal = _mix(maps, weights[None])[0] * bias
    if motion:
        signal = _ghost(rng, signal)
    image = rician(rng, signal, acquisition.t2_noise, acquisition.t2_point_spread_voxels)
    return np.rint(image * np.float32(acquisition.t2_gain))


def _ghost(rng: np.random.Generator, signal: Array) -> Array:
    """Blurs and adds faint copies along the phase-encoding axis x, as breathing and bowel motion do."""
    share = np.float32(rng.uniform(0.06, 0.11))
    shift = max(2, round(signal.shape[0] * float(rng.uniform(0.10, 0.18))))
    blurred = 0.5 * signal + 0.25 * (np.roll(signal, 1, axis=0) + np.roll(signal, -1, axis=0))
    return (1 - 2 * share) * blurred + share * (np.roll(signal, shift, axis=0) + np.roll(signal, -shift, axis=0))


def _acquire_dwi(
    rng: np.random.Generator, maps: TissueMaps, grid: Grid, bias: Array, acquisition: Acquisition, findings: Findings
) -> tuple[Array, Array]:
    b_values = (*acquisition.adc_b_s_mm2, acquisition.hbv_b_s_mm2)
    fine = _mix(maps, diffusion_signal(maps.tissues, acquisition, b_values))
    fine *= bias
    coarse_grid = _dwi_grid(grid, acquisition)
    down = _resampling(grid, coarse_grid)
    coarse = np.stack([_apply(down, volume) for volume in fine])
    gas_mm = _apply(down, np.minimum(maps.gas_mm, 60.0))
    coarse = _distort(rng, coarse, gas_mm, acquisition.dwi_spacing_mm[1], findings)
    for number in range(len(b_values) - 1):
        coarse[number] = rician(rng, coarse[number], acquisition.dwi_noise)
    hbv = rician(rng, coarse[-1], acquisition.hbv_noise)
    adc = fit_adc(coarse[:-1], acquisition)
    up = _resampling(coarse_grid, grid)
    hbv = np.rint(_apply(up, hbv) * np.float32(acquisition.dwi_gain))
    return hbv, np.rint(np.clip(_apply(up, adc), 0.0, 3500.0))


def fit_adc(images: Array, acquisition: Acquisition) -> Array:
    """Least-squares fit of ln S = ln S0 - b ADC.

    Args:
        images: [b, x, y, z] signals at `acquisition.adc_b_s_mm2`.
        acquisition: Gives the b-values, the scale and the signal below which the map reads 0.

    Returns:
        [x, y, z] in 1e-6 mm2/s, fading to 0 where the first image is below the signal floor, 0..3500.
    """
    b = np.array(acquisition.adc_b_s_mm2)
    centred = b - b.mean()
    slope = (centred / (centred**2).sum()).astype(np.float32)
    logs = np.log(np.maximum(images, 1e-5))
    adc = -np.tensordot(slope, logs, axes=1) * np.float32(1e6 * acquisition.adc_scale)
    low, high = acquisition.adc_signal_floor
    seen = np.clip((images[0] - low) / (high - low), 0.0, 1.0)
    return np.clip(adc, 0.0, 3500.0) * seen


def _distort(rng: np.random.Generator, images: Array, gas_mm: Array, spacing_y_mm: float, findings: Findings) -> Array:
    """Shifts and piles up signal along y near rectal gas, where the field is off resonance, and dephases it."""
    strong = findings.quality == "rectal gas artefact"
    push_mm = float(rng.uniform(3.0, 4.5) if strong else rng.uniform(0.8, 2.0)) * float(rng.choice([-1.0, 1.0]))
    if findings.rectum != "gas":
        return images
    shift = np.float32(push_mm / spacing_y_mm) * np.exp(-gas_mm / np.float32(9.0))
    density = np.clip(1.0 + np.gradient(shift, axis=1), 0.4, 2.0)
    loss = 1.0 - np.float32(0.55 if strong else 0.25) * np.exp(-((gas_mm / np.float32(4.0 if strong else 2.5)) ** 2))
    count = images.shape[2]
    source = np.clip(np.arange(count, dtype=np.float32)[None, :, None] + shift, 0, count - 1.001)
    first = source.astype(np.intp)
    part = source - first
    moved = [
        np.take_along_axis(image, first, 1) * (1 - part) + np.take_along_axis(image, first + 1, 1) * part
        for image in images
    ]
    return np.stack(moved).astype(np.float32) * (density * loss)


def _dwi_grid(grid: Grid, acquisition: Acquisition) -> Grid:
    axes = (grid.x_mm, grid.y_mm, grid.z_mm)
    shape = []
    for axis, spacing in zip(axes, acquisition.dwi_spacing_mm, strict=True):
        extent = float(axis[-1] - axis[0]) + float(axis[1] - axis[0])
        shape.append(max(2, int(np.ceil(extent / spacing - 1e-6))))
    return centred_grid(shape, acquisition.dwi_spacing_mm)


def _resampling(source: Grid, target: Grid) -> tuple[Array, Array, Array]:
    """Separable triangle-kernel matrices [target, source]: interpolate when refining, average when coarsening."""
    matrices = []
    for old, new in zip((source.x_mm, source.y_mm, source.z_mm), (target.x_mm, target.y_mm, target.z_mm), strict=True):
        width = max(float(old[1] - old[0]), float(new[1] - new[0]))
        weight = np.clip(1.0 - np.abs(np.clip(new, old[0], old[-1])[:, None] - old[None, :]) / width, 0.0, None)
        matrices.append((weight / weight.sum(axis=1, keepdims=True)).astype(np.float32))
    return matrices[0], matrices[1], matrices[2]


def _apply(matrices: tuple[Array, Array, Array], volume: Array) -> Array:
    mx, my, mz = matrices
    along_z = volume @ mz.T
    along_y = np.matmul(my, along_z)
    return (mx @ along_y.reshape(volume.shape[0], -1)).reshape(len(mx), len(my), len(mz))
