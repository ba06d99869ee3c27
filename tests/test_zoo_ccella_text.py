"""The text encoder: window, truncation, independence of neighbours, strict loading."""

import hashlib
import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, T5ForConditionalGeneration

from ccella.zoo.errors import CardError, DigestMismatchError, WeightsMissingError
from ccella.zoo.families.ccella.text import TextEncoder, TokenCount, digest_folder
from ccella.zoo.families.ccella.text_placement import free_memory, spread, weight_bytes

WORDS = ["<pad>", "</s>", "<unk>", "lesion", "left", "right", "apex", "no", "zone"]
CONFIG = {
    "vocab_size": len(WORDS),
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
}


def write_folder(path, kind=T5EncoderModel):
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=512
    )
    model = kind(T5Config(**CONFIG))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    model.save_pretrained(path)
    fast.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("encoder"))


def test_features_have_one_row_per_token_and_no_padding(folder):
    encoder = TextEncoder.from_folder(folder)
    features = encoder.encode(["lesion left apex", "no lesion", ""])
    assert [tuple(item.shape) for item in features] == [(4, 16), (3, 16), (1, 16)]
    assert encoder.width == 16
    assert encoder.tokenize("") == [1]


def test_features_do_not_depend_on_neighbours(folder):
    encoder = TextEncoder.from_folder(folder)
    together = encoder.encode(["lesion left apex zone left", "no lesion"])
    alone = encoder.encode(["no lesion"])
    assert torch.equal(together[1], alone[0])


def test_features_equal_those_of_transformers(folder):
    model = T5EncoderModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[3, 4, 2, 1]])).last_hidden_state[0]
    torch.testing.assert_close(TextEncoder.from_folder(folder).encode(["lesion left unheard"])[0], expected)


def test_a_long_report_loses_its_beginning(folder):
    encoder = TextEncoder.from_folder(folder, window=3)
    assert encoder.tokenize("no zone lesion left apex") == [4, 6, 1]
    assert encoder.count_tokens("no zone lesion left apex") == TokenCount(6, truncated=True)
    assert encoder.count_tokens("left apex") == TokenCount(3, truncated=False)
    torch.testing.assert_close(encoder.encode(["no zone lesion left apex"]), encoder.encode(["left apex"]))


def test_default_window_is_512_tokens(folder):
    encoder = TextEncoder.from_folder(folder)
    assert len(encoder.tokenize("left " * 600)) == 512
    assert encoder.count_tokens("left " * 511) == TokenCount(512, truncated=False)
    assert encoder.count_tokens("left " * 512) == TokenCount(513, truncated=True)


def test_window_needs_room_for_a_token(folder):
    with pytest.raises(ValueError, match="1 tokens"):
        TextEncoder.from_folder(folder, window=1)


def test_the_encoder_half_of_a_full_checkpoint_is_loaded(tmp_path):
    full = write_folder(tmp_path / "full", T5ForConditionalGeneration)
    assert json.loads((full / "config.json").read_text(encoding="utf-8"))["architectures"] == [
        "T5ForConditionalGeneration"
    ]
    encoder = TextEncoder.from_folder(full)
    assert isinstance(encoder.model, T5EncoderModel)
    stored = load_file(full / "model.safetensors")
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    assert torch.equal(encoder.model.state_dict()[name], stored[name])


def test_a_checkpoint_without_some_weights_is_refused(tmp_path):
    path = write_folder(tmp_path / "lacking")
    weights = load_file(path / "model.safetensors")
    del weights["encoder.block.0.layer.0.SelfAttention.k.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsMissingError, match=r"SelfAttention\.k\.weight"):
        TextEncoder.from_folder(path)


def test_a_checkpoint_with_foreign_weights_is_refused(tmp_path):
    path = write_folder(tmp_path / "foreign")
    weights = load_file(path / "model.safetensors")
    weights["adapter.weight"] = torch.zeros(3)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsMissingError, match=r"adapter\.weight"):
        TextEncoder.from_folder(path)


def test_pickled_weights_are_not_read(tmp_path):
    path = write_folder(tmp_path / "pickled")
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    with pytest.raises(WeightsMissingError, match="safetensors"):
        TextEncoder.from_folder(path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(WeightsMissingError, match="nowhere"):
        TextEncoder.from_folder(tmp_path / "nowhere")


def test_digest_covers_names_and_contents(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_bytes(b"one")
    (tmp_path / "b" / "c.txt").write_bytes(b"three")
    (tmp_path / ".lock").write_bytes(b"hidden files do not count")
    expected = hashlib.sha256(b"a.txt\x003\x00oneb/c.txt\x005\x00three").hexdigest()
    assert digest_folder(tmp_path) == expected
    (tmp_path / "a.txt").write_bytes(b"two")
    assert digest_folder(tmp_path) != expected


def test_a_wrong_digest_is_refused(folder):
    assert TextEncoder.from_folder(folder, digest=digest_folder(folder)).digest == digest_folder(folder)
    with pytest.raises(DigestMismatchError, match="expected 00"):
        TextEncoder.from_folder(folder, digest="00")


def test_bfloat16_is_near_float32_and_named_in_the_digest(folder):
    whole, half = TextEncoder.from_folder(folder), TextEncoder.from_folder(folder, dtype="bfloat16")
    assert (whole.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert half.digest == f"{whole.digest}/bfloat16"
    one, other = whole.encode(["lesion left apex"])[0], half.encode(["lesion left apex"])[0]
    assert other.dtype == torch.float32
    assert torch.equal(other, other.bfloat16().float())
    torch.testing.assert_close(one, other, rtol=0.1, atol=0.1)
    with pytest.raises(CardError, match="dtype is 'int8'"):
        TextEncoder.from_folder(folder, dtype="int8")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("free", [4000, 9000])
def test_weights_that_do_not_fit_are_spread_and_give_the_same_features(folder, dtype, free, caplog):
    """Real offloading by Accelerate: parts of the encoder lie on disk and come in layer by layer."""
    here = TextEncoder.from_folder(folder, dtype=dtype)
    with caplog.at_level(logging.WARNING):
        spread_out = TextEncoder.from_folder(folder, dtype=dtype, free={"cpu": free})
    assert "more than is free on cpu" in caplog.text
    assert "disk" in spread_out.model.hf_device_map.values()
    for text in ("lesion left apex", "", "no zone " * 300):
        assert torch.equal(spread_out.encode([text])[0], here.encode([text])[0])


def test_where_weights_go():
    cpu, gpu = torch.device("cpu"), torch.device("cuda:1")
    assert spread(900, cpu, {"cpu": 1000}) is None
    assert spread(950, cpu, {"cpu": 1000}) == {"cpu": 900}
    assert spread(5000, gpu, {1: 1000, "cpu": 8000}) == {1: 900, "cpu": 7200}
    assert list(free_memory(cpu)) == ["cpu"] and free_memory(cpu)["cpu"] > 1e8
    # The published encoder: 4.76e9 weights (T5 1.1 XXL's encoder, with its embedding), two bytes each.
    config = T5Config(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
                      feed_forward_proj="gated-gelu", is_encoder_decoder=False)  # fmt: skip
    with torch.device("meta"):
        assert weight_bytes(T5EncoderModel(config), torch.bfloat16) == pytest.approx(9.52e9, rel=0.005)
