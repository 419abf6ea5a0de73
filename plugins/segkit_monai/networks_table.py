"""The networks, one row each: MONAI's class, what it is built with, and what its card says.

Left out of `monai.networks.nets`, of what maps a volume to a volume:

- HyenaNDUNETR needs the package nvsubquadratic and DAF3D torchvision, which no extra brings.
- DiNTS needs a searched architecture, arrays that are no option of a card.
- SegResNetVAE is SegResNet beside a loss of its own in training; SegResNetDS2 is the two-headed half of VISTA3D.
- VISTA3D takes prompts. Quicknat works on slices.
- RegUNet, LocalNet, GlobalNet and VoxelMorph register; AutoEncoder, VQVAE, Restormer and the like restore images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from segkit import ModelCard, Reference
from segkit.cards import Options, Size


@dataclass(frozen=True, kw_only=True)
class NetworkRow:
    """A network of MONAI.

    Attributes:
        name: of the card.
        monai: name in `monai.networks.nets`, and the attribute that the card's factory names.
        summary: one line for listings.
        reference: where it was published.
        multiple: of the sides of a patch, in voxels; with an option `levels` it is `2 ** (levels - 1)`.
        options: options of the card.
        arguments: from the options, the keyword arguments of MONAI's class but the numbers of channels.
        patch: default patch in voxels.
        in_channels: as on the card.
        unused: ends of the paths of submodules that feed nothing or only outputs which are dropped: never trained.
        modules: what MONAI needs beside torch to build it.
    """

    name: str
    monai: str
    summary: str
    reference: Reference
    multiple: int
    options: Options = field(default_factory=dict)
    arguments: Callable[..., Mapping[str, Any]] = dict
    patch: Size = (96, 96, 96)
    in_channels: int | None = None
    unused: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()

    def card(self) -> ModelCard:
        """Return the card."""
        return ModelCard(
            name=self.name,
            factory=f"segkit_monai.network:{self.monai}",
            summary=self.summary,
            patch=self.patch,
            multiple=self.multiple,
            in_channels=self.in_channels,
            options=self.options,
            licence="Apache-2.0",
            reference=self.reference,
        )


def _doubled(width: int, levels: int) -> tuple[int, ...]:
    return tuple(width * 2**level for level in range(levels))


def _highres_layers(width: int) -> tuple[dict[str, Any], ...]:
    """Layers of HighResNet at another width than the paper's 16."""
    return (
        {"name": "conv_0", "n_features": width, "kernel_size": 3},
        *({"name": f"res_{i + 1}", "n_features": width * 2**i, "kernels": (3, 3), "repeat": 3} for i in range(3)),
        {"name": "conv_1", "n_features": 5 * width, "kernel_size": 1},
        {"name": "conv_2", "kernel_size": 1},
    )


_SEGRESNET = Reference(
    title="3D MRI Brain Tumor Segmentation Using Autoencoder Regularization",
    year=2019,
    doi="10.1007/978-3-030-11726-9_28",
)
_MEDNEXT = Reference(
    title="MedNeXt: Transformer-Driven Scaling of ConvNets for Medical Image Segmentation",
    year=2023,
    doi="10.1007/978-3-031-43901-8_39",
)


def _mednext(size: str, blocks: str) -> NetworkRow:
    """MONAI fixes the width of the published sizes."""
    return NetworkRow(
        name=f"monai-mednext-{size.lower()}",
        monai=f"MedNeXt{size}",
        summary=f"MedNeXt {size}: U-Net of ConvNeXt blocks, {blocks}",
        reference=_MEDNEXT,
        multiple=16,
        options={"kernel": 3},
        arguments=lambda kernel: {"spatial_dims": 3, "kernel_size": kernel},
    )


_ROWS = (
    NetworkRow(
        name="monai-unet",
        monai="UNet",
        summary="U-Net with residual units and strided convolutions",
        reference=Reference(
            title="Left-Ventricle Quantification Using Residual U-Net", year=2019, doi="10.1007/978-3-030-12029-0_40"
        ),
        multiple=16,
        options={"width": 16, "levels": 5, "residual_units": 2},
        arguments=lambda width, levels, residual_units: {
            "spatial_dims": 3,
            "channels": _doubled(width, levels),
            "strides": (2,) * (levels - 1),
            "num_res_units": residual_units,
        },
    ),
    NetworkRow(
        name="monai-basic-unet",
        monai="BasicUNet",
        summary="U-Net with pairs of convolutions and instance norm",
        reference=Reference(
            title="U-Net: Deep Learning for Cell Counting, Detection, and Morphometry",
            year=2019,
            doi="10.1038/s41592-018-0261-2",
        ),
        multiple=16,
        options={"width": 32},
        arguments=lambda width: {"spatial_dims": 3, "features": (width, *_doubled(width, 4), width)},
    ),
    NetworkRow(
        name="monai-unet-plus-plus",
        monai="BasicUNetPlusPlus",
        summary="UNet++: nested U-Nets with dense skips, its last output",
        reference=Reference(
            title="UNet++: A Nested U-Net Architecture for Medical Image Segmentation",
            year=2018,
            doi="10.1007/978-3-030-00889-5_1",
        ),
        multiple=16,
        options={"width": 32},
        arguments=lambda width: {"spatial_dims": 3, "features": (width, *_doubled(width, 4), width)},
        unused=("final_conv_0_1", "final_conv_0_2", "final_conv_0_3"),
    ),
    NetworkRow(
        name="monai-attention-unet",
        monai="AttentionUnet",
        summary="U-Net with attention gates on its skips",
        reference=Reference(
            title="Attention U-Net: Learning Where to Look for the Pancreas", year=2018, doi="10.48550/arXiv.1804.03999"
        ),
        multiple=16,
        options={"width": 16, "levels": 5},
        arguments=lambda width, levels: {
            "spatial_dims": 3,
            "channels": _doubled(width, levels),
            "strides": (2,) * (levels - 1),
        },
    ),
    NetworkRow(
        name="monai-dynunet",
        monai="DynUNet",
        summary="the U-Net of nnU-Net, without deep supervision",
        reference=Reference(
            title="nnU-Net: a Self-Configuring Method for Deep Learning-Based Biomedical Image Segmentation",
            year=2021,
            doi="10.1038/s41592-020-01008-z",
        ),
        multiple=32,
        options={"width": 32, "levels": 6, "residual": False},
        arguments=lambda width, levels, residual: {
            "spatial_dims": 3,
            "kernel_size": (3,) * levels,
            "strides": (1,) + (2,) * (levels - 1),
            "upsample_kernel_size": (2,) * (levels - 1),
            # nnU-Net's cap of 320 channels, at its width of 32.
            "filters": tuple(min(channels, 10 * width) for channels in _doubled(width, levels)),
            "res_block": residual,
        },
    ),
    NetworkRow(
        name="monai-flexible-unet",
        monai="FlexibleUNet",
        summary="U-Net decoder on a ResNet or EfficientNet encoder; of these resnet18 and resnet34 cannot be exported",
        reference=Reference(
            title="Deep Residual Learning for Image Recognition", year=2016, doi="10.1109/CVPR.2016.90"
        ),
        multiple=32,
        # MONAI's resnet18 and resnet34 pad their shortcuts by way of `.data`, which torch.export does not trace.
        options={"backbone": "resnet10"},
        arguments=lambda backbone: {"spatial_dims": 3, "backbone": backbone},
        unused=("encoder._conv_head", "encoder._bn1", "encoder._fc"),
    ),
    NetworkRow(
        name="monai-segresnet",
        monai="SegResNet",
        summary="residual encoder and light decoder with group norm",
        reference=_SEGRESNET,
        multiple=8,
        options={"width": 8},
        arguments=lambda width: {"spatial_dims": 3, "init_filters": width},
    ),
    NetworkRow(
        name="monai-segresnet-ds",
        monai="SegResNetDS",
        summary="SegResNet with transposed convolutions and batch norm, its main output",
        reference=_SEGRESNET,
        multiple=8,
        options={"width": 32},
        arguments=lambda width: {"spatial_dims": 3, "init_filters": width},
    ),
    NetworkRow(
        name="monai-vnet",
        monai="VNet",
        summary="V-Net; MONAI's takes 1, 2, 4, 8 or 16 modalities, this card 1: for more take vnet",
        reference=Reference(
            title="V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
            year=2016,
            doi="10.1109/3DV.2016.79",
        ),
        multiple=16,
        in_channels=1,
    ),
    NetworkRow(
        name="monai-highresnet",
        monai="HighResNet",
        summary="dilated residual convolutions at full resolution",
        reference=Reference(
            title="On the Compactness, Efficiency, and Representation of 3D Convolutional Networks: "
            "Brain Parcellation as a Pretext Task",
            year=2017,
            doi="10.1007/978-3-319-59050-9_28",
        ),
        multiple=1,
        options={"width": 16},
        arguments=lambda width: {"spatial_dims": 3, "layer_params": _highres_layers(width)},
    ),
    NetworkRow(
        name="monai-ahnet",
        monai="AHNet",
        summary="anisotropic hybrid network: a ResNet in the plane, dense blocks in 3D, two pooled sizes",
        reference=Reference(
            title="3D Anisotropic Hybrid Network: Transferring Convolutional Features from 2D Images to 3D Anisotropic "
            "Volumes",
            year=2018,
            doi="10.1007/978-3-030-00934-2_94",
        ),
        multiple=32,
        # MONAI's default of four pooled sizes would make that 128.
        arguments=lambda: {"spatial_dims": 3, "psp_block_num": 2},
    ),
    _mednext("S", "2 blocks per step"),
    _mednext("B", "2 blocks per step, wider inside"),
    _mednext("M", "3 to 4 blocks per step"),
    _mednext("L", "3 to 8 blocks per step"),
    NetworkRow(
        name="monai-unetr",
        monai="UNETR",
        summary="a vision transformer's layers joined by convolutions; patches must be of its option `size`",
        reference=Reference(
            title="UNETR: Transformers for 3D Medical Image Segmentation", year=2022, doi="10.1109/WACV51458.2022.00181"
        ),
        multiple=16,
        options={"size": "96x96x96", "width": 16, "hidden": 768},
        arguments=lambda size, width, hidden: {
            "img_size": read_size(size),
            "feature_size": width,
            "hidden_size": hidden,
            "mlp_dim": 4 * hidden,
        },
        # Its twelve blocks have a norm for the cross-attention that they do not use.
        unused=("norm_cross_attn",),
        modules=("einops",),
    ),
    NetworkRow(
        name="monai-swinunetr",
        monai="SwinUNETR",
        summary="windowed transformer encoder, convolutional decoder; its width is a multiple of 12",
        reference=Reference(
            title="Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images",
            year=2022,
            doi="10.1007/978-3-031-08999-2_22",
        ),
        multiple=32,
        options={"width": 24, "depth": 2, "window": 7, "v2": False},
        arguments=lambda width, depth, window, v2: {
            "spatial_dims": 3,
            "feature_size": width,
            "depths": (depth,) * 4,
            "window_size": window,
            "use_v2": v2,
        },
        modules=("einops",),
    ),
)

NETWORKS: Mapping[str, NetworkRow] = {row.monai: row for row in _ROWS}
"""By the name of MONAI's class."""


def read_size(text: str) -> Size:
    """Read the option `size`, for example `96x96x96`.

    Raises:
        ValueError: it is no such text.
    """
    x, y, z = (int(side) for side in str(text).split("x"))
    return x, y, z
