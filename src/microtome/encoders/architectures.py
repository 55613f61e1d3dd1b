"""The network of every published encoder: how it is built, how its output is pooled, in which layouts its files come.

Needs no torch until a network is built, so that cards are quick to import. Weights are loaded strictly into what is
built here; what decides the result and no state dict says (gates, activations, epsilons, registers) is said here.

Left out: Path Foundation is published for TensorFlow only; TITAN and PRISM only as code that the hub runs.

References:
    specs encoders, the two tables and Traps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from microtome.encoders.published import timm_network

if TYPE_CHECKING:
    from torch import nn

Build = Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The network of one published encoder.

    Attributes:
        build: Makes it without weights, a ``torch.nn.Module`` from normalised images (n, 3, h, w) to (n, dim).
        dim: Length of the vector.
        layout_names: Of its files, in :data:`microtome.encoders.key_maps.KEY_MAPS`; the first that fits is taken.
            ``own-names`` alone says that the file has the network's own names and nothing else.
    """

    build: Build
    dim: int
    layout_names: tuple[str, ...] = ("own-names",)

    def layouts(self) -> tuple[Any, ...]:
        """The layouts of its files, each a :class:`microtome.encoders.key_maps.KeyMap`."""
        from microtome.encoders.key_maps import KEY_MAPS

        return tuple(KEY_MAPS[name] for name in self.layout_names)


def pooled(trunk: Build, pooling: str, *, n_registers: int = 0) -> "nn.Module":
    """A ViT that gives all tokens, and how they become one vector."""
    from microtome.models.feature_heads import TokenFeatures

    return TokenFeatures(trunk(), pooling, n_registers=n_registers)


def dino_vit(dim: int, depth: int, n_heads: int, *, eps: float = 1e-6) -> "nn.Module":
    """A ViT with patches of 16 px whose positions stretch by DINO's rule."""
    from microtome.models.vit import DinoViT

    return DinoViT(dim, depth=depth, n_heads=n_heads, eps=eps)


def conch(**trunk: object) -> "nn.Module":
    """CONCH's image side at 448 px: a ViT-B/16, its pooler, its norm.

    Args:
        **trunk: Further arguments of the trunk's constructor.
    """
    from microtome.models.conch import AttentionPooler, ConchFeatures

    arguments: dict[str, object] = {"img_size": 448, "global_pool": "", **trunk}
    return ConchFeatures(timm_network("vit_base_patch16_224", **arguments)(), AttentionPooler(768, 512), 512)


def conch_v1_5(**trunk: object) -> "nn.Module":
    """CONCH v1.5 at 448 px: a ViT-L/16 with layer scale, its pooler, its norm.

    Args:
        **trunk: Further arguments of the trunk's constructor.
    """
    from microtome.models.conch import ConchFeatures, PerceiverPooler

    arguments: dict[str, object] = {"img_size": 448, "global_pool": "", "init_values": 1.0, **trunk}
    return ConchFeatures(timm_network("vit_large_patch16_224", **arguments)(), PerceiverPooler(1024, 768), 768)


def ctranspath() -> "nn.Module":
    """A Swin transformer behind a convolutional stem."""
    from microtome.models.conv_stem import ConvStem

    return timm_network("swin_tiny_patch4_window7_224", embed_layer=ConvStem)()


def keep(**trunk: object) -> "nn.Module":
    """UNI's network, a two-layer head, vectors of length one."""
    from microtome.models.feature_heads import ProjectedFeatures

    network = timm_network("vit_large_patch16_224", init_values=1e-5, dynamic_img_size=True, **trunk)()
    return ProjectedFeatures(network, 1024, 768)


def truncated_resnet50() -> "nn.Module":
    """ResNet-50 up to its third stage, averaged."""
    from torch import nn

    network = timm_network("resnet50")()
    network.layer4 = nn.Identity()
    return network


def musk(*, multi_scale: bool = False, **trunk: object) -> "nn.Module":
    """MUSK's image side at 384 px; with ``multi_scale`` its vector beside the mean vector of enlarged quarters."""
    from microtome.models.feature_heads import MultiScaleFeatures

    arguments: dict[str, object] = {"img_size": 384, "global_pool": "token", **trunk}
    network = timm_network("beit3_large_patch16_224", **arguments)()
    return MultiScaleFeatures(network) if multi_scale else network


def histoencoder(architecture: str, *, num_blocks: int = 1, avg_pool: bool = False) -> "nn.Module":
    """HistoEncoder's XCiT with its own feature rule; see :class:`microtome.models.feature_heads.XcitFeatures`."""
    from microtome.models.feature_heads import XcitFeatures

    return XcitFeatures(timm_network(architecture)(), num_blocks=num_blocks, avg_pool=avg_pool)


def srh_patches(channels: int) -> "nn.Module":
    """FastGlioma's patch encoder; what stands before it is :class:`microtome.models.srh.SrhInput`."""
    from microtome.models.srh import srh_resnet34

    return srh_resnet34(channels)


def hipt_region() -> "nn.Module":
    """HIPT's two levels; its two files are those of ``hipt-vit256`` and ``hipt-vit4k``."""
    from microtome.models.vit4k import RegionEncoder

    return RegionEncoder(dino_vit(384, 12, 6), hipt_grid())


def hipt_grid() -> "nn.Module":
    """HIPT's upper level alone: a grid of vectors to one."""
    from microtome.models.vit4k import GridViT

    return GridViT()


def chief() -> "nn.Module":
    """CHIEF's slide encoder."""
    from microtome.models.slide_encoders import Chief

    return Chief()


def feather(in_dim: int) -> "nn.Module":
    """FEATHER's slide encoder for tile vectors of a length."""
    from microtome.models.slide_encoders import Feather

    return Feather(in_dim)


# timm's SwiGLU is packed, its gate first. Without the activation it would be a GELU gate that loads without a word.
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
_SCALED = {"init_values": 1e-5}
"""Layer scale is there only if a value is given; which does not matter once weights are loaded."""

_DINO = ("dino",)
_RESNET50 = Architecture(build=timm_network("resnet50"), dim=2048, layout_names=("torchvision-resnet",))
_VIT_S16 = Architecture(build=timm_network("vit_small_patch16_224", dynamic_img_size=True), dim=384)
_VIT_S8 = Architecture(build=timm_network("vit_small_patch8_224", dynamic_img_size=True), dim=384)
_VIT_L16 = Architecture(
    build=timm_network("vit_large_patch16_224", dynamic_img_size=True, **_SCALED),
    dim=1024,
)
_H_OPTIMUS = Architecture(
    build=timm_network("vit_giant_patch14_reg4_dinov2", img_size=224, global_pool="token", **_SCALED), dim=1536
)
_CTRANSPATH = Architecture(build=ctranspath, dim=768, layout_names=("ctranspath",))


_VIRCHOW = partial(timm_network, "vit_huge_patch14_224", mlp_ratio=5.3375, global_pool="", **_SWIGLU, **_SCALED)
_H0_MINI = timm_network(
    "vit_base_patch14_reg4_dinov2", img_size=224, mlp_ratio=5.33334, global_pool="", **_SWIGLU, **_SCALED
)
_MIDNIGHT = timm_network("vit_giant_patch14_dinov2", img_size=224, global_pool="")
_IN_TRUNK = ("own-names/trunk",)

ARCHITECTURES: dict[str, Architecture] = {
    "resnet50-trunc": Architecture(build=truncated_resnet50, dim=1024, layout_names=("torchvision-resnet-to-layer3",)),
    "resnet50": _RESNET50,
    # Hugging Face's Phikon normalises with eps 1e-12, the same weights' own file with 1e-6.
    "phikon": Architecture(build=partial(dino_vit, 768, 12, 12, eps=1e-12), dim=768, layout_names=("hf-vit",)),
    "phikon-ibot": Architecture(build=partial(dino_vit, 768, 12, 12), dim=768, layout_names=_DINO),
    "phikon-v2": Architecture(
        build=timm_network("vit_large_patch16_224", **_SCALED), dim=1024, layout_names=("hf-dinov2",)
    ),
    "uni": _VIT_L16,
    "uni2-h": Architecture(
        build=timm_network(
            "vit_giant_patch14_224",
            img_size=224,
            patch_size=14,
            depth=24,
            num_heads=24,
            embed_dim=1536,
            mlp_ratio=5.33334,
            no_embed_class=True,
            reg_tokens=8,
            dynamic_img_size=True,
            **_SWIGLU,
            **_SCALED,
        ),
        dim=1536,
    ),
    "conch": Architecture(build=conch, dim=512, layout_names=("conch",)),
    "conch-v1.5": Architecture(build=conch_v1_5, dim=768, layout_names=("conch-v1.5",)),
    "virchow": Architecture(
        build=partial(pooled, _VIRCHOW(dynamic_img_size=True), "cls+mean"), dim=2560, layout_names=_IN_TRUNK
    ),
    "virchow2": Architecture(
        build=partial(pooled, _VIRCHOW(dynamic_img_size=True, reg_tokens=4), "cls+mean", n_registers=4),
        dim=2560,
        layout_names=_IN_TRUNK,
    ),
    # The name says 14, the patches are of 16 px. SwiGLU and layer scale are timm's own for it.
    "gigapath": Architecture(build=timm_network("vit_giant_patch14_dinov2", img_size=224, patch_size=16), dim=1536),
    "h-optimus-0": _H_OPTIMUS,
    "h-optimus-1": _H_OPTIMUS,
    "h0-mini": Architecture(
        build=partial(pooled, _H0_MINI, "cls+mean", n_registers=4), dim=1536, layout_names=_IN_TRUNK
    ),
    "h0-mini-cls": Architecture(build=partial(pooled, _H0_MINI, "cls"), dim=768, layout_names=_IN_TRUNK),
    "hibou-b": Architecture(
        build=timm_network("vit_base_patch14_reg4_dinov2", img_size=224, mlp_ratio=5.33334, **_SWIGLU),
        dim=768,
        layout_names=("hf-dinov2-swiglu-registers", "dinov2-swiglu-registers"),
    ),
    "hibou-l": Architecture(
        build=timm_network("vit_large_patch14_reg4_dinov2", img_size=224, mlp_ratio=5.34375, **_SWIGLU),
        dim=1024,
        layout_names=("hf-dinov2-swiglu-registers", "dinov2-swiglu-registers"),
    ),
    "midnight-12k": Architecture(build=partial(pooled, _MIDNIGHT, "cls+mean"), dim=3072, layout_names=("midnight",)),
    "midnight-12k-cls": Architecture(build=partial(pooled, _MIDNIGHT, "cls"), dim=1536, layout_names=("midnight",)),
    "kaiko-s8": _VIT_S8,
    "kaiko-s16": _VIT_S16,
    "kaiko-b8": Architecture(build=timm_network("vit_base_patch8_224", dynamic_img_size=True), dim=768),
    "kaiko-b16": Architecture(build=timm_network("vit_base_patch16_224", dynamic_img_size=True), dim=768),
    # Its table is that of 518 px; timm brings it to the tile's grid.
    "kaiko-l14": Architecture(build=timm_network("vit_large_patch14_reg4_dinov2", dynamic_img_size=True), dim=1024),
    "lunit-s8": _VIT_S8,
    "lunit-s16": _VIT_S16,
    "lunit-bt": _RESNET50,
    "lunit-mocov2": _RESNET50,
    "lunit-swav": _RESNET50,
    "ctranspath": _CTRANSPATH,
    "chief-ctranspath": _CTRANSPATH,
    "retccl": _RESNET50,
    "gpfm": Architecture(
        build=timm_network("vit_large_patch14_dinov2", img_size=224, dynamic_img_size=True, **_SCALED),
        dim=1024,
        layout_names=("dinov2",),
    ),
    "musk": Architecture(build=musk, dim=1024, layout_names=("beit3",)),
    "musk-ms-aug": Architecture(build=partial(musk, multi_scale=True), dim=2048, layout_names=("beit3/trunk",)),
    "keep": Architecture(build=keep, dim=768, layout_names=("keep",)),
    # QuickGELU, norm before the blocks and eps 1e-5 are in timm's name.
    "plip": Architecture(
        build=timm_network("vit_base_patch32_clip_quickgelu_224", num_classes=512), dim=512, layout_names=("clip",)
    ),
    "hipt-vit256": Architecture(build=partial(dino_vit, 384, 12, 6), dim=384, layout_names=_DINO),
    "dino-brca": Architecture(build=partial(dino_vit, 384, 12, 6), dim=384, layout_names=_DINO),
    "histoencoder-small": Architecture(
        build=partial(histoencoder, "xcit_small_12_p16_224"), dim=384, layout_names=_IN_TRUNK
    ),
    "histoencoder-medium": Architecture(
        build=partial(histoencoder, "xcit_medium_24_p16_224"), dim=512, layout_names=_IN_TRUNK
    ),
    "fastglioma-highres": Architecture(build=partial(srh_patches, 3), dim=512, layout_names=("fastglioma", "hidisc")),
    "fastglioma-lowres": Architecture(build=partial(srh_patches, 1), dim=512, layout_names=("fastglioma", "hidisc")),
    # eps 1e-6 is that of the .ckpt; its hub route falls back to 1e-5.
    "exaonepath": Architecture(build=partial(dino_vit, 768, 12, 12), dim=768, layout_names=("lightning", "own-names")),
}
"""Networks of tile encoders by name."""

GRID_ARCHITECTURES: dict[str, Architecture] = {
    "hipt-vit4k": Architecture(build=hipt_grid, dim=192, layout_names=_DINO),
}
"""Networks that take a grid of a tile encoder's vectors, (n, d, rows, columns), by name."""

BAG_ARCHITECTURES: dict[str, Architecture] = {
    "chief": Architecture(build=chief, dim=768, layout_names=("chief",)),
    "feather-conch-v1.5": Architecture(build=partial(feather, 768), dim=512, layout_names=("feather",)),
    "feather-uni": Architecture(build=partial(feather, 1024), dim=512, layout_names=("feather",)),
    "feather-uni2-h": Architecture(build=partial(feather, 1536), dim=512, layout_names=("feather",)),
}
"""Networks that take a bag of a tile encoder's vectors, (b, n, d), and a mask, by name."""
