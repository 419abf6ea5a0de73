"""The factory; the network itself is theirs."""

from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn


def plain_unet(in_channels: int, classes: int, width: int = 32) -> nn.Module:
    """Four resolutions of two convolutions each, with the settings that nnU-Net plans for 3D images."""
    stages = ([width, 2 * width, 4 * width, 8 * width], nn.Conv3d, 3, [1, 2, 2, 2], 2)
    norm = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
    relu = {"nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}}
    network = PlainConvUNet(in_channels, 4, *stages, classes, 2, conv_bias=True, **norm, **relu)
    for coarse in range(2):  # heads of deep supervision, which nothing would train
        network.decoder.seg_layers[coarse] = nn.Identity()
    return network
