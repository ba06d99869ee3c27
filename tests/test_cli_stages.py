"""`sample`, `encode`, `decode`, `train` and `phantom`, from the command line to files, with a tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ccella.cli.main import run

REPORT = "Lesion left peripheral zone, PIRADS 5"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> Path:
    """An empty working directory with a report and the tiny model as the default one."""
    from transformers.utils import logging

    # The program sets this before it imports transformers; here the fixture has imported it already.
    logging.disable_progress_bar()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCELLA_MODEL", str(tiny_model))
    (tmp_path / "report.txt").write_text(REPORT, encoding="utf-8")
    return tmp_path


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_sample_prints_records_of_files_that_are_there(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sample", "--prompt", "report.txt", "-o", "out", "--json"]) == 0
    out, err = capsys.readouterr()
    records = lines(out)
    assert [record["channel"] for record in records] == ["t2w", "hbv", "adc"]
    assert all(Path(str(record["path"])).is_file() for record in records)
    assert all(record["prompt"] == REPORT and record["synthetic"] is True for record in records)
    assert "Executing with torch on" in err
    assert f"Preview: {Path('out/preview.png')}" in err
    sidecar = json.loads(Path("out/report/report_adc.json").read_text(encoding="utf-8"))
    assert sidecar["path"] == "report/report_adc.nii.gz"


def test_a_sidecar_makes_the_same_volume_again(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--class", "1", "--spacing", "1,1,3", "--seed", "0", "--steps", "2", "--guidance", "3", "-q"]
    arguments += ["--guidance-interval", "0,500"]
    assert run(["sample", "--prompt", "report.txt", "-o", "one", *arguments]) == 0
    assert run(["sample", "--from", "one/report/report_t2w.json", "-o", "two", "-q"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split("\t")[2] for line in out.splitlines()] == ["0", "0"]
    sidecar = json.loads(Path("two/report/report_t2w.json").read_text(encoding="utf-8"))
    assert sidecar["conditions"] == {"class": 1, "spacing_mm": [1.0, 1.0, 3.0]}
    assert (sidecar["sampler"]["steps"], sidecar["sampler"]["guidance_scale"]) == (2, 3.0)
    assert sidecar["sampler"]["guidance_interval"] == [0, 500]
    for channel in ("t2w", "hbv", "adc"):
        name = f"report/report_{channel}.nii.gz"
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


@pytest.mark.parametrize(("option", "value"), [("--seed", "0"), ("--precision", "auto"), ("--prompt", "-")])
def test_what_a_sidecar_decides_cannot_be_given(
    option: str, value: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sample", "--from", "x.json", option, value, "-o", "out"]) == 2
    assert f"{option} cannot be given beside --from" in capsys.readouterr().err


def test_an_existing_run_is_resumed_or_replaced_only_when_asked(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sample", "--prompt", "report.txt", "-o", "out", "--steps", "2", "-q"]
    assert run(arguments) == 0
    first = Path("out/report/report_t2w.nii.gz").read_bytes()
    assert run(arguments) == 2
    assert "out already holds a run." in capsys.readouterr().err
    Path("out/report/report_hbv.nii.gz").unlink()
    assert run([*arguments, "--resume"]) == 0
    assert run([*arguments, "--overwrite", "--seed", "3"]) == 0
    assert Path("out/report/report_t2w.nii.gz").read_bytes() != first


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"\x89PNG\x00\x01", "is binary"), (b"\xff\xfe\x41", "not UTF-8")],
)
def test_bad_prompts(content: bytes, said: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.txt").write_bytes(content)
    assert run(["sample", "--prompt", "bad.txt", "-o", "out"]) == 2
    err = capsys.readouterr().err
    assert "bad.txt" in err
    assert said in err
    assert not Path("out").exists()


def test_words_in_place_of_a_path_are_met_with_a_remedy(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sample", "--prompt", "lesion on the left " * 300, "-o", "out"]) == 2
    err = capsys.readouterr().err
    assert "| ccella sample --prompt -" in err
    assert len(err) < 300


def test_an_output_that_cannot_be_written(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sample", "--prompt", "report.txt", "-o", "report.txt/out"]) == 2
    err = capsys.readouterr().err
    assert err.count("error: ") == 1
    assert "report.txt/out" in err


def test_missing_weights_leave_nothing_behind(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sample", "--prompt", "report.txt", "-o", "out", "--model", "ccella-pp"]) == 3
    assert not Path("out").exists()
    assert "ccella-pp" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        ("500", "'500' is not 2 whole numbers of at least 0 separated by commas"),
        ("-1,500", "'-1,500' is not 2 whole numbers"),
        ("500,100", "Guidance interval [500, 100] is no range of timesteps of model tiny/random"),
        ("0,1000", "Give the least and the greatest one, 0,999 for all."),
    ],
)
def test_an_interval_that_is_none_is_refused(
    workplace: Path, capsys: pytest.CaptureFixture[str], interval: str, message: str
) -> None:
    assert run(["sample", "--prompt", "report.txt", "-o", "out", "--guidance-interval", interval]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_runtime_that_is_not_there_is_not_replaced(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sample", "--prompt", "report.txt", "-o", "out", "--runtime", "onnx"]) == 2
    assert "has not been exported" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_misspelt_condition_of_a_manifest_is_told(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.csv").write_text("id,prompt,calss,site\na,Lesion left.,1,X\n", encoding="utf-8")
    assert run(["sample", "--prompt", "m.csv", "-o", "out", "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "The manifest's 'calss' is kept in the sidecars and changes no exam; did you mean 'class'?" in said
    assert "'site'" not in said


def test_dry_run_says_what_would_be_made_and_makes_nothing(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sample", "--prompt", "report.txt", "-o", "out", "--seed", "0-2", "--shard", "2/3", "--dry-run"]
    assert run([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert lines(out) == [{"id": "report_s1", "seed": 1, "class": None, "path": "out/report_s1"}]
    assert "Would sample 1 items with tiny/random: ddim, 3 steps, guidance 1.5" in err
    assert not Path("out").exists()


def test_a_preset_sets_the_sampler_and_steps_overrule_it(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sample", "--prompt", "report.txt", "-o", "out", "--model", "ccella-pp", "--dry-run"]
    assert run([*arguments, "--preset", "paper"]) == 0
    assert "ddpm, 1000 steps" in capsys.readouterr().err
    assert run([*arguments, "--preset", "fast", "--steps", "7"]) == 0
    assert "dpmsolver++, 7 steps" in capsys.readouterr().err
    assert run([*arguments, "--preset", "quick"]) == 2
    assert "Its presets are: fast, balanced, paper." in capsys.readouterr().err
    assert run(["sample", "--from", "x.json", "--preset", "fast", "-o", "out"]) == 2
    assert "--preset cannot be given beside --from" in capsys.readouterr().err


def test_encode_decode_and_train(workplace: Path, tiny_exams: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["encode", str(tiny_exams), "-o", "latents", "--json", "-q"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [record["kind"] for record in lines(out)] == ["latent"] * 3
    assert run(["decode", "latents", "-o", "volumes", "--shard", "3/3"]) == 0
    out, err = capsys.readouterr()
    assert [line.split("\t")[1] for line in out.splitlines()] == ["t2w hbv adc"]
    assert "decoding: 1 of 1 latents" in err
    arguments = ["train", "denoiser", "latents", "-o", "model", "--steps", "2", "--batch-size", "2", "--seed", "0"]
    assert run([*arguments, "--set", "validation_fraction=0.4", "--json"]) == 0
    result = lines(capsys.readouterr().out)[0]
    assert (result["part"], result["steps"], result["path"]) == ("denoiser", 2, "model")
    assert run(["sample", "--prompt", "report.txt", "--model", "./model", "-o", "out", "-q"]) == 0
    assert run([*arguments, "--set", "learning_rat=1"]) == 2
    assert "Did you mean learning_rate?" in capsys.readouterr().err


def test_an_exam_that_fails_costs_no_other(
    workplace: Path, tiny_exams: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exams = sorted(tiny_exams.glob("*/*_t2w.nii.gz"))
    rows = ["id,t2w,hbv,adc"]
    Path("cut.nii.gz").write_bytes(exams[0].read_bytes()[:200])
    for number, path in enumerate(exams):
        others = [str(path).replace("_t2w.", f"_{channel}.") for channel in ("hbv", "adc")]
        rows.append(",".join([f"e{number}", "cut.nii.gz" if number == 1 else str(path), *others]))
    Path("manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    assert run(["encode", "manifest.csv", "-o", "out"]) == 7
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == ["e0", "e2"]
    assert "error: 1 of 3 items failed:\n  e1: " in err
    assert "cut.nii.gz" in err


def test_records_pass_through_a_pipe(workplace: Path) -> None:
    """Two processes, as a shell joins them."""
    program = [sys.executable, "-m", "ccella.cli.main"]
    sample = [*program, "sample", "--prompt", "-", "--latents", "-o", "latents", "--json", "-q"]
    decode = [*program, "decode", "-", "-o", "volumes", "--json", "-q"]
    prompts = "".join(json.dumps({"id": f"p{n}", "prompt": REPORT, "seed": n}) + "\n" for n in range(2))
    first = subprocess.Popen(sample, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    second = subprocess.Popen(decode, stdin=first.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert first.stdin is not None
    assert first.stdout is not None
    first.stdout.close()
    first.stdin.write(prompts)
    first.stdin.close()
    out, err = second.communicate(timeout=300)
    assert (first.wait(timeout=60), second.returncode, err) == (0, 0, "")
    records = lines(out)
    assert [record["id"] for record in records] == ["p0"] * 3 + ["p1"] * 3
    assert all(Path(str(record["path"])).is_file() for record in records)
    assert [record["seed"] for record in records] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("command", "words"),
    [("decode", "Standard input has no records."), ("encode", "Standard input has no exam.")],
)
def test_an_empty_pipe_is_an_error(workplace: Path, command: str, words: str) -> None:
    words_of_command = [sys.executable, "-m", "ccella.cli.main", command, "-", "-o", "out"]
    done = subprocess.run(words_of_command, input="", capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 2
    assert words in done.stderr


def test_phantoms_are_exams_that_encode_finds(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["phantom", "-n", "1", "--seed", "3", "--start", "5", "--shape", "16,16,8", "--spacing", "6,6,12"]
    assert run([*arguments, "--workers", "1", "-o", "exams", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [record["id"] for record in lines(out)] == ["phantom1s3-00005_1"] * 3
    assert "phantoms: 1 of 1 exams" in err
    assert run(["encode", "exams", "-o", "latents", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("phantom1s3-00005_1\t")


def test_results_go_to_the_pipe_while_a_bar_is_on_the_terminal(workplace: Path) -> None:
    controller, terminal = os.openpty()
    arguments = ["phantom", "-n", "1", "--shape", "16,16,8", "--spacing", "6,6,12", "-o", "x", "--json"]
    command = [sys.executable, "-m", "ccella.cli.main", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, text=True) as process:
        os.close(terminal)
        assert process.stdout is not None
        out = process.stdout.read()
        shown = os.read(controller, 100_000).decode()
    os.close(controller)
    assert process.returncode == 0
    assert [record["channel"] for record in lines(out)] == ["t2w", "hbv", "adc"]
    assert "phantoms" in shown
    assert "ccella.record" not in shown
