"""What a model or simulation made says so at the end of every chain of commands, and what a scanner made does not."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import pytest
import SimpleITK

from ccella.imaging.errors import InputError
from ccella.imaging.exams import exams_from_records, find_exams, is_synthetic

CHANNELS = ("t2w", "hbv", "adc")
PHANTOM = ("phantom", "-n", "1", "--shape", "16,16,8", "--spacing", "6,6,12", "--workers", "1")
SAMPLE = ("sample", "--prompt", "report.txt", "--model", "./model", "--steps", "1")


@pytest.fixture(scope="module")
def place(tiny_model, tiny_exams, tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("chains")
    shutil.copytree(tiny_model, base / "model")
    shutil.copytree(tiny_exams, base / "real")
    (base / "report.txt").write_text("Lesion left, PIRADS 5", encoding="utf-8")
    return base


def pipe(program, place, *commands):
    """Each command reads the records that the one before printed. Returns the last one's."""
    before = Path("/dev/null")
    for number, words in enumerate(commands):
        done = program.run(*words, "-q", "--json", cwd=place, stdin=str(before))
        assert done.code == 0, done.err
        before = place / f"records-{words[words.index('-o') + 1]}-{number}.jsonl"
        before.write_text(done.out, encoding="utf-8")
    return [json.loads(line) for line in done.out.splitlines()]


def descriptions(folder: Path) -> set[str]:
    return {nib.load(path).header["descrip"].item().decode() for path in folder.rglob("*.nii.gz")}


def flags(folder: Path) -> set[bool]:
    """What all sidecars and all lines of the manifest say."""
    sidecars = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/*.json")]
    listed = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sidecars and listed
    return {record["synthetic"] for record in [*sidecars, *listed]}


@pytest.mark.parametrize("name", ["phantom", "sample"])
def test_piped_chains_stay_synthetic(name, program, place):
    first = {"phantom": PHANTOM, "sample": SAMPLE}[name]
    records = pipe(
        program, place, [*first, "-o", f"{name}-made"],
        ["encode", "-", "--model", "./model", "-o", f"{name}-latents"],
        ["decode", "-", "--model", "./model", "-o", f"{name}-again"],
    )  # fmt: skip
    assert [(record["channel"], record["synthetic"]) for record in records] == [(name, True) for name in CHANNELS]
    assert flags(place / f"{name}-latents") == flags(place / f"{name}-again") == {True}
    assert descriptions(place / f"{name}-again") == {"synthetic"}


@pytest.mark.parametrize("name", ["phantom", "sample", "files"])
def test_chains_over_folders_stay_synthetic(name, program, place):
    first = PHANTOM if name == "phantom" else SAMPLE
    pipe(program, place, [*first, "-o", f"{name}-f"])
    if name == "files":
        # The images alone, without manifest and sidecars: their headers tell.
        (place / "files-f/manifest.jsonl").unlink()
        for sidecar in (place / "files-f").glob("*/*.json"):
            sidecar.unlink()
    pipe(program, place, ["encode", f"{name}-f", "--split", "none", "--model", "./model", "-o", f"{name}-fl"])
    pipe(program, place, ["decode", f"{name}-fl", "--model", "./model", "-o", f"{name}-fv"])
    assert flags(place / f"{name}-fl") == flags(place / f"{name}-fv") == {True}
    assert descriptions(place / f"{name}-fv") == {"synthetic"}


def test_real_exams_stay_real(program, place):
    pipe(
        program, place, ["encode", "real", "--model", "./model", "-o", "real-latents"],
        ["decode", "-", "--model", "./model", "-o", "real-again"],
        ["encode", "-", "--model", "./model", "-o", "real-twice"],
    )  # fmt: skip
    assert flags(place / "real-latents") == flags(place / "real-again") == flags(place / "real-twice") == {False}
    assert descriptions(place / "real-again") == {"reconstruction"}


def test_a_sidecar_speaks_for_images_of_another_format(program, place, tmp_path):
    pipe(program, place, [*SAMPLE, "-o", "other"])
    (tmp_path / "report").mkdir()
    for channel in CHANNELS:
        image = SimpleITK.ReadImage(str(place / f"other/report/report_{channel}.nii.gz"))
        for key in image.GetMetaDataKeys():
            image.EraseMetaData(key)
        SimpleITK.WriteImage(image, str(tmp_path / f"report/report_{channel}.mha"))
    (exam,) = find_exams(tmp_path, CHANNELS)
    assert not is_synthetic(exam)
    shutil.copy(place / "other/report/report_adc.json", tmp_path / "report")
    assert is_synthetic(exam)
    (tmp_path / "report/report_adc.json").write_text("[" * 5000, encoding="utf-8")
    assert not is_synthetic(exam)


def test_a_marksheet_of_phantoms_speaks_for_images_of_another_format(program, place, tmp_path):
    pipe(program, place, [*PHANTOM, "-o", "sheet"])
    shutil.copy(place / "sheet/marksheet.csv", tmp_path)
    for channel in CHANNELS:
        (tmp_path / f"phantom1s0-00000_1_{channel}.mha").touch()
    (exam,) = find_exams(tmp_path, CHANNELS)
    assert exam.synthetic and is_synthetic(exam)


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), ("yes", True), (False, False), (None, False), ("", False)]
)
def test_a_manifest_says_what_is_synthetic(value, expected):
    rows = [{"id": "a", "channel": name, "path": f"{name}.mha", "synthetic": value} for name in CHANNELS]
    (exam,) = exams_from_records(map(json.dumps, rows), CHANNELS)
    assert exam.synthetic is is_synthetic(exam) is expected


def test_an_unknown_value_is_refused():
    rows = [{"id": "a", "channel": name, "path": f"{name}.mha", "synthetic": "perhaps"} for name in CHANNELS]
    with pytest.raises(InputError, match="'perhaps' of 'synthetic' in standard input, line 3") as caught:
        list(exams_from_records(map(json.dumps, rows), CHANNELS))
    assert caught.value.remedy == "Use true or false."
