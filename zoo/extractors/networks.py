"""Residual networks with bottlenecks, in the three forms that published extractors have.

The forms share parameter names and shapes, so weights of one load into another and give other features: what differs is
where the stride lies, which layers dilate instead, and whether convolutions have a bias.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

BLOCKS = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
# Keeps the z-score of a volume without contrast finite.
ZSCORE_EPS = 1e-8
# Kernel of the first convolution, for 2-D and 3-D alike.
STEM = 7


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut (He et al. 2016)."""

    def __init__(
        self,
        conv: type[nn.Module],
        norm: Callable[[int], nn.Module],
        in_channels: int,
        width: int,
        *,
        stride: int,
        dilation: int,
        bias: bool,
        stride_first: bool,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_first else (1, stride)
        self.conv1 = conv(in_channels, width, 1, stride=first, bias=bias)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, stride=second, padding=dilation, dilation=dilation, bias=bias)
        self.bn2 = norm(width)
        self.conv3 = conv(width, EXPANSION * width, 1, bias=bias)
        self.bn3 = norm(EXPANSION * width)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != EXPANSION * width:
            shortcut = conv(in_channels, EXPANSION * width, 1, stride=stride, bias=bias)
            self.downsample = nn.Sequential(shortcut, norm(EXPANSION * width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in, ...] to [B, 4 width, ...]."""
        h = torch.relu(self.bn1(self.conv1(x)))
        h = torch.relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(h))
        return torch.relu(h + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """A ResNet-50 without its last layer: image [B, C, ...] to features [B, 2048].

    Args:
        axes: 2 or 3 spatial axes.
        in_channels: Channels of the image.
        strides: Stride of each of the four layers.
        dilations: Dilation of each layer's 3x3 convolutions.
        bias: Whether convolutions have one.
        stride_first: Whether a block's stride lies in its first 1x1 convolution instead of the 3x3 one.
        norm_eps: Added to variances.
    """

    def __init__(
        self,
        axes: int,
        in_channels: int,
        *,
        strides: tuple[int, ...] = (1, 2, 2, 2),
        dilations: tuple[int, ...] = (1, 1, 1, 1),
        bias: bool = False,
        stride_first: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        conv = nn.Conv3d if axes == 3 else nn.Conv2d
        kind = nn.BatchNorm3d if axes == 3 else nn.BatchNorm2d

        def norm(width: int) -> nn.Module:
            return kind(width, eps=norm_eps)

        self.conv1 = conv(in_channels, 64, STEM, stride=2, padding=STEM // 2, bias=bias)
        self.bn1 = norm(64)
        self.maxpool = (nn.MaxPool3d if axes == 3 else nn.MaxPool2d)(3, stride=2, padding=1)
        channels = 64
        for number, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
            blocks = []
            for index in range(count):
                stride = strides[number] if index == 0 else 1
                blocks.append(
                    Bottleneck(
                        conv, norm, channels, width, stride=stride, dilation=dilations[number], bias=bias,
                        stride_first=stride_first,
                    )
                )  # fmt: skip
                channels = EXPANSION * width
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))

    def feature_map(self, x: Tensor) -> Tensor:
        """The last layer's output, [B, 2048, ...]."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for number in range(len(BLOCKS)):
            x = self.get_submodule(f"layer{number + 1}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Global means of the feature map, [B, 2048]."""
        return self.feature_map(x).flatten(2).mean(2)


def medicalnet() -> ResNet50:
    """MedicalNet's 3-D ResNet-50: its last two layers dilate by 2 and 4 instead of striding, so the stride stays 8.

    Source: Chen, Ma and Zheng 2019, "Med3D: transfer learning for 3D medical image analysis".
    """
    return ResNet50(3, 1, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))


def radimagenet_keras() -> ResNet50:
    """RadImageNet's ResNet-50 as Keras builds it: biases, strides in the first convolution, eps 1.001e-5."""
    return ResNet50(2, 3, bias=True, stride_first=True, norm_eps=1.001e-5)


def radimagenet_torch() -> ResNet50:
    """RadImageNet's ResNet-50 of the PyTorch release."""
    return ResNet50(2, 3)


def zscore_volume(x: Tensor) -> Tensor:
    """Volumes [B, X, Y, Z] at mean 0 and standard deviation 1, [B, 1, X, Y, Z]."""
    flat = x.flatten(1)
    shape = (-1, 1, 1, 1)
    deviation = flat.std(1, correction=0) + ZSCORE_EPS
    return ((x - flat.mean(1).view(shape)) / deviation.view(shape))[:, None]


def centre_bgr(x: Tensor) -> Tensor:
    """Slices [B, H, W] in 0..1 as three channels blue, green, red, less their means .406, .456, .485."""
    means = torch.tensor((0.406, 0.456, 0.485), dtype=x.dtype, device=x.device)
    return x[:, None] - means[:, None, None]


def symmetric_bgr(x: Tensor) -> Tensor:
    """Slices [B, H, W] in 0..1 as three equal channels in -1..1: (v - 127.5) * 2 / 255 of a grey level v."""
    return (2.0 * x - 1.0)[:, None].expand(-1, 3, -1, -1)


def _same(key: str) -> str:
    return key


def _torch_release(key: str) -> str:
    """The release holds the network as a list: backbone.0 is its first convolution, backbone.4 its first layer."""
    names = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    number, _, rest = key.removeprefix("backbone.").partition(".")
    return f"{names[number]}.{rest}" if number in names else f"fc.{key}"


Architecture = tuple[Callable[[], ResNet50], Callable[[str], str], Callable[[Tensor], Tensor]]

ARCHITECTURES: dict[str, Architecture] = {
    "medicalnet_resnet50": (medicalnet, _same, zscore_volume),
    "radimagenet_resnet50_keras": (radimagenet_keras, _same, centre_bgr),
    "radimagenet_resnet50_torch": (radimagenet_torch, _torch_release, symmetric_bgr),
}
