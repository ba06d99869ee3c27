"""Run folders of small artefacts, for tests of the run folder itself."""

from ccella.imaging.atomic import write_bytes
from ccella.pipeline.run_folder import RunFolder
from ccella.zoo.record import Record
from ccella.zoo.runs import read_run

SETTINGS = {"model": {"id": "m"}, "steps": 3}


def open_run(out, **options):
    return RunFolder(out, command="sample", **{"settings": SETTINGS, **options})


def add(run, item, content=None, **data):
    """Writes an item of two artefacts, unless it is done; says whether it was written."""
    names = [f"{item}_a.bin", f"{item}_b.bin"]
    done = run.find_done(item, names, data)
    if done is not None:
        run.keep(done)
        return False
    for name in names:
        record = Record(item, "volume", run.artefact_path(item, name), data)
        run.write_artefact(record, lambda path: write_bytes(path, content or f"{item} {path.name}".encode()))
    return True


def listed(out):
    return [record.path.name for record in read_run(out)]


def names(items):
    return [f"{item}_{letter}.bin" for item in items for letter in "ab"]
