"""`ccella study`: does synthetic data help, as one resumable command."""

from pathlib import Path

import click

from ..pipeline.seeds import Shard
from .notes import say
from .options import ShardType, device_option, stream_options
from .output import Output

study_argument = click.argument("study", metavar="STUDY.toml", type=click.Path(path_type=Path))
folder_option = click.option(
    "-o", "--output", "out", metavar="DIR", type=click.Path(path_type=Path),
    help="The study folder.  [default: the study file's name without .toml, beside it]",
)  # fmt: skip

page_option = click.option(
    "--report", "page", metavar="FILE.html", type=click.Path(path_type=Path), help="Also write one self-contained page."
)


@click.group()
def command() -> None:
    """Compare classifiers of ever smaller parts of one institution's exams, pretrained on another's or not."""


@command.command("run")
@study_argument
@folder_option
@device_option
@click.option("--shard", type=ShardType(), metavar="I/N", help="Do only the I-th of N shares of the runs.")
@click.option("--dry-run", is_flag=True, help="List the runs, and do nothing.")
@page_option
@stream_options
def run_command(
    study: Path, out: Path | None, device: str, shard: Shard | None, dry_run: bool, page: Path | None, as_json: bool
) -> None:  # fmt: skip
    """Make every run of STUDY that is not done yet, then its tables and figures.

    Stopped or killed, the same command goes on. A folder of another study is refused, and so is one whose runs had
    other exams or models. Processes with different shards may work in one folder at the same time; they sample the
    exams that all need together.
    """
    from ..study.checks import check_study
    from ..study.definition import read_study
    from ..study.partitions import fraction_name
    from ..study.plan import plan_runs
    from ..study.running import run_study
    from ..study.sharing import share_runs

    read = read_study(study)
    check_study(read)
    folder = out if out is not None else study.with_suffix("")
    if dry_run:
        with Output("sequences", "pretraining", "percent", "trial", "folder", as_json=as_json) as output:
            for run in share_runs(list(plan_runs(read)), shard):
                if as_json:
                    output.add_object({**vars(run), "path": run.folder(folder).as_posix()})
                else:
                    cells = (run.sequences, run.pretraining, fraction_name(run.fraction), run.trial)
                    output.add_row(*cells, run.folder(folder))
        return
    run_study(read, folder, device=device, say=say, shard=shard)
    _report(study, folder, page, as_json)


@command.command("report")
@study_argument
@folder_option
@page_option
@stream_options
def report_command(study: Path, out: Path | None, page: Path | None, as_json: bool) -> None:
    """Write tables (CSV) and figures (PNG) of the runs of STUDY that are done, and print the points."""
    _report(study, out if out is not None else study.with_suffix(""), page, as_json)


def _report(study: Path, folder: Path, page: Path | None, as_json: bool) -> None:
    from ..study.definition import read_study
    from ..study.report import describe_results, report_study
    from ..study.tables import SUMMARY, summary_rows

    results, files = report_study(read_study(study), folder, page)
    if len(results.figures) < results.planned:
        say(f"{len(results.figures)} of {results.planned} runs are done; the others are left out.")
    for file in files:
        say(f"Written: {file}")
    with Output(*SUMMARY, as_json=as_json) as output:
        if as_json:
            output.add_object(describe_results(results))
            return
        for row in summary_rows(results):
            output.add_row(*row)
