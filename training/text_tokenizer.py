"""A small tokenizer for radiology reports, trained on phantom reports; any text can be encoded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..imaging.atomic import write_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer that lower-cases its input and ends every text with `</s>`, as T5 does.

    The 256 byte symbols are always in the vocabulary, so no text falls back to `<unk>`. Headings in capitals and words
    in lower case share their tokens, which keeps a small vocabulary useful on reports of other hospitals.

    Args:
        texts: Training texts.
        vocabulary: Largest number of tokens; at least 300.

    Raises:
        ValueError: The vocabulary has no room beside the bytes and the special tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    if vocabulary < 300:
        raise ValueError(f"A vocabulary of {vocabulary} has no room for words beside 256 bytes; give at least 300.")
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    # Spaces around a line end make the first word of a line the same token as anywhere else.
    line_ends = normalizers.Replace(Regex(r"\s*\n\s*"), " \n ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), line_ends])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, END, UNKNOWN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, window: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, which `AutoTokenizer.from_pretrained(folder)` reads offline.

    Args:
        tokenizer: A trained tokenizer.
        folder: Where the files go; made when missing.
        window: Longest encoding in tokens; longer text is cut on the left, as CCELLA was published.
    """
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=window,
        truncation_side="left",
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
    )
    # transformers writes a folder file by file; each file is put in place whole.
    with tempfile.TemporaryDirectory(prefix="ccella-") as temporary:
        fast.save_pretrained(temporary)
        for path in sorted(Path(temporary).iterdir()):
            write_bytes(folder / path.name, path.read_bytes())
