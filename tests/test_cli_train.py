"""How `ccella train` reads its options."""

import shutil
from pathlib import Path

import pytest

from ccella.cli.main import run
from ccella.cli.training_options import parse_options, parse_value
from ccella.imaging.errors import InputError

NOTHING = dict.fromkeys(("steps", "batch_size", "seed", "epochs", "finetune")) | {
    "device": "auto", "precision": "auto", "settings": (),
}  # fmt: skip


def test_what_is_not_given_is_left_to_card_and_file() -> None:
    assert parse_options(NOTHING) == {}


def test_seed_zero_is_given() -> None:
    assert parse_options({**NOTHING, "seed": 0, "device": "cpu"}) == {"seed": 0, "device": "cpu"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("3", 3), ("true", True), ("mse", "mse"), ('"mse"', "mse"), ("[1, 2]", [1, 2]), ("", "")],
)
def test_values_are_those_of_toml(text: str, value: object) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize("settings", [("loss",), ("=3",), ("seed=1", "seed=2")])
def test_a_setting_that_is_none(settings: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        parse_options({**NOTHING, "settings": settings})


def test_exams_that_cannot_be_trained_on_are_named_at_once(
    tiny_model: Path, tiny_exams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exams, out = tmp_path / "exams", tmp_path / "out"
    shutil.copytree(tiny_exams, exams)
    (exams / "10001/10001_1000001_adc.nii.gz").unlink()
    (exams / "reports/10002_1000002.txt").write_bytes(b"\xff\xfe\x00")
    assert run(["train", "autoencoder", str(exams), "--model", str(tiny_model), "-o", str(out), "--steps", "1"]) == 2
    error = capsys.readouterr().err
    assert "2 of 3 exams cannot be used." in error
    assert "'10001_1000001'" in error
    assert "10002_1000002.txt is not UTF-8 text" in error
    assert not out.exists()
