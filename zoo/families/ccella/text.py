"""Reports to token features: any encoder that transformers can load from a folder, and its tokenizer.

Nothing here reaches the network. Each report goes through the encoder by itself, without padding: its features are
the same whatever its neighbours are, and no pad token can be attended to.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from ...errors import CardError, DigestMismatchError, WeightsMissingError
from .text_placement import Memory, spread, weight_bytes

logger = logging.getLogger(__name__)

DEFAULT_ARCHITECTURE = "T5EncoderModel"
DEFAULT_WINDOW = 512
CHUNK_BYTES = 1 << 20
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# what a full encoder-decoder checkpoint holds beyond its encoder
DECODER_PREFIXES = ("decoder.", "lm_head.")


@dataclass(frozen=True)
class TokenCount:
    """Length of a report in tokens, before the window cuts it, the closing token included."""

    n_tokens: int
    truncated: bool


class TextEncoder:
    """A frozen language encoder with its tokenizer.

    Args:
        model: a transformers encoder whose output has `last_hidden_state`.
        tokenizer: its tokenizer.
        window: most tokens per report, the closing token included. Longer reports lose their beginning, as in the
            published models: the impression stands at a report's end.
        digest: SHA-256 of the folder it came from, and the number format where that is not float32; empty for an
            encoder built in memory.

    Attributes:
        width: features per token.
        dtype: number format of weights and arithmetic.
        device: where reports go in; weights may be spread over other places.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, window: int = DEFAULT_WINDOW, digest: str = "") -> None:
        if window < 2:
            raise ValueError(f"The text window is {window} tokens; it has to be 2 or more.")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.tokenizer.truncation_side = "left"
        self.window = window
        self.digest = digest
        self.width: int = model.config.hidden_size  # type: ignore[union-attr, assignment]
        self.dtype: torch.dtype = model.dtype  # type: ignore[assignment]
        self.device = _input_device(model)

    @classmethod
    def from_folder(
        cls,
        path: Path,
        window: int = DEFAULT_WINDOW,
        dtype: torch.dtype | str = torch.float32,
        device: str | torch.device = "cpu",
        digest: str | None = None,
        free: Memory | None = None,
    ) -> TextEncoder:
        """Load encoder and tokenizer from a folder of config.json, safetensors and tokenizer files.

        The class is the one that config.json names under `architectures`, its encoder half where that class is an
        encoder-decoder; T5EncoderModel where config.json names none.

        Weights that do not fit on the device are spread by Accelerate over device, memory and disk.

        Args:
            path: the folder.
            window: most tokens per report.
            dtype: of weights and arithmetic, as torch or a card (`bfloat16`) names it.
            device: where the encoder runs.
            digest: the expected `digest_folder(path)`; None checks nothing.
            free: free bytes by place, see `text_placement.spread`; None looks.

        Raises:
            WeightsMissingError: the folder or some of its weights are missing.
            DigestMismatchError: the folder's content is not the expected one.
            CardError: the number format is not known.
        """
        path = Path(path)
        dtype = read_dtype(dtype)
        if not (path / "config.json").is_file():
            raise WeightsMissingError(f"There is no text encoder in {path}.", "Run `ccella zoo pull` for this model.")
        found = digest_folder(path)
        if digest is not None and digest != found:
            raise DigestMismatchError(
                f"The text encoder in {path} has digest {found}, expected {digest}.", "Fetch the model again."
            )
        model = _load_model(path, dtype, torch.device(device), free)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        format_note = "" if dtype == torch.float32 else f"/{str(dtype).removeprefix('torch.')}"
        return cls(model, tokenizer, window, found + format_note)

    def count_tokens(self, text: str) -> TokenCount:
        """Tokens of a report before truncation, and whether the window cuts it."""
        count = len(self.tokenizer(text, verbose=False)["input_ids"])
        return TokenCount(count, count > self.window)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a report: its end if it is longer than the window; at least the closing token."""
        ids: list[int] = self.tokenizer(text, truncation=True, max_length=self.window, verbose=False)["input_ids"]
        if not ids:
            raise ValueError("The tokenizer gave no token for an empty report; it has to add a closing token.")
        return ids

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Encode reports.

        Args:
            texts: reports; the empty string stands for a missing one.

        Returns:
            one float32 [L, width] per report, L <= window tokens and no padding, on the encoder's device.
            `count_tokens` tells whether a report was cut.
        """
        features = []
        for text in texts:
            ids = torch.tensor([self.tokenize(text)], device=self.device)
            output = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
            features.append(output.to(self.device, torch.float32))
        return features


def digest_folder(path: Path) -> str:
    """SHA-256 over a folder: name, size and content of every visible file, sorted by name.

    Raises:
        WeightsMissingError: the folder holds no file.
    """
    digest = hashlib.sha256()
    names = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    visible = sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
    if not visible:
        raise WeightsMissingError(f"The folder {path} holds no file.", "Run `ccella zoo pull` for this model.")
    for name in visible:
        digest.update(f"{name}\0{names[name].stat().st_size}\0".encode())
        with names[name].open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def read_dtype(name: torch.dtype | str) -> torch.dtype:
    """The number format that a card names; CardError for one that is not known."""
    if isinstance(name, torch.dtype):
        return name
    if name not in DTYPES:
        raise CardError(f"The text encoder's dtype is {name!r}.", f"Use {' or '.join(DTYPES)}.")
    return DTYPES[name]


def _input_device(model: nn.Module) -> torch.device:
    """Where a network takes its input: of one that is spread over several places, its first device."""
    places = getattr(model, "hf_device_map", None)
    if places is None:
        return next(model.parameters()).device
    return torch.device(next((place for place in places.values() if place not in ("cpu", "disk")), "cpu"))


def _load_model(path: Path, dtype: torch.dtype, device: torch.device, free: Memory | None) -> nn.Module:
    """Load the encoder, refusing a checkpoint that lacks weights: transformers would draw them at random."""
    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    name = (config.architectures or [DEFAULT_ARCHITECTURE])[0]
    if config.is_encoder_decoder:
        encoder = name.replace("ForConditionalGeneration", "EncoderModel")
        name = encoder if hasattr(transformers, encoder) else name
    if not hasattr(transformers, name):
        raise WeightsMissingError(
            f"The text encoder in {path} is of the unknown architecture {name}.",
            "Correct `architectures` in its config.json, or install a newer transformers.",
        )
    kind = getattr(transformers, name)
    with torch.device("meta"):
        n_bytes = weight_bytes(kind(config), dtype)
    memory = spread(n_bytes, device, free)
    placing: dict[str, Any] = {}
    if memory is not None:
        logger.warning(
            "The text encoder takes %.1f GB in %s, more than is free on %s: its weights are spread over device, memory "
            "and disk, and each report takes longer.", n_bytes / 1e9, dtype, device,
        )  # fmt: skip
        scratch = tempfile.TemporaryDirectory(prefix="ccella-text-")
        placing = {"device_map": "auto", "max_memory": memory, "offload_folder": scratch.name}
    try:
        model, report = kind.from_pretrained(
            path, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True, **placing
        )
    except OSError as error:
        raise WeightsMissingError(
            f"The text encoder in {path} has no safetensors weights ({error}).", "Run `ccella zoo pull`."
        ) from error
    surplus = [key for key in report["unexpected_keys"] if not key.startswith(DECODER_PREFIXES)]
    wrong = [*report["missing_keys"], *surplus, *report["mismatched_keys"]]
    if wrong:
        raise WeightsMissingError(
            f"The weights in {path} do not fit {name}: {len(wrong)} keys differ, the first is {wrong[0]}.",
            "Fetch the model again, or correct its config.json.",
        )
    network: nn.Module = model
    if memory is None:
        return network.to(device)
    # Weights on disk are read from there at every report: the folder lives as long as the network.
    network._offloaded = scratch  # type: ignore[assignment]
    return network
