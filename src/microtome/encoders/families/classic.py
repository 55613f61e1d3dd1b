"""Networks trained on photographs: the yardstick."""

from microtome.encoders.base import Card
from microtome.encoders.published import by_name
from microtome.encoders.zoo import IMAGENET, published, resized, variant

_RESNET50 = published(
    Card(
        name="resnet50",
        dim=2048,
        tile_px=256,
        mpp=(0.5,),
        **resized(224, IMAGENET, "bilinear", crop=224),
        pooling="global average of the last stage",
        repo="timm/resnet50.tv_in1k",
        file="model.safetensors",
        licence="BSD-3-Clause",
        paper="https://arxiv.org/abs/1512.03385",
        citation="He et al., Deep Residual Learning for Image Recognition, CVPR 2016",
        code="https://github.com/pytorch/vision",
        trained_on=("ImageNet-1k",),
        intended_use="Research only: a yardstick, trained on photographs and not on tissue. Not for diagnosis.",
        parameters=23.51,
        variants=("layer3",),
        aliases=("ResNet50",),
        unconfirmed=("licence", "paper", "name of the file"),
    ),
    "resnet50",
)

_TRUNCATED = variant(
    _RESNET50, "layer3", "resnet50-trunc", dim=1024, pooling="global average of the third stage", parameters=8.54
)

ENCODERS = by_name(_RESNET50, _TRUNCATED)
