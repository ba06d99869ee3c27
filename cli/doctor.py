"""`ccella doctor`: what this machine offers, and whether a model fits."""

from dataclasses import asdict

import click

from ..zoo.registry import find_card
from .errors import FAILED
from .options import stream_options
from .output import Output

MARKS = {True: "ok", False: "problem", None: ""}


@click.command()
@click.argument("model", metavar="[MODEL]", required=False)
@stream_options
def command(model: str | None, as_json: bool) -> None:
    """Say what this machine has for ccella, and whether MODEL can sample on it.

    Python, torch, driver, GPUs and memory, ONNX Runtime, TensorRT, the cache and the Hub. With MODEL also the memory it
    needs, found from its shapes; that takes some seconds more. Ends with exit code 1 where there is a problem.
    """
    from ..pipeline.diagnosis import examine

    card = find_card(model) if model is not None else None
    problems = 0
    with Output("topic", "found", "", "what to do", as_json=as_json) as output:
        for finding in examine(card):
            problems += finding.ok is False
            if as_json:
                output.add_object(asdict(finding))
            else:
                output.add_row(finding.topic, finding.value, MARKS[finding.ok], finding.remedy)
    if problems:
        click.get_current_context().exit(FAILED)
