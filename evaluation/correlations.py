"""The memorisation audit as a figure of a report page."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .charts import line_chart
from .page import figure
from .tables import number

BINS = 30


def correlation_figure(audit: Mapping[str, Any]) -> str:
    """How the largest correlations of generated exams lie beside those of independent ones, as HTML.

    Args:
        audit: `memorisation` of an evaluation: `correlations` of both groups, `threshold`, `independent`.
    """
    groups = {label: np.array(audit["correlations"][label]) for label in ("synthetic", "independent")}
    edges = np.linspace(min(float(values.min()) for values in groups.values()), 1.0, BINS + 1)
    lines = {}
    for label, values in groups.items():
        shares = np.histogram(values, edges)[0] / len(values)
        lines[label] = [((a + b) / 2, float(s)) for a, b, s in zip(edges[:-1], edges[1:], shares, strict=True)]
    chart = line_chart(
        lines, x_label="largest correlation with a training exam", y_label="share",
        marks={f"threshold {number(audit['threshold'])}": audit["threshold"]},
    )  # fmt: skip
    return figure(chart, f"Independent: {audit['independent']['source']}. Above the threshold: a suspected copy.")
