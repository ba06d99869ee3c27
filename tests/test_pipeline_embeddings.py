"""A prompt goes through the text encoder once however many items have it."""

from dataclasses import replace

import pytest
import torch

from ccella.pipeline.embeddings import Embedder


class Counted:
    """A text encoder that notes what it encodes."""

    def __init__(self, encoder):
        self._encoder = encoder
        self.texts = []

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def encode(self, texts):
        self.texts.extend(texts)
        return self._encoder.encode(texts)


def test_the_last_few_prompts_stay_embedded(stages):
    encoder = Counted(stages.text_encoder)
    embedder = Embedder(encoder, torch.bfloat16, kept=2)
    first = embedder.embed("lesion left")
    assert embedder.embed("lesion left") is first
    assert torch.equal(first.features, stages.text_encoder.encode(["lesion left"])[0].bfloat16())
    assert (first.truncated, embedder.embed("normal " * 40).truncated) == (False, True)
    # Asking keeps: the long one has been waiting for longest.
    embedder.embed("lesion left")
    embedder.embed("normal")
    assert embedder.embed("lesion left") is first
    assert embedder.null is embedder.null
    embedder.embed("normal " * 40)
    assert encoder.texts == ["lesion left", "normal " * 40, "normal", "", "normal " * 40]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_seeds_of_a_prompt_are_embedded_and_adapted_once(
    stages, prompts, five, tmp_path, largest_difference, batch_size
):
    encoder, calls = Counted(stages.text_encoder), []
    handle = stages.denoiser.ella.register_forward_hook(lambda module, args, output: calls.append(len(args[2])))
    counted = stages.changed(text_encoder=encoder)
    counted.sample(prompts[:2], tmp_path / "o", seeds=range(4), batch_size=batch_size)
    handle.remove()
    # Two prompts and the empty one, each at all three steps of the table at once.
    assert encoder.texts.count(prompts[0].text) == encoder.texts.count(prompts[1].text) == encoder.texts.count("") == 1
    assert calls == [3, 3, 3]
    # As made with nothing before it.
    apart = replace(prompts[1], id=f"{prompts[1].id}_s3")
    stages.sample([apart], tmp_path / "apart", seeds=[3])
    assert largest_difference(tmp_path / "apart", tmp_path / "o") < (1e-5 if batch_size > 1 else 1e-12)
