"""What of a CCELLA model other runtimes execute: adapter, U-Net, decoder and encoder as graphs, and back together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...card import Card
from ...graphs import Axis, Graph, GraphInput, Net, ShapeRange
from .autoencoder import Autoencoder
from .config import AdapterConfig, AutoencoderConfig, UNetConfig, read_settings
from .denoiser import CcellaDenoiser, DenoiserConfig, choose_class_values

MAX_BATCH = 64
# Timesteps of one report that go through the adapter together: at the published size half a gigabyte in fp32. Fixed,
# not what happens to be free, so that a run can be repeated bit by bit.
TIMESTEPS_AT_ONCE = 64
# Images and latents that an exported autoencoder takes at a time: more cost memory and save no time at full size.
AUTOENCODER_BATCH = 1
# Items that an engine of the U-Net is made for, each with two branches of guidance.
ENGINE_ITEMS = 8
BRANCHES = 2
DEFAULT_WINDOW = 512
SPATIAL = ("x", "y", "z")


class _AdapterGraph(nn.Module):
    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        assert isinstance(denoiser, CcellaDenoiser)
        self.denoiser = denoiser

    def forward(self, text: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        context, logits = self.denoiser.ella(text, None, t)
        return context, logits


class _UNetGraph(nn.Module):
    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        assert isinstance(denoiser, CcellaDenoiser)
        self.unet = denoiser.unet

    def forward(self, z: Tensor, t: Tensor, class_input: Tensor, spacing_mm: Tensor, context: Tensor) -> Tensor:
        prediction: Tensor = self.unet(z, t, context, class_input, spacing_mm)
        return prediction


class _UNetGraphWithoutText(_UNetGraph):
    def forward(  # type: ignore[override]
        self, z: Tensor, t: Tensor, class_input: Tensor, spacing_mm: Tensor
    ) -> Tensor:
        prediction: Tensor = self.unet(z, t, None, class_input, spacing_mm)
        return prediction


class _DecoderGraph(nn.Module):
    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        assert isinstance(autoencoder, Autoencoder)
        self.post_quant_conv, self.decoder = autoencoder.post_quant_conv, autoencoder.decoder

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.decoder(self.post_quant_conv(z))
        return x


class _EncoderGraph(nn.Module):
    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        assert isinstance(autoencoder, Autoencoder)
        self.autoencoder = autoencoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, sigma = self.autoencoder.encode(x)
        return mean, sigma


def shape_multiple(card: Card) -> int:
    """Image sizes in voxels have to be multiples of this."""
    levels = len(card.part("denoiser").config["unet"]["channels"])
    return int(card.latent.downsample * 2 ** (levels - 1))


def graphs(card: Card, shapes: ShapeRange | None = None) -> tuple[Graph, ...]:
    """The graphs of a model.

    Args:
        card: The model.
        shapes: The image shapes that they are to take, multiples of `shape_multiple`; the card's alone when None.
    """
    full = tuple(card.image.shape)
    shapes = ShapeRange(full, full, full) if shapes is None else shapes
    return (*_denoiser_graphs(card, shapes), *_autoencoder_graphs(card, shapes))


def _denoiser_graphs(card: Card, shapes: ShapeRange) -> tuple[Graph, Graph]:
    config = card.part("denoiser").config
    adapter = read_settings(AdapterConfig, config["adapter"], "adapter")
    unet = read_settings(UNetConfig, config["unet"], "U-Net")
    window = int(card.part("text_encoder").config.get("window", DEFAULT_WINDOW))
    train = card.schedule.train_timesteps
    down = card.latent.downsample
    inputs = [
        GraphInput("z", "normal", ("batch", unet.in_channels, *SPATIAL)),
        GraphInput("t", "timestep", ("batch",)),
        GraphInput("class_input", "percent", ("batch", adapter.classes)),
        GraphInput("spacing_mm", "spacing_mm", ("batch", unet.spatial_dims)),
    ]
    has_text = bool(config.get("text_context", True))
    if has_text:
        inputs.append(GraphInput("context", "normal", ("batch", adapter.latents, adapter.width)))
    return (
        Graph(
            "adapter",
            "denoiser",
            # One report at all its timesteps: the batch is the timestep table.
            (GraphInput("text", "normal", (1, "tokens", adapter.text_width)), GraphInput("t", "timestep", ("steps",))),
            ("context", "logits"),
            {
                "tokens": Axis(1, min(200, window), window),
                "steps": Axis(1, min(card.sampler.steps, train), train),
            },
            _AdapterGraph,
            {"steps": TIMESTEPS_AT_ONCE},
        ),
        Graph(
            "denoiser",
            "denoiser",
            tuple(inputs),
            ("prediction",),
            {"batch": Axis(1, 2, MAX_BATCH), **_spatial(shapes, down, 2 ** (len(unet.channels) - 1))},
            _UNetGraph if has_text else _UNetGraphWithoutText,
            {"batch": ENGINE_ITEMS * BRANCHES},
        ),
    )


def _autoencoder_graphs(card: Card, shapes: ShapeRange) -> tuple[Graph, Graph]:
    config = read_settings(AutoencoderConfig, card.part("autoencoder").config, "autoencoder")
    down = card.latent.downsample
    batch = Axis(1, 1, MAX_BATCH)
    return (
        Graph(
            "decoder",
            "autoencoder",
            (GraphInput("z", "normal", ("batch", config.latent_channels, *SPATIAL)),),
            ("x",),
            {"batch": batch, **_spatial(shapes, down, 1)},
            _DecoderGraph,
            {"batch": AUTOENCODER_BATCH},
        ),
        Graph(
            "encoder",
            "autoencoder",
            (GraphInput("x", "unit", ("batch", config.in_channels, *SPATIAL)),),
            ("mean", "sigma"),
            {"batch": batch, **_spatial(shapes, 1, down)},
            _EncoderGraph,
            {"batch": AUTOENCODER_BATCH},
        ),
    )


def asked_sizes(card: Card, *, batch_size: int, guidance_scale: float) -> dict[str, dict[str, int]]:
    """What the stages ask of each graph, by axis: the card's own image shape, and batches.

    Args:
        card: The model.
        batch_size: Items at a time.
        guidance_scale: Classifier-free guidance; both branches go through the U-Net in one batch.
    """
    batches = {
        "denoiser": batch_size * (1 if guidance_scale == 1.0 else BRANCHES),
        "decoder": AUTOENCODER_BATCH,
        "encoder": AUTOENCODER_BATCH,
    }
    return {
        graph.name: {name: graph.axes[name].optimum for name in SPATIAL} | {"batch": batches[graph.name]}
        for graph in graphs(card)
        if graph.name in batches
    }


def _spatial(shapes: ShapeRange, down: int, multiple: int) -> dict[str, Axis]:
    """The spatial axes in units of `down` voxels."""
    rows = zip(SPATIAL, shapes.minimum, shapes.optimum, shapes.maximum, strict=True)
    return {name: Axis(low // down, best // down, high // down, multiple) for name, low, best, high in rows}


class CompiledDenoiser(nn.Module):
    """The denoiser's interface on exported graphs: `ella`, `class_values` and `unet`.

    Args:
        config: How the parts are joined.
        nets: `adapter` and `denoiser`.
        device: Where tensors live.
    """

    def __init__(self, config: DenoiserConfig, nets: Mapping[str, Net], device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.device = device
        self._nets = nets

    def ella(self, text: Tensor, mask: Tensor | None, t: Tensor) -> tuple[Tensor, Tensor]:
        """Context and class logits of one report 1 L W at timesteps T; see `Adapter.forward`."""
        assert mask is None, "the exported adapter takes one report, without padding"
        outputs = self._nets["adapter"]({"text": text, "t": t})
        return outputs["context"], outputs["logits"]

    def class_values(self, logits: Tensor, class_input: Tensor | None) -> Tensor:
        """See `CcellaDenoiser.class_values`."""
        return choose_class_values(self.config, logits, class_input)

    def unet(self, z: Tensor, t: Tensor, context: Tensor | None, class_input: Tensor, spacing_mm: Tensor) -> Tensor:
        """See `UNet.forward`."""
        inputs = {"z": z, "t": t, "class_input": class_input.to(z.dtype), "spacing_mm": spacing_mm}
        if context is not None:
            inputs["context"] = context
        return self._nets["denoiser"](inputs)["prediction"]


class CompiledAutoencoder(nn.Module):
    """The autoencoder's interface on exported graphs: `encode_moments` and `decode`.

    Args:
        nets: `encoder` and `decoder`; one that is not called need not be there.
    """

    def __init__(self, nets: Mapping[str, Net]) -> None:
        super().__init__()
        self._nets = nets

    def encode_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Autoencoder.encode_moments`."""
        outputs = [self._nets["encoder"]({"x": part}) for part in x.split(AUTOENCODER_BATCH)]
        return torch.cat([each["mean"] for each in outputs]), torch.cat([each["sigma"] for each in outputs])

    def decode(self, z: Tensor) -> Tensor:
        """Image B 1 X Y Z of a latent B c x y z."""
        return torch.cat([self._nets["decoder"]({"z": part})["x"] for part in z.split(AUTOENCODER_BATCH)])


def assemble(card: Card, part: str, nets: Mapping[str, Net], device: torch.device) -> nn.Module:
    """A part whose networks something else executes, to be used like the part itself.

    Args:
        card: The model.
        part: `denoiser` or `autoencoder`.
        nets: The part's graphs, by name.
        device: Where tensors live.
    """
    if part == "autoencoder":
        return CompiledAutoencoder(nets)
    config = card.part("denoiser").config
    rest = {key: value for key, value in config.items() if key not in ("adapter", "unet")}
    return CompiledDenoiser(read_settings(DenoiserConfig, rest, "denoiser"), nets, device)
