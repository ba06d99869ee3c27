"""What a run's exams are like, in numbers: counts, classes, what is missing, spacing and intensities."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..zoo.record import Record
from .errors import ItemFailure

SCHEMA = "ccella.data-report/1"


def describe_data(
    records: Iterable[Record], failures: Sequence[ItemFailure] = (), splits: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The data report of encoded exams, JSON-able. It depends on what was encoded, not on the order.

    Args:
        records: Of kind `latent`.
        failures: Exams that could not be encoded.
        splits: Split by patient.
    """
    data = [record.data for record in sorted(records, key=lambda record: record.id) if record.kind == "latent"]
    sources = [row["source"] for row in data if isinstance(row.get("source"), Mapping)]
    prompts = [str(row["prompt"]) for row in data if row.get("prompt")]
    report: dict[str, Any] = {
        "schema": SCHEMA,
        **_count(data),
        "missing": {"report": len(data) - len(prompts), "class": sum(row.get("class") is None for row in data)},
        "reports": {"distinct": len(set(prompts)), "cut": sum(bool(row.get("prompt_truncated")) for row in data)},
        "source": {
            "spacing_mm": _ranges({axis: [row["spacing_mm"][i] for row in sources] for i, axis in enumerate("xyz")}),
            "shapes": dict(Counter("x".join(map(str, row["shape"])) for row in sources).most_common(10)),
        },
        "intensity": _intensities([row["percentiles"] for row in sources]),
        "failed": [{"id": failure.id, "reason": failure.reason} for failure in failures],
    }
    if splits is not None:
        by_split: dict[str, list[Mapping[str, Any]]] = {}
        for row in data:
            by_split.setdefault(splits.get(str(row["patient_id"]), "none"), []).append(row)
        report["splits"] = {name: _count(rows) for name, rows in sorted(by_split.items())}
    return report


def _count(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    labels = Counter(row.get("class") for row in rows)
    return {
        "exams": len(rows),
        "patients": len({str(row["patient_id"]) for row in rows}),
        "classes": {"0": labels[0], "1": labels[1], "unknown": labels[None]},
    }


def _intensities(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """By channel and percentile: how that percentile spreads over the exams, in the channel's unit."""
    channels = sorted({channel for row in rows for channel in row})
    return {
        channel: _ranges({
            name: [row[channel][name] for row in rows if channel in row]
            for name in next(row[channel] for row in rows if channel in row)
        })
        for channel in channels
    }  # fmt: skip


def _ranges(columns: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "min": round(float(np.min(values)), 6),
            "median": round(float(np.median(values)), 6),
            "max": round(float(np.max(values)), 6),
        }
        for name, values in columns.items()
        if len(values)
    }
