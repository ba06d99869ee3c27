"""Fixtures shared by several rooms: a whole model folder with random weights, and a few small exams."""

import copy
import importlib.util
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SHAPE = (16, 16, 8)
SPACING_MM = (2.0, 2.0, 4.0)
WORDS = (
    "left", "right", "peripheral", "transition", "zone", "lesion", "no", "suspicious", "pirads", "3", "4", "5", "apex",
    "mid", "base", "mm", "prostate", "normal",
)  # fmt: skip

CARD = {
    "schema": 1,
    "id": "tiny/random",
    "family": "ccella",
    "title": "A tiny model with random weights",
    "description": "For tests.",
    "intended_use": "Tests.",
    "conditions": ["text", "class", "spacing"],
    "citation": "None.",
    "image": {
        "axes": "xyz",
        "shape": list(SHAPE),
        "spacing_mm": list(SPACING_MM),
        "orientation": "RAS",
        "channels": [
            {
                "name": name,
                "unit": "a.u.",
                "intensity": {"kind": "percentile", "lower": 0.0, "upper": 99.5, "output": [0.0, 1000.0]},
            }
            for name in ("t2w", "hbv")
        ]
        + [{"name": "adc", "unit": "1e-6 mm2/s", "intensity": {"kind": "window", "lower": 0.0, "upper": 3000.0}}],
    },
    "latent": {"channels": 12, "channels_per_image_channel": 4, "downsample": 4, "scale": [1.0, 0.8, 1.25]},
    "schedule": {
        "train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.0015,
        "beta_end": 0.0195,
        "prediction": "v_prediction",
    },
    "sampler": {"name": "ddim", "steps": 3, "guidance_scale": 1.5, "timesteps": [999, 666, 332]},
    "licence": {"id": "Apache-2.0", "name": "Apache License 2.0"},
    "parts": {
        "text_encoder": {"architecture": "transformers", "config": {"window": 24}},
        "autoencoder": {
            "architecture": "maisi_autoencoder",
            "config": {"channels": [4, 8, 8], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4},
        },
        "denoiser": {
            "architecture": "ccella_denoiser",
            "config": {
                "adapter": {
                    "width": 16,
                    "text_width": 16,
                    "latents": 4,
                    "heads": 2,
                    "blocks": 2,
                    "class_hidden": 8,
                    "time_channels": 16,
                },
                "unet": {
                    "in_channels": 12,
                    "out_channels": 12,
                    "channels": [8, 16],
                    "num_res_blocks": [1, 1],
                    "attention_levels": [False, True],
                    "num_head_channels": 8,
                    "norm_num_groups": 4,
                },
            },
        },
    },
}


def write_tiny_text_encoder(folder: Path) -> Path:
    """A T5 encoder of random weights whose tokenizer knows a few words; everything from a fixed seed."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=24
    )
    model = T5EncoderModel(T5Config(vocab_size=len(vocabulary), d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4))
    randomise(model, torch.Generator().manual_seed(2))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def randomise(module, generator):
    """Random values for every parameter: layers that start at zero would hide what is behind them."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                # Norm weights around 1, biases around 0.
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.1, generator=generator)
            else:
                parameter.normal_(0.0, 1.0 / math.sqrt(parameter[0].numel()), generator=generator)
    return module


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The model of `write_tiny_model`."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


def write_tiny_model(root: Path) -> Path:
    """A model folder that loads and samples in a second: autoencoder, denoiser and text encoder with random weights."""
    import torch

    from ccella.zoo.card import parse_card
    from ccella.zoo.family import load_family
    from ccella.zoo.folder import write_model_folder

    card = parse_card(CARD, root / "template.toml")
    family = load_family(card.family)
    parts = {}
    for seed, name in enumerate(("autoencoder", "denoiser")):
        network = family.build(card.part(name))
        parts[name] = randomise(network, torch.Generator().manual_seed(seed)).state_dict()
    encoder = write_tiny_text_encoder(root / "encoder")
    write_model_folder(root / "model", card, parts=parts, text_encoder=encoder)
    return root / "model"


@pytest.fixture(scope="session")
def exported_model(tiny_model, tmp_path_factory) -> Path:
    """The tiny model with all its graphs as ONNX for images of 8x8x8 to 24x16x8, made once for all test processes."""
    from filelock import FileLock

    from ccella.cli.main import run

    root = tmp_path_factory.getbasetemp()
    # With several processes each has a folder of its own below a common one.
    out = (root if root.parent.name.startswith("pytest-of-") else root.parent) / "exported" / "model"
    with FileLock(f"{out.parent}.lock"):
        if not (out / "done").exists():
            shapes = "--shape=8,8,8:16,16,8:24,16,8"
            assert (
                run(["export", str(tiny_model), "--to", "onnx", shapes, "--device", "cpu", "-q", "-o", str(out)]) == 0
            )
            (out / "done").touch()
    return out


@pytest.fixture(scope="session")
def tiny_exams(tmp_path_factory) -> Path:
    """The exams of `write_tiny_exams`."""
    return write_tiny_exams(tmp_path_factory.mktemp("exams"))


def write_tiny_exams(root: Path) -> Path:
    """Three small exams in PI-CAI layout with reports and a marksheet; the third has no report."""
    from ccella.imaging.files import write_volume
    from ccella.imaging.volume import Volume, reference_affine

    rng = np.random.default_rng(7)
    rows = ["patient_id,study_id,case_csPCa"]
    (root / "reports").mkdir(parents=True)
    for number, positive in enumerate((True, False, True), 1):
        patient, study = f"1000{number}", f"100000{number}"
        exam = f"{patient}_{study}"
        rows.append(f"{patient},{study},{'YES' if positive else 'NO'}")
        affine = reference_affine((18, 18, 8), SPACING_MM)
        x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (18, 18, 8)), indexing="ij")
        gland = np.exp(-3 * (x**2 + y**2 + z**2))
        for channel, top in (("t2w", 800.0), ("hbv", 300.0), ("adc", 2500.0)):
            data = top * (0.2 + 0.7 * gland) + rng.normal(0, 0.02 * top, gland.shape)
            image = Volume(np.clip(data, 1, None).astype(np.float32), affine)
            write_volume(root / patient / f"{exam}_{channel}.nii.gz", image, description="test")
        if number < 3:
            text = "Lesion left peripheral zone, PIRADS 5" if positive else "No suspicious lesion. Prostate normal"
            (root / "reports" / f"{exam}.txt").write_text(text, encoding="utf-8")
    (root / "marksheet.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


class Stages:
    """The stages of the pipeline on one model folder, as the command line calls them."""

    def __init__(self, folder: Path) -> None:
        from ccella.export.runtimes import choose_runtime
        from ccella.zoo.card import read_card
        from ccella.zoo.loading import load_text_encoder

        self.card = read_card(folder / "card.toml")
        self.runtime = choose_runtime("torch", self.card, device="cpu", precision="fp32")
        self.text_encoder = load_text_encoder(self.card)
        self.denoiser = self.runtime.load(self.card, "denoiser")
        self.autoencoder = self.runtime.load(self.card, "autoencoder")

    def changed(self, **attributes):
        """A copy with other attributes."""
        other = copy.copy(self)
        other.__dict__.update(attributes)
        return other

    def sample(self, items, out, *, seeds=None, warn=None, on_item=None, run=None, **options):
        from ccella.pipeline.prompts import expand_seeds
        from ccella.pipeline.provenance import model_entry
        from ccella.pipeline.run_folder import RunFolder
        from ccella.pipeline.sample import sample
        from ccella.pipeline.sampler_settings import choose_settings

        settings = choose_settings(self.card, **options)
        stored = settings.run_settings(model_entry(self.card), self.runtime.precision)
        with RunFolder(out, command="sample", settings=stored, **(run or {})) as folder:
            return list(
                sample(
                    expand_seeds(items, seeds),
                    self.card,
                    text_encoder=self.text_encoder,
                    denoiser=self.denoiser,
                    autoencoder=None if settings.latents_only else self.autoencoder,
                    run=folder,
                    runtime=self.runtime,
                    settings=settings,
                    warn=warn,
                    on_item=on_item,
                )
            )

    def encode(self, exams, out, *, on_item=None, **run):
        from ccella.pipeline.encode import encode
        from ccella.pipeline.run_folder import RunFolder

        networks = {"autoencoder": self.autoencoder, "text_encoder": self.text_encoder}
        with RunFolder(out, command="encode", **run) as folder:
            return list(encode(exams, self.card, **networks, run=folder, runtime=self.runtime, on_item=on_item))

    def decode(self, source, out, **run):
        from ccella.pipeline.decode import decode
        from ccella.pipeline.run_folder import RunFolder

        with RunFolder(out, command="decode", **run) as folder:
            return list(decode(source, self.card, autoencoder=self.autoencoder, run=folder, runtime=self.runtime))


@pytest.fixture(scope="session")
def stages(tiny_model) -> Stages:
    """The tiny model, loaded."""
    return Stages(tiny_model)


def read_files(out: Path) -> dict[str, bytes]:
    """Content of every file of a run, by path, but not of run.json, which holds times, nor of the locks."""
    paths = [path for path in out.rglob("*") if path.is_file() and ".ccella" not in path.parts]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths if path.name != "run.json"}


@pytest.fixture(name="read_files")
def read_files_fixture():
    """The function `read_files`."""
    return read_files


def largest_difference(first: Path, second: Path) -> float:
    """Largest difference of the images of two runs, in the 0..1 that the network made."""
    from ccella.imaging.files import read_volume
    from ccella.zoo.runs import read_run

    worst = 0.0
    for record in read_run(first):
        span = record.data["intensity"]["upper"] - record.data["intensity"]["lower"]
        x, y = (read_volume(path).data for path in (record.path, second / record.path.relative_to(first)))
        worst = max(worst, float(np.abs(x - y).max() / span))
    return worst


@pytest.fixture(name="largest_difference")
def largest_difference_fixture():
    """The function `largest_difference`."""
    return largest_difference


@pytest.fixture
def show_page(tmp_path):
    """Shows a page in headless Chromium: its picture of 1600 x 1200 grey values, and the tree that it became."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium on this machine")

    def show(page: Path) -> tuple[np.ndarray, str]:
        common = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,1600",
            f"--user-data-dir={tmp_path / 'profile'}",
        ]  # fmt: skip
        shown = tmp_path / "page.png"
        done = subprocess.run(
            [*common, "--enable-logging=stderr", f"--screenshot={shown}", page.as_uri()],
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=120, check=True,
        )  # fmt: skip
        # What the policy forbids, a script that fails and a picture that cannot be decoded all speak on the console.
        assert "CONSOLE" not in done.stderr
        from PIL import Image

        tree = subprocess.run(
            [*common, "--dump-dom", page.as_uri()],
            capture_output=True, text=True, encoding="utf-8", timeout=120, check=True,
        ).stdout  # fmt: skip
        return np.asarray(Image.open(shown).convert("L"), float), tree

    return show


@pytest.fixture(scope="session")
def prompts():
    """Five prompts that differ in everything a prompt may have."""
    from ccella.pipeline.prompts import PromptItem

    return [
        PromptItem("a", "Lesion left peripheral zone, PIRADS 5"),
        PromptItem("b", "No suspicious lesion"),
        PromptItem("c", "Lesion right transition zone apex, PIRADS 4", spacing_mm=(1.0, 1.5, 3.0)),
        PromptItem("d", "Prostate normal", class_label=1),
        PromptItem("e", "Lesion base right, 12 mm", meta={"site": "x"}),
    ]


@pytest.fixture(scope="session")
def five(stages, prompts, tmp_path_factory) -> Path:
    """The run folder of the five prompts, sampled one by one."""
    out = tmp_path_factory.mktemp("five") / "run"
    stages.sample(prompts, out)
    return out


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The command line in processes that can be killed at an exact place; see command_server.py."""
    spec = importlib.util.spec_from_file_location("command_server", Path(__file__).with_name("command_server.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    program = module.Program(tmp_path_factory.mktemp("streams"))
    yield program
    program.close()
