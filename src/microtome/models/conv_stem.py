"""CTransPath's convolutional stem, in place of the patch embedding of a timm Swin transformer."""

from jaxtyping import Float
from torch import Tensor, nn

from microtome.errors import ConfigError, TileSizeError


class ConvStem(nn.Module):
    """Two strided 3 x 3 convolutions, a 1 x 1 convolution and a layer norm: pixels to a map of tokens, 4 px each.

    Pass it to timm as ``embed_layer``; it takes what timm hands to such a layer and uses what it needs.

    Args:
        img_size: Side of the image, or height and width.
        patch_size: Must be 4, what two strides of 2 give.
        in_chans: Channels of the image.
        embed_dim: Channels of the map; an eighth and a quarter of it come before.
        norm_layer: Makes the last norm; by default a layer norm.
        **others: What else timm hands over, without effect here.

    Raises:
        ConfigError: If ``patch_size`` is not 4.

    References:
        specs encoders, STEM. Current timm wants channels last from this layer.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: type[nn.Module] | None = None,
        **others: object,
    ) -> None:
        super().__init__()
        if patch_size != 4:
            raise ConfigError(f"The convolutional stem gives tokens of 4 px, got patch_size={patch_size}.")
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.img_size = (height, width)
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (height // patch_size, width // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        narrow, middle = embed_dim // 8, embed_dim // 4
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, narrow, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, middle, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, embed_dim, 1),
        )
        self.norm = (norm_layer or nn.LayerNorm)(embed_dim)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b r s d"]:
        """Tokens on their grid, channels last.

        Raises:
            TileSizeError: If the image is not of the size that the network was built for.
        """
        height, width = images.shape[-2:]
        if (height, width) != self.img_size:
            raise TileSizeError(
                f"This network takes images of {self.img_size[1]} x {self.img_size[0]} px, got {width} x {height}."
            )
        tokens: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return tokens
