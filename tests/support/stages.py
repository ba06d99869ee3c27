"""The stages of the pipeline as Python calls them, on one model folder."""

import copy
from pathlib import Path


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
