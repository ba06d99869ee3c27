"""Metrics against independent computations: Fréchet and kernel distance, the known bias, areas, DeLong, intervals.

The references are the definitions written out with scipy and scikit-learn; torchmetrics, where it is installed, is
asked too. Needs no data.

    python bench/metrics_agreement.py
"""

import argparse
import warnings

import numpy as np
from machine import report
from scipy import linalg, stats
from sklearn import metrics as sklearn_metrics

from ccella.metrics.classification import FIGURES, bootstrap_figures, classification_figures
from ccella.metrics.delong import area_covariance, compare_areas
from ccella.metrics.frechet import frechet_distance
from ccella.metrics.kernel import kernel_distance

# Known bias of the Fréchet distance between two samples of one distribution, d = 512.
BIAS = {50: 247.0, 200: 147.0, 620: 58.0, 2000: 18.0}
# Albumin, total protein, K-G score and outcome of 43 patients (DeLong, DeLong and Clarke-Pearson 1988).
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""
# Published: areas, their standard errors, and total protein against K-G score.
AREAS, ERRORS, DIFFERENCE = (0.7366, 0.6478, 0.7258), (0.0927, 0.1000, 0.1028), (-0.0780, 0.1046, 0.4561)
# Simulated classifiers: scores of the classes are normal, this far apart.
SEPARATION = 1.2
THRESHOLD = 0.5


def network_features(seed: int, n: int, d: int) -> np.ndarray:
    """Features as a network's last layer gives them: rectified mixtures."""
    mixing = np.random.default_rng(9).normal(size=(d, d)) / np.sqrt(d)
    return np.maximum(np.random.default_rng(seed).normal(size=(n, d)) @ mixing, 0)


def reference_frechet(x: np.ndarray, y: np.ndarray) -> float:
    """The definition with scipy's matrix square root; a full-rank covariance is due."""
    s, t = np.cov(x.T), np.cov(y.T)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = linalg.sqrtm(s @ t)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root).real)


def reference_kernel(x: np.ndarray, y: np.ndarray) -> float:
    """The definition with scikit-learn's kernel and explicit means over distinct pairs."""
    kernel = sklearn_metrics.pairwise.polynomial_kernel
    off_x, off_y = ~np.eye(len(x), dtype=bool), ~np.eye(len(y), dtype=bool)
    within = kernel(x, degree=3, coef0=1)[off_x].mean() + kernel(y, degree=3, coef0=1)[off_y].mean()
    return float(within - 2 * kernel(x, y, degree=3, coef0=1).mean())


def distances() -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    x, y = network_features(0, 900, 256), network_features(1, 900, 256) + 0.05
    ours, theirs = frechet_distance(x, y), reference_frechet(x, y)
    rows.append(("FID against scipy, n = 900, d = 256, relative", abs(ours / theirs - 1)))
    few = [np.pad(sample[:200, :64], ((0, 0), (0, 448))) for sample in (x, y)]
    theirs = reference_frechet(x[:200, :64], y[:200, :64])
    rows.append(
        ("FID by the nuclear norm against scipy, n = 200, d = 512, relative", abs(frechet_distance(*few) / theirs - 1))
    )
    rows.append(("KID against scikit-learn, relative", abs(kernel_distance(x, y) / reference_kernel(x, y) - 1)))
    for n, known in BIAS.items():
        value = frechet_distance(network_features(2, n, 512), network_features(3, n, 512))
        rows.append((f"FID of one distribution, n = {n} (known {known:g})", f"{value:.1f} ({value / known - 1:+.1%})"))
    return rows + torchmetrics_rows(x, y)


def torchmetrics_rows(x: np.ndarray, y: np.ndarray) -> list[tuple[str, object]]:
    try:
        import torch
        from torchmetrics.image.fid import _compute_fid
        from torchmetrics.image.kid import poly_mmd
    except ImportError:
        return [("torchmetrics", "not installed")]
    moments = [moment for z in map(torch.from_numpy, (x, y)) for moment in (z.mean(0), torch.cov(z.T))]
    theirs = float(_compute_fid(*moments))
    kernel = float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y)))
    return [
        ("FID against torchmetrics, relative", abs(frechet_distance(x, y) / theirs - 1)),
        ("KID against torchmetrics, relative", abs(kernel_distance(x, y) / kernel - 1)),
    ]


def areas() -> list[tuple[str, object]]:
    rng = np.random.default_rng(0)
    worst = dict.fromkeys(("auc", "average_precision"), 0.0)
    for _ in range(200):
        labels = np.append((rng.random(98) < 0.3).astype(int), [0, 1])
        scores = np.round(rng.normal(labels, 1.0), 1)
        probabilities = 1 / (1 + np.exp(-scores))
        ours = classification_figures(labels, probabilities)
        theirs = {
            "auc": sklearn_metrics.roc_auc_score(labels, probabilities),
            "average_precision": sklearn_metrics.average_precision_score(labels, probabilities),
        }
        for name in worst:
            worst[name] = max(worst[name], abs(float(ours[name] or 0) - theirs[name]))
    albumin, protein, score, outcome = np.array(OVARIAN.split(), float).reshape(-1, 4).T
    found, covariance = area_covariance(outcome, np.stack([albumin, protein, 10 - score]))
    comparison = compare_areas(outcome, protein, 10 - score)
    published = np.array([*AREAS, *ERRORS, *DIFFERENCE])
    ours_all = np.array(
        [*found, *np.sqrt(np.diag(covariance)), comparison.difference, comparison.standard_error, comparison.p_value]
    )
    return [
        ("AUC against scikit-learn, 200 sets with ties, largest difference", worst["auc"]),
        ("AP against scikit-learn, likewise", worst["average_precision"]),
        (
            "DeLong against the published example, 9 figures to 4 decimals, largest difference",
            float(np.abs(ours_all - published).max()),
        ),
    ]


def true_figures() -> dict[str, float]:
    """What the figures are in the population of the simulation, at a prevalence of 30 %."""
    half = SEPARATION / 2
    labels = np.arange(2_000_000) % 10 < 3
    scores = np.random.default_rng(99).normal(np.where(labels, half, -half), 1.0)
    figures = classification_figures(labels.astype(int), stats.norm.cdf(scores), threshold=THRESHOLD)
    return {name: float(value or 0) for name, value in figures.items()}


def coverage(datasets: int, repeats: int) -> list[tuple[str, object]]:
    """Share of simulated data sets whose interval holds the population's figure."""
    truth = true_figures()
    hits = dict.fromkeys(FIGURES, 0)
    for number in range(datasets):
        rng = np.random.default_rng(number)
        labels = (np.arange(200) % 10 < 3).astype(int)
        scores = rng.normal(np.where(labels == 1, SEPARATION / 2, -SEPARATION / 2), 1.0)
        patients = [str(i) for i in range(200)]
        intervals = bootstrap_figures(
            labels, stats.norm.cdf(scores), patients, threshold=THRESHOLD, repeats=repeats, seed=number
        )
        for name, (low, high) in intervals.items():
            hits[name] += low <= truth[name] <= high
    return [(f"95 % interval of {name} covers, {datasets} sets", f"{hits[name] / datasets:.1%}") for name in FIGURES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1000)
    options = parser.parse_args()
    report("metrics_agreement", distances() + areas() + coverage(options.datasets, options.repeats))


if __name__ == "__main__":
    main()
