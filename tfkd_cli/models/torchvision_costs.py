"""What torchvision's classifiers cost: millions of multiply-adds for an image of 224 pixels.

From the metadata torchvision gives with its weights (0.29), scaled to 224 where it states another size.
Good for estimates: at another size they are scaled by the number of pixels.
"""

from __future__ import annotations

AT_SIZE = 224
DEPTHWISE = ("mobilenet", "mnasnet", "efficientnet", "shufflenet")
DEPTHWISE_SLOWNESS = 7.0  # measured 5 to 10 at 32 to 224 pixels, one thread of a 2023 server
SLOWNESS = 1.5  # ResNet18: 1.1 at 224 pixels, 2.4 at 32
MILLIONS = {
    name: int(millions)
    for name, millions in (
        each.split("=")
        for each in """
        alexnet=714 convnext_base=15355 convnext_large=34361 convnext_small=8684 convnext_tiny=4456
        densenet121=2834 densenet161=7728 densenet169=3360 densenet201=4291 efficientnet_b0=386
        efficientnet_b1=598 efficientnet_b2=658 efficientnet_b3=1019 efficientnet_b4=1527
        efficientnet_b5=2477 efficientnet_b6=3432 efficientnet_b7=5261 efficientnet_v2_l=12213
        efficientnet_v2_m=5353 efficientnet_v2_s=2847 googlenet=1498 inception_v3=3206 maxvit_t=5558
        mnasnet0_5=104 mnasnet0_75=215 mnasnet1_0=314 mnasnet1_3=526 mobilenet_v2=301 mobilenet_v3_large=217
        mobilenet_v3_small=57 regnet_x_16gf=15941 regnet_x_1_6gf=1603 regnet_x_32gf=31736
        regnet_x_3_2gf=3177 regnet_x_400mf=414 regnet_x_800mf=800 regnet_x_8gf=7995 regnet_y_128gf=127458
        regnet_y_16gf=15912 regnet_y_1_6gf=1612 regnet_y_32gf=32280 regnet_y_3_2gf=3176 regnet_y_400mf=402
        regnet_y_800mf=834 regnet_y_8gf=8473 resnet101=7801 resnet152=11514 resnet18=1814 resnet34=3664
        resnet50=4089 resnext101_32x8d=16414 resnext101_64x4d=15460 resnext50_32x4d=4230
        shufflenet_v2_x0_5=40 shufflenet_v2_x1_0=145 shufflenet_v2_x1_5=296 shufflenet_v2_x2_0=583
        squeezenet1_0=819 squeezenet1_1=349 swin_b=15431 swin_s=8741 swin_t=4491 swin_v2_b=15561
        swin_v2_s=8840 swin_v2_t=4548 vgg11=7609 vgg11_bn=7609 vgg13=11308 vgg13_bn=11308 vgg16=15470
        vgg16_bn=15470 vgg19=19632 vgg19_bn=19632 vit_b_16=17564 vit_b_32=4409 vit_h_14=190124
        vit_l_16=61555 vit_l_32=15378 wide_resnet101_2=22753 wide_resnet50_2=11398
        """.split()  # noqa: SIM905  a line for each would say no more
    )
}


def multiply_adds(name: str, *, size: int) -> int | None:
    """About how many one image of `size` × `size` pixels takes; None for a network that is not listed."""
    millions = MILLIONS.get(name)
    return None if millions is None else round(1e6 * millions * (size / AT_SIZE) ** 2)


def slowness(network: str) -> float:
    """Time per multiply-add against that of our own networks; 1 for those of other libraries."""
    library, _, name = network.partition(":")
    if library != "torchvision":
        return 1.0
    return DEPTHWISE_SLOWNESS if name.startswith(DEPTHWISE) else SLOWNESS
