"""Strategies for cases: prompts, ids, manifests, cards, headers of volumes, option combinations."""

import json
from collections.abc import Callable

from hypothesis import strategies as st
from support.fuzz_volumes import NIFTI, volumes
from support.fuzzing import Case

OUT = ("-o", "out", "-q")
MODEL = ("--model", "./model")
WORDS = (
    "lesion",
    "left",
    "PIRADS 5",
    "Prostate normal",
    "\ufeff",
    "\x00",
    "\u202e",
    "é",
    "\ud7ff",
    "{",
    '"',
    ",",
    "\n",
    "\r",
    "\t",
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join))
HOSTILE = (
    "..", ".", "", " ", "a/b", "../up", "../../up", "/tmp/up", "a\\b", "C:\\x", "~", "~root", "$HOME", "-", "-o",
    "a\nb", "a\x00b", "con", "x" * 300, "é" * 120, "\ud800", "\u202eabc", "a..b", ".hidden", "p0 ", "run.json",
    "manifest.jsonl", "text", "out", "%2e%2e", "*", "?", "\U0001f600",
)  # fmt: skip
IDS = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20), st.from_regex(r"[a-z0-9_.-]{1,12}", fullmatch=True))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    TEXTS,
    st.sampled_from([10**400, 1e308, -0.0, "1", "YES"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3))
)
KEYS = (
    "id", "prompt", "text", "report", "class", "case_csPCa", "spacing", "spacing_mm", "seed", "schema", "kind", "path",
    "channel", "channels", "conditions", "synthetic", "t2w", "hbv", "adc", "report_path", "patient_id", "affine",
    "intensity", "model", "split", "sha256",
)  # fmt: skip
SAFE_IDS = st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True)


def dump(row: object) -> str:
    """JSON as Python writes it: NaN, infinity and lone surrogates included."""
    try:
        return json.dumps(row)
    except ValueError:
        return "[" * 3000


@st.composite
def prompts(draw: Callable) -> Case:
    data = draw(st.one_of(st.binary(max_size=80), TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))))
    data = data * draw(st.sampled_from([1, 1, 1, 50, 20_000]))
    name = draw(st.sampled_from(["p.txt", "p", "p.csv", "p.jsonl", "p.TXT", ".txt", "f/p.txt"]))
    source = draw(st.sampled_from([name, name.split("/")[0], "-", "f", "nowhere"]))
    real = ("--dry-run",) if draw(st.integers(0, 9)) else ("--latents", "--steps", "1")
    return Case(("sample", "--prompt", source, *MODEL, *OUT, *real), {name: data}, data)


@st.composite
def ids(draw: Callable) -> Case:
    """Ids in manifests and as file names, for runs that really write."""
    rows = draw(st.lists(IDS, min_size=1, max_size=3))
    seeds = draw(st.sampled_from([(), ("--seed", "0"), ("--seed", "0-1")]))
    if draw(st.booleans()):
        text = "".join(dump({"id": identifier, "prompt": "left lesion"}) + "\n" for identifier in rows)
    else:
        text = "id,prompt\n" + "".join(f'"{identifier}",left lesion\n' for identifier in rows)
    name = "p.jsonl" if text.startswith("{") else "p.csv"
    return Case(
        ("sample", "--prompt", name, *MODEL, *OUT, "--latents", "--steps", "1", *seeds),
        {name: text.encode("utf-8", "surrogatepass")},
    )


def _free_rows() -> st.SearchStrategy:
    return st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=5)), VALUES, max_size=6)


def _prompt_rows() -> st.SearchStrategy:
    """Lines that are right but for a value or two."""
    optional = {
        "class": st.one_of(st.sampled_from([0, 1, "YES", "", None, True]), VALUES),
        "spacing": st.one_of(st.sampled_from(["2x2x4", [2, 2, 4], "", [2, 2]]), VALUES),
        "seed": st.one_of(st.integers(0, 9), VALUES),
        "site": VALUES,
        "report_path": st.sampled_from(["p.txt", "nowhere", "../p.txt", 3]),
        **dict.fromkeys(("t2w", "hbv", "adc"), st.sampled_from(["v.nii", "exams", "", 3])),
    }
    return st.fixed_dictionaries(
        {"id": st.one_of(SAFE_IDS, IDS, VALUES), "prompt": st.one_of(TEXTS, VALUES)}, optional=optional
    )


def _records() -> st.SearchStrategy:
    """Records as commands print them, with wrong values."""
    fixed = {
        "schema": st.just("ccella.record/1"), "id": st.one_of(SAFE_IDS, IDS),
        "kind": st.sampled_from(["volume", "latent", "latent", 3]), "path": st.one_of(st.just("v.nii"), TEXTS, VALUES),
    }  # fmt: skip
    optional = dict.fromkeys(("conditions", "synthetic", "prompt", "model", "class", "channels", "affine"), VALUES)
    optional["channel"] = st.sampled_from(["t2w", "hbv", "adc", 1])
    return st.fixed_dictionaries(fixed, optional=optional)


@st.composite
def manifests(draw: Callable) -> Case:
    """Lines with keys of ours and values of any kind, as a file or on standard input of any stage."""
    rows = draw(st.lists(st.one_of(_free_rows(), _prompt_rows(), _records(), VALUES), max_size=4))
    if draw(st.integers(0, 3)):
        data = "\n".join(map(dump, rows)).encode("utf-8", "surrogatepass")
        name = "m.jsonl"
    else:
        names = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=5))
        cells = [",".join(str(value)[:40] for value in draw(st.lists(SCALARS, max_size=6))) for _ in rows]
        data = "\n".join([",".join(names), *cells]).encode("utf-8", "surrogatepass")
        name = "m.csv"
    if draw(st.integers(0, 9)) == 0:
        data = data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=5))
    source = draw(st.sampled_from([name, "-"]))
    stage = draw(st.sampled_from([("sample", "--prompt"), ("encode",), ("decode",), ("classify",)]))
    model = ("--model", "classifier/phantom") if stage == ("classify",) else MODEL
    if stage == ("decode",) and source != "-":
        source, name = "run", "run/manifest.jsonl"
    last = () if stage == ("classify",) else ("--dry-run",)
    out = ("-o", "out/p.jsonl", "-q") if stage == ("classify",) else OUT
    last = last if draw(st.integers(0, 4)) or stage == ("sample", "--prompt") else ()
    return Case((*stage, source, *model, *out, *last), {name: data, "v.nii": NIFTI, "p.txt": b"lesion"}, data)


def _alike(value: object) -> st.SearchStrategy:
    """Values of the same kind, which a card may or may not mean."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.sampled_from([0, 1, 2, 3, 7, 16, 1000, -1, 2**40])
    if isinstance(value, float):
        return st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0, 1e9, 1e-12, float("nan"), float("inf")])
    if isinstance(value, list) and value and not isinstance(value[0], dict):
        return st.lists(_alike(value[0]), max_size=4)
    return st.sampled_from(
        ["ddim", "RAS", "LPI", "epsilon", "xyz", "yx", "window", "ccella", "Prostate", "a/b", "", "\n", "mm"]
    )


@st.composite
def cards(draw: Callable) -> Case:
    """The tiny model's card with values changed, taken out and added, or with its text damaged."""
    import tomli_w
    from support.tiny_model import CARD

    document = json.loads(json.dumps(CARD))
    for _ in range(draw(st.integers(1, 3))):
        table = document
        while True:
            key = draw(st.sampled_from(sorted(table) if isinstance(table, dict) else range(len(table))))
            inner = table[key]
            if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 3)) == 0:
                break
            table = inner
        how = draw(st.integers(0, 3))
        if how > 1:
            table[key] = draw(_alike(inner))
        elif how == 1:
            table[key] = draw(VALUES)
        elif isinstance(table, dict):
            del table[key]
            table[draw(TEXTS)] = draw(SCALARS)
            if not document:
                break
    try:
        text = tomli_w.dumps(document).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError):
        text = draw(st.binary(max_size=50))
    if draw(st.integers(0, 4)) == 0:
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.binary(max_size=4)) + text[place + draw(st.integers(0, 20)) :]
    args = draw(st.sampled_from([
        ("zoo", "show", "./m"), ("zoo", "verify", "./m"),
        ("sample", "--prompt", "p.txt", "--model", "./m", *OUT, "--dry-run"),
        ("sample", "--prompt", "p.txt", "--model", "./m", *OUT),
        ("encode", "exams", "--model", "./m", *OUT),
        ("export", "./m", "--to", "onnx", *OUT),
    ]))  # fmt: skip
    return Case(args, {"m/card.toml": text, "p.txt": b"left lesion"})


# Commands that would work for long, talk to the Hub or ask the driver, on words that happen to be right.
LEFT_OUT = {
    ("zoo", "pull"),
    ("zoo", "push"),
    ("train", "text-encoder"),
    ("phantom",),
    ("doctor",),
    ("bench",),
    ("export",),
    ("evaluate", "prompt"),
}
OPTION_VALUES = (
    "0", "1", "-1", "2", "1e9", "nan", "inf", "0-3", "1/2", "0/0", "2,2,4", "1,2", " ", "auto", "cpu", "cuda:99",
    "cuda:x", "onnx", "onnx:tpu", "tensorrt", "fp32", "fp16", "bf16", "ddim", "./model", "nowhere", "p.txt", "ccella",
    "classifier", "a=b", "learning_rate=x", "\u0661", "9" * 30, "-", "--", "@", "x@y",
)  # fmt: skip


def _commands() -> list[tuple[tuple[str, ...], list, list]]:
    """Every command with its options and arguments, as click knows them."""
    import click

    from ccella.cli.main import ccella

    found = []

    def visit(command: click.Command, path: tuple[str, ...]) -> None:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                visit(inner, (*path, name))
        elif path not in LEFT_OUT:
            options = [each for each in command.params if isinstance(each, click.Option)]
            found.append((path, options, [each for each in command.params if isinstance(each, click.Argument)]))

    visit(ccella, ())
    return found


@st.composite
def options(draw: Callable) -> Case:
    """Some options of a command with values of every kind, repeated, contradictory or in excess."""
    path, known, arguments = draw(st.sampled_from(_commands()))
    words: list[str] = []
    for option in draw(st.lists(st.sampled_from(known), max_size=6)):
        if option.name in ("help",):
            continue
        words.append(draw(st.sampled_from(option.opts)))
        if not option.is_flag:
            words.append("out" if option.name == "out" else draw(st.sampled_from(OPTION_VALUES)))
    for argument in arguments:
        words.extend(draw(st.lists(st.sampled_from(OPTION_VALUES), max_size=2 if argument.nargs == -1 else 1)))
    if draw(st.booleans()):
        words += ["-o", "out"] if any("-o" in option.opts for option in known) else []
    if draw(st.integers(0, 9)) == 0:
        words.append(draw(TEXTS).replace("\x00", ""))
    # The last word on the way to a lengthy run.
    words += ["--dry-run"] if any("--dry-run" in option.opts for option in known) else []
    return Case((*path, *words), {"p.txt": b"left lesion"}, b"left lesion")


KINDS = {"prompts": prompts, "ids": ids, "manifests": manifests, "cards": cards, "volumes": volumes, "options": options}
