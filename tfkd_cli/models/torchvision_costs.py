"""What torchvision's classifiers cost: multiply-adds for an image of 224 pixels, and parameters.

From the metadata torchvision gives with its weights (0.29), scaled to 224 where it states another size.
Good for estimates: at another size they are scaled by the number of pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

COUNTED_AT = 224  # pixels
DEPTHWISE = ("mobilenet", "mnasnet", "efficientnet", "shufflenet")
DEPTHWISE_SLOWNESS = 7.0  # measured 5 to 10 at 32 to 224 pixels, one thread of a 2023 server
SLOWNESS = 1.5  # ResNet18: 1.1 at 224 pixels, 2.4 at 32
COSTS: Mapping[str, tuple[int, int]] = {
    name: (int(millions), int(thousands))
    for name, millions, thousands in (
        re.split("[=/]", each)
        for each in """
        alexnet=714/57045 convnext_base=15355/87577 convnext_large=34361/196246
        convnext_small=8684/49462 convnext_tiny=4456/27828 densenet121=2834/6964 densenet161=7728/26494
        densenet169=3360/12501 densenet201=4291/18112 efficientnet_b0=386/4020 efficientnet_b1=598/6526
        efficientnet_b2=658/7715 efficientnet_b3=1019/10712 efficientnet_b4=1527/17567
        efficientnet_b5=2477/28361 efficientnet_b6=3432/40759 efficientnet_b7=5261/63813
        efficientnet_v2_l=12213/117247 efficientnet_v2_m=5353/52871 efficientnet_v2_s=2847/20190
        googlenet=1498/5610 inception_v3=3206/21806 maxvit_t=5558/30413 mnasnet0_5=104/950
        mnasnet0_75=215/1902 mnasnet1_0=314/3115 mnasnet1_3=526/5014 mobilenet_v2=301/2237
        mobilenet_v3_large=217/4215 mobilenet_v3_small=57/1528 regnet_x_16gf=15941/54279
        regnet_x_1_6gf=1603/9190 regnet_x_32gf=31736/107812 regnet_x_3_2gf=3177/15297
        regnet_x_400mf=414/5496 regnet_x_800mf=800/7260 regnet_x_8gf=7995/39573
        regnet_y_128gf=127458/644813 regnet_y_16gf=15912/83590 regnet_y_1_6gf=1612/11202
        regnet_y_32gf=32280/145047 regnet_y_3_2gf=3176/19436 regnet_y_400mf=402/4344
        regnet_y_800mf=834/6433 regnet_y_8gf=8473/39381 resnet101=7801/42521 resnet152=11514/58164
        resnet18=1814/11182 resnet34=3664/21290 resnet50=4089/23529 resnext101_32x8d=16414/86763
        resnext101_64x4d=15460/81427 resnext50_32x4d=4230/23000 shufflenet_v2_x0_5=40/352
        shufflenet_v2_x1_0=145/1264 shufflenet_v2_x1_5=296/2489 shufflenet_v2_x2_0=583/5365
        squeezenet1_0=819/741 squeezenet1_1=349/728 swin_b=15431/86753 swin_s=8741/48845
        swin_t=4491/27527 swin_v2_b=15561/86916 swin_v2_s=8840/48976 swin_v2_t=4548/27590
        vgg11=7609/128807 vgg11_bn=7609/128813 vgg13=11308/128992 vgg13_bn=11308/128998
        vgg16=15470/134302 vgg16_bn=15470/134310 vgg19=19632/139611 vgg19_bn=19632/139622
        vit_b_16=17564/85806 vit_b_32=4409/87463 vit_h_14=190124/630778 vit_l_16=61555/303312
        vit_l_32=15378/305521 wide_resnet101_2=22753/124858 wide_resnet50_2=11398/66855
        """.split()  # noqa: SIM905  a line for each would say no more
    )
}
"""Name → millions of multiply-adds at 224 pixels, thousands of parameters with 10 classes."""
