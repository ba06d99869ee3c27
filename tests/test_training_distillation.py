"""Students: what they are asked for, the model folder they end in, and what is refused."""

import copy
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ccella.cli.main import run
from ccella.diffusion.guidance import guide
from ccella.imaging.errors import InputError
from ccella.pipeline.sampler_settings import choose_settings
from ccella.training.config import DenoiserTraining, resolve_options
from ccella.training.denoiser import DenoiserTask, train_denoiser
from ccella.training.distillation import load_teacher, plan_trajectory, student_card
from ccella.training.export import initial_network
from ccella.training.interruption import TrainingInterrupted
from ccella.training.latents import latent_items
from ccella.zoo.card import Card, parse_card, read_card
from ccella.zoo.errors import CardError
from ccella.zoo.family import load_family
from ccella.zoo.forward import noise_schedule, predictor
from ccella.zoo.loading import load_part, part_digests
from ccella.zoo.modelcard import describe_model

WIDTH, SHAPE = 16, (12, 4, 4, 2)
TABLE = [999, 800, 600, 400, 200, 50]
# Six exams: e5 has no report.
REPORTS = [2, 3, 4, 2, 3, 0]


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latents")
    (out / "text").mkdir()
    lines = []
    for number, length in enumerate(REPORTS):
        generator, name = torch.Generator().manual_seed(number), f"e{number}"
        (out / name).mkdir()
        latent = {"mean": torch.randn(SHAPE, generator=generator), "sigma": torch.full(SHAPE, 0.3)}
        save_file(latent, out / name / f"{name}_latent.safetensors")
        text = torch.randn(length, WIDTH, generator=generator) if length else torch.zeros(1, WIDTH)
        save_file({"embedding": text}, out / f"text/{number}.safetensors")
        lines.append(json.dumps({
            "schema": "ccella.record/1", "id": name, "kind": "latent", "path": f"{name}/{name}_latent.safetensors",
            "patient_id": f"p{number}", "text_path": f"text/{number}.safetensors",
            "prompt": f"report {number}" if length else None, "class": number % 2, "spacing_mm": [2.0, 2.0, 4.0],
            "model": {"id": "x", "files": {}},
        }))  # fmt: skip
    (out / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return out


def make_card(model: Path, prediction: str = "v_prediction", **sampler: Any) -> Card:
    """The tiny model's card with another schedule and sampler, its weights where they are."""
    document: dict[str, Any] = copy.deepcopy(dict(read_card(model / "card.toml").document))
    document["schedule"]["prediction"] = prediction
    if prediction == "flow":
        document["schedule"] = {"train_timesteps": 1000, "beta_schedule": "rectified_flow", "prediction": "flow"}
    if prediction == "sample":
        document["schedule"]["preconditioning"] = "edm"
        document["latent"] |= {"mean": [0.1] * 12, "std": [0.5] * 12}
    name = "euler" if prediction == "flow" else "dpmsolver++"
    own = {"name": name, "steps": 6, "guidance_scale": 1.5, "timesteps": TABLE}
    document |= {"sampler": own | sampler, "presets": {"fast": {"sampler": name, "steps": 3}}}
    document["measured"] = {"class_head_auc": 1.0, "autoencoder_psnr_db": {"t2w": 30.0}, "prompt_fidelity": {"n": 1}}
    return parse_card(document, model / "card.toml")


def options(**changes: Any) -> DenoiserTraining:
    base = {"steps": 4, "batch_size": 4, "validation_fraction": 0.3, "device": "cpu", "log_every": 1, "distill": True,
            "learning_rate": 3e-3, "checkpoint_every": 2, "initial": "card", "distill_steps": 2}  # fmt: skip
    return resolve_options(DenoiserTraining, "denoiser", {}, base | changes)


def make_task(card: Card, latents: Path, **changes: Any) -> DenoiserTask:
    chosen, items = options(**changes), latent_items(latents, card.latent_shape)
    null = items.null_text()
    assert null is not None
    teacher = load_teacher(card, null, chosen)
    network = initial_network(card, "denoiser", chosen)
    return DenoiserTask(student_card(teacher), items, network, null, chosen, teacher=teacher)


def draw_batch(task: DenoiserTask) -> Any:
    return task.collate([task.draw(index, torch.Generator().manual_seed(index)) for index in range(4)])


@pytest.mark.parametrize("prediction", ["v_prediction", "sample", "flow"])
def test_an_unchanged_student_of_single_steps_without_guidance_is_right(
    tiny_model: Path, latents: Path, prediction: str
) -> None:
    card = make_card(tiny_model, prediction)
    still = make_task(card, latents, distill_substeps=1, distill_guidance=1.0)
    guided = make_task(card, latents, distill_substeps=1, distill_guidance=3.0)
    longer = make_task(card, latents, distill_substeps=3, distill_guidance=1.0)
    losses = []
    for task in (still, guided, longer):
        assert tuple(task.scale) == card.latent.scale
        batch = draw_batch(task)
        with torch.no_grad():
            losses.append(float(task.objective(batch, 0)[1]["denoising"]))
    assert losses[0] < 1e-9
    assert min(losses[1:]) > 1e-5


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_the_teacher_guides_as_sampling_does(tiny_model: Path, latents: Path, prediction: str) -> None:
    card = make_card(tiny_model, prediction)
    task = make_task(card, latents, distill_substeps=1, distill_guidance=2.5, validation_fraction=0.0)
    t = task._teacher.trajectory.student_timesteps[1]  # type: ignore[union-attr]
    items = [task.draw(index, torch.Generator().manual_seed(index)) | {"t": torch.tensor(t)} for index in range(6)]
    batch, family = task.collate(items), load_family(card.family)
    z_t = noise_schedule(card).add_noise(batch["z"], batch["eps"], batch["t"])
    conditions = [family.Conditions(item["text"], False, None, (2.0, 2.0, 4.0)) for item in items]
    network = load_part(card, "denoiser")
    clean = []
    for scale in (1.0, 0.0):
        null = task.null_text
        plan = family.prepare(card, network, conditions, timesteps=(t,), guidance_scales=[scale], null_text=null)
        with torch.no_grad():
            prediction_t = predictor(card, plan, (t,), torch.float32)(z_t, 0)
        clean.append(noise_schedule(card).to_x0(z_t, prediction_t, batch["t"]))
    wanted = guide(cond=clean[0], uncond=clean[1], scale=2.5)
    target = task._teacher.clean_target(z_t, batch)  # type: ignore[union-attr]
    torch.testing.assert_close(target, wanted, rtol=1e-3, atol=2e-4)
    assert (clean[0] - clean[1]).abs().max() > 1e-3


def test_the_teacher_guides_where_its_card_does(tiny_model: Path, latents: Path) -> None:
    """Items of one batch are at timesteps inside and outside of the interval."""
    targets = {}
    for name, interval in (("inside", (0, 999)), ("some", (500, 999)), ("outside", (998, 998))):
        card = make_card(tiny_model, guidance_scale=2.5, guidance_interval=list(interval))
        task = make_task(card, latents, distill_substeps=1, distill_steps=2, validation_fraction=0.0)
        assert task._teacher is not None
        table = task._teacher.trajectory.student_timesteps
        assert table[0] > 500 > table[1]
        items = [
            task.draw(index, torch.Generator().manual_seed(index)) | {"t": torch.tensor(table[index % 2])}
            for index in range(4)
        ]
        batch = task.collate(items)
        z_t = noise_schedule(card).add_noise(batch["z"], batch["eps"], batch["t"])
        targets[name] = task._teacher.clean_target(z_t, batch)
    torch.testing.assert_close(targets["some"][::2], targets["inside"][::2])
    torch.testing.assert_close(targets["some"][1::2], targets["outside"][1::2])
    assert (targets["inside"] - targets["outside"]).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3


def test_a_student_ends_in_a_folder_that_says_what_it_is(tiny_model: Path, latents: Path, tmp_path: Path) -> None:
    card = make_card(tiny_model)
    progress = train_denoiser(card, latents, tmp_path / "out", options(steps=3))
    written = read_card(tmp_path / "out/card.toml")
    task = make_task(card, latents)
    trained = {int(task.draw(0, torch.Generator().manual_seed(seed))["t"]) for seed in range(40)}
    assert written.sampler.timesteps == (999, 400)
    assert trained == {999, 400}
    assert (written.sampler.name, written.sampler.steps, written.sampler.guidance_scale) == ("ddim", 2, 1.0)
    assert written.sampler.distilled
    assert not written.presets
    assert written.latent.scale == card.latent.scale
    assert set(written.measured) == {"autoencoder_psnr_db", "student_validation"}
    assert written.measured["student_validation"]["loss"] == pytest.approx(progress.scalars["loss"], abs=1e-4)
    teacher = written.provenance["teacher"]
    assert list(teacher["files"].values()) == [part_digests(card)["denoiser/denoiser.safetensors"]]
    assert (teacher["timesteps"], teacher["guidance_scale"], teacher["solver"]) == (TABLE, 1.5, "DPM-Solver++(2M)")
    assert "teacher" not in written.provenance["denoiser"]
    # On to one step: the student's own table, its own sampler, no guidance.
    train_denoiser(written, latents, tmp_path / "one", options(steps=1, distill_steps=1))
    halved = read_card(tmp_path / "one/card.toml")
    assert halved.sampler.timesteps == (999,)
    last = halved.provenance["teacher"]
    assert (last["timesteps"], last["guidance_scale"], last["solver"]) == ([999, 400], 1.0, "DDIM")
    assert last["teacher"]["timesteps"] == TABLE
    assert last["denoiser"]["options"]["distill_steps"] == 2
    text = describe_model(halved, "owner/name")
    assert "teacher.denoiser.steps" in text
    assert "options" not in text


def test_a_step_of_a_student_is_one_evaluation(
    tiny_model: Path, latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ccella.zoo.families.ccella.unet import UNet

    train_denoiser(make_card(tiny_model), latents, tmp_path / "out", options(steps=1))
    sizes, forward = [], UNet.forward

    def count(self: Any, z: torch.Tensor, *rest: Any, **named: Any) -> Any:
        sizes.append(len(z))
        return forward(self, z, *rest, **named)

    monkeypatch.setattr(UNet, "forward", count)
    (tmp_path / "prompt.txt").write_text("lesion left", encoding="utf-8")
    arguments = ["--prompt", str(tmp_path / "prompt.txt"), "--model", str(tmp_path / "out"), "--device", "cpu", "-q"]
    assert run(["sample", *arguments, "-o", str(tmp_path / "samples")]) == 0
    assert sizes == [1, 1]
    sidecar = next((tmp_path / "samples").glob("**/*_t2w.json"))
    assert json.loads(sidecar.read_text(encoding="utf-8"))["sampler"]["timesteps"] == [999, 400]


def test_a_student_samples_with_its_own_table_alone(tiny_model: Path) -> None:
    own = {"name": "ddim", "steps": 2, "timesteps": [999, 400], "guidance_scale": 1.0, "distilled": True}
    student = make_card(tiny_model, **own)
    assert choose_settings(student).timesteps == choose_settings(student, steps=2).timesteps == (999, 400)
    for other in ({"steps": 3}, {"sampler": "unipc"}, {"eta": 0.5}, {"timesteps": [400]}, {"guidance_scale": 2.0}):
        with pytest.raises(InputError, match="is a student of 2 steps: it knows its own timestep table") as caught:
            choose_settings(student, **other)  # type: ignore[arg-type]
        assert "sample with its teacher" in caught.value.remedy
    with pytest.raises(CardError, match=r"sampler\.timesteps is missing; expected the table that the student"):
        document = copy.deepcopy(dict(student.document))
        document["sampler"] = {"name": "ddim", "steps": 2, "distilled": True}
        parse_card(document, tiny_model / "card.toml")


def test_a_resumed_student_is_the_same(tiny_model: Path, latents: Path, tmp_path: Path) -> None:
    card = make_card(tiny_model, "sample")
    train_denoiser(card, latents, tmp_path / "whole", options())

    def stop(line: str) -> None:
        if line.startswith("step 2/"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted):
        train_denoiser(card, latents, tmp_path / "parts", options(), log=stop)
    with pytest.raises(InputError, match="was started with another teacher"):
        other = make_card(tiny_model, "sample", guidance_scale=2.0)
        train_denoiser(other, latents, tmp_path / "parts", options(), resume=True)
    train_denoiser(card, latents, tmp_path / "parts", options(), resume=True)
    one, other_weights = (load_file(tmp_path / name / "denoiser.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, other_weights[name]) for name, value in one.items())
    start = load_file(tiny_model / "denoiser.safetensors")
    assert not all(torch.equal(value, start[name]) for name, value in one.items())


def test_validation_looks_at_the_students_timesteps(tiny_model: Path, latents: Path) -> None:
    task = make_task(make_card(tiny_model), latents, validation_fraction=0.6)
    assert [task._spread_timestep(slot, 4) for slot in range(4)] == [999, 999, 400, 400]
    with torch.no_grad():
        assert task.validate(torch.device("cpu"))["loss"] > 0


@pytest.mark.parametrize(
    ("card", "changes", "message"),
    [
        ({}, {"initial": "scratch"}, "A student starts with its teacher's weights, not with random ones"),
        ({"prediction": "epsilon"}, {}, "predicts the noise"),
        ({}, {"distill_steps": 4}, "The 6 sampling steps of model tiny/random cannot be shared by 4 steps"),
        ({}, {"distill_steps": 12}, "The 6 sampling steps of model tiny/random cannot be shared by 12 steps"),
        ({}, {"distill_steps": 30, "distill_substeps": 40}, "needs 1200 timesteps; model tiny/random has 1000"),
        ({"distilled": True}, {"distill_substeps": 4}, "is a student of 6 steps, and 8 were asked of it"),
        (
            {"distilled": True},
            {"distill_guidance": 2.0},
            "has learnt its teacher's guidance",
        ),
    ],
)
def test_what_cannot_be_distilled(tiny_model: Path, card: Any, changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_trajectory(make_card(tiny_model, **card), options(**changes))


def test_other_numbers_of_substeps_take_a_table_of_their_own(tiny_model: Path) -> None:
    card = make_card(tiny_model)
    assert plan_trajectory(card, options(distill_steps=3)).timesteps == tuple(TABLE)
    assert plan_trajectory(card, options(distill_steps=4, distill_substeps=5)).student_timesteps == (999, 542, 224, 44)
    flow = plan_trajectory(make_card(tiny_model, "flow"), options(distill_steps=4, distill_substeps=1))
    assert flow.student_timesteps == (999, 749, 499, 249)


def test_a_teacher_is_not_overwritten_and_a_student_not_trained_as_one(tiny_model: Path, latents: Path) -> None:
    with pytest.raises(InputError, match="holds the teacher, which its student would overwrite"):
        train_denoiser(make_card(tiny_model), latents, tiny_model, options())
    with pytest.raises(InputError, match="is a student of 6 steps and knows no other timesteps"):
        train_denoiser(make_card(tiny_model, distilled=True), latents, tiny_model / "x", options(distill=False))
    card = make_card(tiny_model)
    untrained = card.with_generation(latent=replace(card.latent, scale=None))
    with pytest.raises(CardError, match=r"has no latent\.scale"):
        plan_trajectory(untrained, options())


def test_the_command_starts_with_the_teachers_weights(
    tiny_model: Path, latents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["train", "denoiser", str(latents), "--model", str(tiny_model), "--distill", "-o", str(out)]
    settings = ["distill_steps=1", "learning_rate=1e-30", "weight_decay=0.0", "validation_fraction=0.3"]
    options = [word for setting in settings for word in ("--set", setting)]
    assert run([*arguments, *options, "--steps", "1", "--batch-size", "2", "--device", "cpu"]) == 0
    assert "The student's timesteps: 700." in capsys.readouterr().err
    start, end = (load_file(folder / "denoiser.safetensors") for folder in (tiny_model, out))
    assert all(torch.equal(value, end[name]) for name, value in start.items())
    assert run([*arguments, "--from-scratch"]) == 2
    assert "leave out --from-scratch" in capsys.readouterr().err
