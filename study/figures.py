"""The figures of a study as PNG, after the paper's figures 2, 3 and 5."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.atomic import atomic_path
from ..imaging.errors import InputError
from .partitions import fraction_name
from .results import FIGURES, Difference, Point, Results
from .uncertainty import Estimate, Interval

NAMES = {"average_precision": "Average precision", "auc": "Area under the ROC curve"}
# The paper's names of the curves, with colours that differ in grey and to colour-blind eyes (Okabe and Ito).
CURVES = {
    "real": ("1R: pretrained on real exams of institution 1", "#0072B2", "o"),
    "synthetic": ("1S: pretrained on synthetic exams of institution 1", "#D55E00", "s"),
    "none": ("2: from scratch on institution 2", "#333333", "^"),
}


def check_matplotlib() -> None:
    """Raises InputError where the library that draws is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            "The figures of a study need matplotlib.", 'Install it: pip install "ccella[figures]".'
        ) from error


def write_figures(folder: Path, results: Results) -> list[Path]:
    """Draws a curve per sequence set and pretraining, and what further sequences add.

    Args:
        folder: Where `curves-<sequences>.png` and `difference-<sequences>.png` go.
        results: Of the study.

    Returns:
        The files.

    Raises:
        InputError: matplotlib is not installed.
    """
    check_matplotlib()
    paths = []
    names = list(results.study.sequences)
    for name in names:
        paths.append(folder / f"curves-{name}.png")
        _draw_curves(paths[-1], results, name)
    for name in names[1:]:
        chosen = [each for each in results.sequences if each.minuend[0] == name]
        if chosen:
            paths.append(folder / f"difference-{name}.png")
            _draw_differences(paths[-1], results, name, names[0], chosen)
    return paths


def _draw_curves(path: Path, results: Results, sequences: str) -> None:
    """One panel per figure: mean over trials, bars of one standard deviation, band of the widest 95 % interval."""
    points = [point for point in results.points() if point[0] == sequences]
    figure, panels, places = _panels(points)
    for panel, name in zip(panels, FIGURES, strict=True):
        chance = results.positives / results.exams if name == "average_precision" else 0.5
        panel.axhline(chance, color="#999999", linewidth=1, linestyle=":")
        for pretraining, (label, colour, marker) in CURVES.items():
            own = sorted((point for point in points if point[1] == pretraining), key=lambda point: point[2])
            if not own:
                continue
            x = [places[point[2]] for point in own]
            found = [results.estimates[point, name] for point in own]
            spread = [each.sd or 0.0 for each in found]
            low, high = zip(*map(_ends, found), strict=True)
            panel.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            panel.errorbar(
                x,
                [each.value for each in found],
                spread,
                color=colour,
                marker=marker,
                capsize=3,
                label=label,
            )
        panel.set_ylabel(NAMES[name])
    _finish(
        figure,
        panels,
        path,
        f"{results.study.title}: {sequences}",
        f"Bars: 1 SD over trials; bands: {_words(results)}.",
    )


def _draw_differences(path: Path, results: Results, name: str, base: str, differences: Sequence[Difference]) -> None:
    """One panel per figure: what a sequence set adds to the first one, with 95 % intervals."""
    figure, panels, places = _panels([each.minuend for each in differences])
    shifts = dict(zip(CURVES, (-0.08, 0.0, 0.08), strict=True))
    for panel, kind in zip(panels, FIGURES, strict=True):
        panel.axhline(0.0, color="#999999", linewidth=1, linestyle=":")
        for pretraining, (label, colour, marker) in CURVES.items():
            own = [each for each in differences if each.figure == kind and each.minuend[1] == pretraining]
            if not own:
                continue
            own.sort(key=lambda each: each.minuend[2])
            x = [places[each.minuend[2]] + shifts[pretraining] for each in own]
            y = np.array([each.estimate.value for each in own])
            ends = np.array([_ends(each.estimate) for each in own])
            bounds = np.stack([y - ends[:, 0], ends[:, 1] - y]).clip(min=0.0)
            panel.errorbar(x, y, bounds, color=colour, marker=marker, capsize=3, label=label)
        panel.set_ylabel(f"{NAMES[kind]}: {name} minus {base}")
    _finish(figure, panels, path, f"{results.study.title}: {name} minus {base}", f"Bars: {_words(results)}.")


def _ends(found: Estimate) -> Interval:
    """The interval over trials and patients; with one trial that over patients; else none."""
    return found.interval or found.patients or (found.value, found.value)


def _words(results: Results) -> str:
    """What the intervals are over."""
    joint = any(each.interval for each in results.estimates.values())
    return f"95 % over {'trainings and ' if joint else ''}test patients"


def _panels(points: Sequence[Point]) -> tuple[Any, Any, dict[float, int]]:
    """Two panels with one place per share: the shares halve from one to the next."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    shares = sorted({point[2] for point in points})
    for panel in panels:
        panel.set_xticks(range(len(shares)), [fraction_name(share) for share in shares])
        panel.set_xlabel("Share of institution 2's training exams, %")
    return figure, panels, {share: place for place, share in enumerate(shares)}


def _finish(figure: Any, panels: Any, path: Path, title: str, note: str) -> None:
    figure.suptitle(title)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, title=note)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
