"""Metrics against independent computations: Fréchet and kernel distance, the known bias, areas, DeLong, intervals.

The references are the definitions written out with scipy and scikit-learn; torchmetrics, where it is installed, is
asked too. Needs no data. Intervals are tried on simulated data sets: independent exams, few positive ones, several
exams of a patient, and two classifiers on the same exams. 1,000 sets of each take some three minutes of an idle core.

    python bench/metrics_agreement.py
"""

import argparse
import warnings
from dataclasses import dataclass

import numpy as np
from machine import report
from scipy import linalg, stats
from sklearn import metrics as sklearn_metrics

from ccella.metrics.classification import FIGURES, classification_figures
from ccella.metrics.delong import area_covariance, compare_areas
from ccella.metrics.frechet import frechet_distance
from ccella.metrics.intervals import difference_intervals, figure_intervals
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


@dataclass(frozen=True)
class Setting:
    """Simulated data sets of one kind.

    Attributes:
        name: In the printed rows; empty for the plain setting.
        positives: Patients whose exams are all positive.
        negatives: Patients whose exams are all negative.
        exams: Exams per patient.
        shared: Share of a score's variance that all exams of a patient have in common.
    """

    name: str
    positives: int
    negatives: int
    exams: int = 1
    shared: float = 0.0

    @property
    def labels(self) -> np.ndarray:
        return np.repeat([1, 0], [self.positives * self.exams, self.negatives * self.exams])

    @property
    def patients(self) -> list[str]:
        return [str(i) for i in range(self.positives + self.negatives) for _ in range(self.exams)]

    def draw(self, rng: np.random.Generator, separation: float = SEPARATION) -> np.ndarray:
        """Scores of one data set: normal with variance 1, whatever is shared."""
        of_patient = np.repeat(rng.normal(size=self.positives + self.negatives), self.exams)
        noise = np.sqrt(self.shared) * of_patient + np.sqrt(1 - self.shared) * rng.normal(size=len(of_patient))
        return noise + separation * (self.labels - 0.5)


PLAIN = Setting("", 60, 140)
SETTINGS = (
    PLAIN,
    Setting("10 positive of 200, ", 10, 190),
    Setting("3 exams each of 20 + 80 patients, ", 20, 80, exams=3, shared=0.5),
)


def true_figures(prevalence: float, separation: float = SEPARATION) -> dict[str, float]:
    """What the figures are in the population of the simulation."""
    labels = np.arange(2_000_000) < 2_000_000 * prevalence
    scores = np.random.default_rng(99).normal(separation * (labels - 0.5), 1.0)
    figures = classification_figures(labels.astype(int), stats.norm.cdf(scores), threshold=THRESHOLD)
    return {name: float(value or 0) for name, value in figures.items()}


def coverage(setting: Setting, datasets: int, repeats: int) -> list[tuple[str, object]]:
    """Share of simulated data sets whose interval holds the population's figure, of those that have one."""
    truth = true_figures(float(setting.labels.mean()))
    hits, given = dict.fromkeys(FIGURES, 0), dict.fromkeys(FIGURES, 0)
    for number in range(datasets):
        probabilities = stats.norm.cdf(setting.draw(np.random.default_rng(number)))
        intervals = figure_intervals(
            setting.labels, probabilities, setting.patients, threshold=THRESHOLD, repeats=repeats, seed=number
        )
        for name, interval in intervals.items():
            if interval.bounds is not None:
                given[name] += 1
                hits[name] += interval.bounds[0] <= truth[name] <= interval.bounds[1]
    sets = f"{setting.name}{datasets} sets"
    return [(f"95 % interval of {name} covers, {sets}", _share(hits[name], given[name], datasets)) for name in FIGURES]


def difference_coverage(datasets: int, repeats: int) -> list[tuple[str, object]]:
    """The same for the difference of two areas on the same exams: a better and a worse classifier that share noise."""
    better, worse = SEPARATION, 0.6 * SEPARATION
    truth = float(stats.norm.cdf(better / np.sqrt(2)) - stats.norm.cdf(worse / np.sqrt(2)))
    hits = dict.fromkeys(("bootstrap", "DeLong"), 0)
    given = 0
    for number in range(datasets):
        rng = np.random.default_rng(number)
        common, *own = (rng.normal(size=len(PLAIN.labels)) for _ in range(3))
        first, second = (
            np.sqrt(0.5) * (common + noise) + separation * (PLAIN.labels - 0.5)
            for noise, separation in zip(own, (better, worse), strict=True)
        )
        probabilities = stats.norm.cdf(first), stats.norm.cdf(second)
        bounds = difference_intervals(
            PLAIN.labels, *probabilities, PLAIN.patients, threshold=THRESHOLD, repeats=repeats, seed=number
        )["auc"].bounds
        tested = compare_areas(PLAIN.labels, *probabilities).interval
        given += bounds is not None
        hits["bootstrap"] += bounds is not None and bounds[0] <= truth <= bounds[1]
        hits["DeLong"] += tested is not None and tested[0] <= truth <= tested[1]
    bootstrap, delong = _share(hits["bootstrap"], given, datasets), _share(hits["DeLong"], datasets, datasets)
    return [
        (f"95 % interval of the difference of two areas covers, {datasets} sets", bootstrap),
        (f"DeLong's interval of that difference covers, {datasets} sets", delong),
    ]


def _share(hits: int, given: int, datasets: int) -> str:
    none = f"; none in {datasets - given} sets" if given < datasets else ""
    return (f"{hits / given:.1%}" if given else "-") + none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1000)
    options = parser.parse_args()
    rows = distances() + areas()
    for setting in SETTINGS:
        rows += coverage(setting, options.datasets, options.repeats)
    report("metrics_agreement", rows + difference_coverage(options.datasets, options.repeats))


if __name__ == "__main__":
    main()
