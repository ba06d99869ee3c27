"""The CCELLA denoiser: adapter, class head and U-Net in one module.

State dict keys are those of the published models: `ella.*`, `unet.*` and `classifier.*`. The ablations of the first
paper are settings: `class_head` of the adapter, and here `class_input` and `text_context`:

| ablation | settings |
|---|---|
| as published | class_input = "predicted", text_context = true |
| ground-truth class | class_input = "given" |
| text only | class_input = "none" |
| class only | text_context = false |
| spacing only | class_input = "none", text_context = false |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ...errors import CardError
from .adapter import Adapter, build_classifier
from .config import AdapterConfig, ClassInput, UNetConfig, check_choice, read_settings
from .unet import UNet

CLASS_SCALE = 100.0


@dataclass(frozen=True)
class DenoiserConfig:
    """How the denoiser's parts are joined."""

    class_input: ClassInput = "predicted"
    text_context: bool = True

    def __post_init__(self) -> None:
        check_choice("class_input", self.class_input, get_args(ClassInput))


def scale_logits(logits: Tensor) -> Tensor:
    """Class logits [B, classes] to the U-Net's class input: softmax in percent, [B, classes]."""
    return logits.softmax(dim=-1) * CLASS_SCALE


def choose_class_values(config: DenoiserConfig, logits: Tensor, class_input: Tensor | None) -> Tensor:
    """See `CcellaDenoiser.class_values`."""
    if config.class_input == "none":
        if class_input is not None:
            raise ValueError('This denoiser takes no class (class_input = "none"), and one was given.')
        return torch.zeros_like(logits)
    if class_input is not None:
        return class_input
    if config.class_input == "given":
        raise ValueError('This denoiser needs a class (class_input = "given"), and none was given.')
    return scale_logits(logits)


class CcellaDenoiser(nn.Module):
    """Noisy latents, a timestep, a report, a class and a spacing to the prediction and the class logits.

    Attributes:
        ella: the adapter; `ella(text, mask, t)` gives the context and the class logits.
        classifier: last layer of the class head, used by `ella`; None with `class_head = "none"`.
        unet: the U-Net; `unet(z, t, context, class_input, spacing_mm)`.
    """

    def __init__(self, config: DenoiserConfig, adapter: AdapterConfig, unet: UNetConfig) -> None:
        super().__init__()
        if config.class_input == "predicted" and adapter.class_head == "none":
            raise CardError(
                '`class_input` is "predicted" but `class_head` is "none": there is nothing to predict with.',
                'Set class_input = "given" or "none", or choose a class head.',
            )
        self.config = config
        self.classifier = build_classifier(adapter)
        self.ella = Adapter(adapter, self.classifier)
        self.unet = UNet(unet, adapter.width if config.text_context else None, adapter.classes)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    def class_values(self, logits: Tensor, class_input: Tensor | None) -> Tensor:
        """The class input of the U-Net by the denoiser's setting.

        Args:
            logits: class logits of the adapter, [B, classes].
            class_input: class probabilities times 100, [B, classes], to use instead of the predicted ones, or None.

        Returns:
            [B, classes] in percent; zeros where the U-Net gets no class.

        Raises:
            ValueError: a class is missing, or given to a model that takes none.
        """
        return choose_class_values(self.config, logits, class_input)

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        text: Tensor,
        mask: Tensor | None,
        spacing_mm: Tensor,
        class_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict from noisy latents, as training needs it.

        Args:
            z: noisy latent, [B, C, x, y, z].
            t: timesteps, [B].
            text: token features of the reports, [B, L, text_width].
            mask: [B, L] bool, True at real tokens; None where nothing is padded.
            spacing_mm: voxel spacing of the image, [B, 3], mm.
            class_input: class probabilities times 100, [B, classes]; None takes softmax(logits) * 100.

        Returns:
            prediction [B, C, x, y, z] and class logits [B, classes].

        Raises:
            ValueError: the class does not fit the `class_input` setting.
        """
        context, logits = self.ella(text, mask, t)
        classes = self.class_values(logits, class_input)
        return self.unet(z, t, context if self.config.text_context else None, classes, spacing_mm), logits


def build_denoiser(config: Mapping[str, Any]) -> CcellaDenoiser:
    """Build the denoiser from a card's table, with fresh weights.

    Args:
        config: tables `adapter` (keys of `AdapterConfig`) and `unet` (keys of `UNetConfig`), and the keys of
            `DenoiserConfig`.

    Raises:
        CardError: the table cannot be read.
    """
    tables = {}
    for name in ("adapter", "unet"):
        if not isinstance(config.get(name), Mapping):
            raise CardError(f"The denoiser table lacks the table `{name}`.", f"Add it: [parts.denoiser.config.{name}].")
        tables[name] = config[name]
    rest = {key: value for key, value in config.items() if key not in tables}
    return CcellaDenoiser(
        read_settings(DenoiserConfig, rest, "denoiser"),
        read_settings(AdapterConfig, tables["adapter"], "adapter"),
        read_settings(UNetConfig, tables["unet"], "U-Net"),
    )
