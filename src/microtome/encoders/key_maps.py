"""Maps between the layouts in which weights are published and the names of our networks.

A map is data: a few steps, each of which knows its inverse, so that a test can write any network in the published
layout and read it back. Names and shapes that do not fit are errors, never warnings: loading is strict.

References:
    specs encoders (M1, M2, M3, Synthetic layouts, Traps), histossl section 1, FastGlioma section 1.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from torch import Tensor

from microtome.encoders.key_steps import (
    Add,
    Drop,
    FoldClassPosition,
    Keep,
    Rename,
    Resample,
    SkipRows,
    Stack,
    State,
    Step,
    Strip,
    Unchunk,
    Unsqueeze,
    Unwrap,
    ZeroBias,
    match,
)
from microtome.errors import WeightsError

StateDict = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class KeyMap:
    """How one published layout and a network's own names correspond.

    Attributes:
        name: What the layout is called.
        steps: From published to ours, in this order.
        mark: Template of a name that a file of this layout has and that tells it from the others of the same
            encoder; inside a wrapper it is ``<wrapper>.<name>``. Empty where every file may be tried.
    """

    name: str
    steps: tuple[Step, ...] = ()
    mark: str = ""

    def recognises(self, published: State) -> bool:
        """Whether the file looks like this layout."""
        inside = (f"{top}.{key}" for top, inner in published.items() if isinstance(inner, Mapping) for key in inner)
        return not self.mark or any(match(self.mark, key) is not None for key in chain(published, inside))

    def load(self, published: State) -> StateDict:
        """Our names and shapes.

        Args:
            published: What the file holds; its tensors are not changed.

        Returns:
            State dict for a strict ``load_state_dict``.

        Raises:
            WeightsError: If something that the map needs is not there, or something is there that it does not know.
        """
        state: State = published
        for step in self.steps:
            state = step.load(state)
        wrong = [key for key, value in state.items() if not isinstance(value, Tensor)]
        if wrong:
            raise WeightsError(
                f"The weights are not a flat table of tensors as layout '{self.name}' has it: {wrong[0]!r} is a "
                f"{type(state[wrong[0]]).__name__}. Pass a file of this layout."
            )
        if not state:
            raise WeightsError(f"The weights hold nothing that layout '{self.name}' takes. Pass a file of this layout.")
        return {key: value for key, value in state.items() if isinstance(value, Tensor)}

    def publish(self, ours: State) -> dict[str, object]:
        """The inverse: our state dict as the file would hold it, without what :meth:`load` leaves out."""
        state: State = ours
        for step in reversed(self.steps):
            state = step.publish(state)
        return dict(state)

    def then(self, *steps: Step) -> "KeyMap":
        """The same map with more steps at the end."""
        return replace(self, steps=(*self.steps, *steps))


def load_layout(published: State, layouts: Sequence[KeyMap], *, encoder: str) -> StateDict:
    """Our state dict from a file in any of an encoder's layouts; the first that recognises it is taken.

    Args:
        published: What the file holds, wrappers included.
        layouts: The encoder's.
        encoder: Its name, for the message.

    Raises:
        WeightsError: If none recognises it, or the one that does cannot read it.
    """
    for layout in layouts:
        if layout.recognises(published):
            return layout.load(published)
    first = ", ".join(repr(key) for key in list(published)[:3])
    names = ", ".join(layout.name for layout in layouts)
    raise WeightsError(
        f"The weights are in none of the layouts of '{encoder}' ({names}): they have {len(published)} entries, among "
        f"them {first}. Pass the published file."
    )


OWN = KeyMap("own-names")
"""The file holds our names, which for a timm network are timm's; nothing more, nothing less."""

_HF_QKV = tuple(f"encoder.layer.{{i}}.attention.attention.{part}.{{p}}" for part in ("query", "key", "value"))

HF_VIT = KeyMap(
    "hf-vit",
    (
        Stack(_HF_QKV, "encoder.layer.{i}.attention.qkv.{p}"),
        Rename(
            (
                ("embeddings.cls_token", "cls_token"),
                ("embeddings.position_embeddings", "pos_embed"),
                ("embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
                ("encoder.layer.{i}.layernorm_before.{p}", "blocks.{i}.norm1.{p}"),
                ("encoder.layer.{i}.attention.qkv.{p}", "blocks.{i}.attn.qkv.{p}"),
                ("encoder.layer.{i}.attention.output.dense.{p}", "blocks.{i}.attn.proj.{p}"),
                ("encoder.layer.{i}.layernorm_after.{p}", "blocks.{i}.norm2.{p}"),
                ("encoder.layer.{i}.intermediate.dense.{p}", "blocks.{i}.mlp.fc1.{p}"),
                ("encoder.layer.{i}.output.dense.{p}", "blocks.{i}.mlp.fc2.{p}"),
                ("layernorm.{p}", "norm.{p}"),
            )
        ),
    ),
    mark="embeddings.cls_token",
)
"""M1: ``ViTModel`` without pooling layer. The names are those of the files, not of any version's modules."""


def _variant(name: str, *, swiglu: bool, registers: bool) -> str:
    return name + "-swiglu" * swiglu + "-registers" * registers


def hf_dinov2(*, swiglu: bool, registers: bool) -> KeyMap:
    """M2: Hugging Face's ``Dinov2Model``, with or without registers.

    Args:
        swiglu: Whether the MLP is gated: ``weights_in`` and ``weights_out`` instead of ``fc1`` and ``fc2``. The first
            half of the stacked layer is the gate, there as in timm.
        registers: Whether there are register tokens; then the class token's position is folded into the class token.
    """
    table = [
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
        ("encoder.layer.{i}.norm1.{p}", "blocks.{i}.norm1.{p}"),
        ("encoder.layer.{i}.attention.qkv.{p}", "blocks.{i}.attn.qkv.{p}"),
        ("encoder.layer.{i}.attention.output.dense.{p}", "blocks.{i}.attn.proj.{p}"),
        ("encoder.layer.{i}.layer_scale1.lambda1", "blocks.{i}.ls1.gamma"),
        ("encoder.layer.{i}.norm2.{p}", "blocks.{i}.norm2.{p}"),
        (f"encoder.layer.{{i}}.mlp.{'weights_in' if swiglu else 'fc1'}.{{p}}", "blocks.{i}.mlp.fc1.{p}"),
        (f"encoder.layer.{{i}}.mlp.{'weights_out' if swiglu else 'fc2'}.{{p}}", "blocks.{i}.mlp.fc2.{p}"),
        ("encoder.layer.{i}.layer_scale2.lambda1", "blocks.{i}.ls2.gamma"),
        ("layernorm.{p}", "norm.{p}"),
    ]
    if registers:
        table.append(("embeddings.register_tokens", "reg_token"))
    return KeyMap(
        _variant("hf-dinov2", swiglu=swiglu, registers=registers),
        (
            Drop(("embeddings.mask_token",)),
            Stack(_HF_QKV, "encoder.layer.{i}.attention.qkv.{p}"),
            Rename(tuple(table)),
            *((FoldClassPosition(),) if registers else ()),
        ),
        mark="embeddings.cls_token",
    )


def dinov2(*, swiglu: bool, registers: bool) -> KeyMap:
    """M3: the names of DINOv2's own code, flat or under ``teacher`` with prefixes, in chunks of blocks or not.

    Args:
        swiglu: Whether the MLP is gated: ``w12`` and ``w3`` instead of ``fc1`` and ``fc2``.
        registers: As in :func:`hf_dinov2`.
    """
    mlp = (("w12", "fc1"), ("w3", "fc2")) if swiglu else (("fc1", "fc1"), ("fc2", "fc2"))
    same = ("norm1", "norm2", "attn.qkv", "attn.proj", "ls1", "ls2")
    table = [
        ("cls_token", "cls_token"),
        ("pos_embed", "pos_embed"),
        ("patch_embed.proj.{p}", "patch_embed.proj.{p}"),
        ("norm.{p}", "norm.{p}"),
        *((f"blocks.{{i}}.{x}.{{p}}", f"blocks.{{i}}.{x}.{{p}}") for x in same),
        *((f"blocks.{{i}}.mlp.{x}.{{p}}", f"blocks.{{i}}.mlp.{y}.{{p}}") for x, y in mlp),
    ]
    if registers:
        table.append(("register_tokens", "reg_token"))
    return KeyMap(
        _variant("dinov2", swiglu=swiglu, registers=registers),
        (
            Unwrap("teacher", optional=True, never=("student",)),
            Strip(("module.", "backbone."), written="backbone."),
            Drop(("mask_token", "dino_head.{rest}", "ibot_head.{rest}", "head.{rest}")),
            Unchunk(),
            Rename(tuple(table)),
            *((FoldClassPosition(),) if registers else ()),
        ),
    )


DINO = KeyMap(
    "dino",
    (
        Unwrap("teacher", optional=True, never=("student",)),
        Strip(("module.", "backbone."), written="backbone."),
        Drop(("head.{rest}",)),
    ),
)
"""DINO and iBOT training checkpoints, always the teacher and never the student; or the backbone written alone."""

CLIP_VISION = KeyMap(
    "clip",
    (
        Drop(("text_model.{rest}", "text_projection.{rest}", "logit_scale", "vision_model.embeddings.position_ids")),
        Stack(
            tuple(f"vision_model.encoder.layers.{{i}}.self_attn.{part}_proj.{{p}}" for part in "qkv"),
            "vision_model.encoder.layers.{i}.self_attn.qkv.{p}",
        ),
        Rename(
            (
                ("vision_model.embeddings.class_embedding", "cls_token"),
                ("vision_model.embeddings.position_embedding.weight", "pos_embed"),
                ("vision_model.embeddings.patch_embedding.weight", "patch_embed.proj.weight"),
                ("vision_model.pre_layrnorm.{p}", "norm_pre.{p}"),  # sic: the published name has the slip
                ("vision_model.encoder.layers.{i}.layer_norm1.{p}", "blocks.{i}.norm1.{p}"),
                ("vision_model.encoder.layers.{i}.self_attn.qkv.{p}", "blocks.{i}.attn.qkv.{p}"),
                ("vision_model.encoder.layers.{i}.self_attn.out_proj.{p}", "blocks.{i}.attn.proj.{p}"),
                ("vision_model.encoder.layers.{i}.layer_norm2.{p}", "blocks.{i}.norm2.{p}"),
                ("vision_model.encoder.layers.{i}.mlp.{rest}", "blocks.{i}.mlp.{rest}"),
                ("vision_model.post_layernorm.{p}", "norm.{p}"),
                ("visual_projection.weight", "head.weight"),
            )
        ),
        Unsqueeze("cls_token", axes=2),
        Unsqueeze("pos_embed", axes=1),
        ZeroBias("head"),
    ),
    mark="vision_model.embeddings.class_embedding",
)
"""PLIP: the image side and its projection."""

_LAYER = "beit3.encoder.layers.{i}"
BEIT3_VISION = KeyMap(
    "beit3",
    (
        Drop(
            (
                "beit3.text_embed.weight",
                "beit3.vision_embed.mask_token",
                "beit3.encoder.embed_positions.B.weight",
                "beit3.encoder.layer_norm.B.{p}",
                *(
                    f"{_LAYER}.{part}.B.{{rest}}"
                    for part in (
                        *(f"self_attn.{x}" for x in ("q_proj", "k_proj", "v_proj", "out_proj", "inner_attn_ln")),
                        *("self_attn_layer_norm", "ffn", "final_layer_norm"),
                    )
                ),
                "vision_head.{rest}",
                "language_head.{rest}",
                "logit_scale",
            )
        ),
        Stack(tuple(f"{_LAYER}.self_attn.{part}_proj.A.{{p}}" for part in "qkv"), f"{_LAYER}.self_attn.qkv.A.{{p}}"),
        Rename(
            (
                ("beit3.vision_embed.cls_token", "cls_token"),
                ("beit3.vision_embed.proj.{p}", "patch_embed.proj.{p}"),
                ("beit3.encoder.embed_positions.A.weight", "pos_embed"),
                (f"{_LAYER}.self_attn_layer_norm.A.{{p}}", "blocks.{i}.norm1.{p}"),
                (f"{_LAYER}.self_attn.qkv.A.{{p}}", "blocks.{i}.attn.qkv.{p}"),
                (f"{_LAYER}.self_attn.inner_attn_ln.A.{{p}}", "blocks.{i}.attn.norm.{p}"),
                (f"{_LAYER}.self_attn.out_proj.A.{{p}}", "blocks.{i}.attn.proj.{p}"),
                (f"{_LAYER}.final_layer_norm.A.{{p}}", "blocks.{i}.norm2.{p}"),
                (f"{_LAYER}.ffn.A.ffn_layernorm.{{p}}", "blocks.{i}.mlp.norm.{p}"),
                (f"{_LAYER}.ffn.A.{{p}}.{{rest}}", "blocks.{i}.mlp.{p}.{rest}"),
                ("beit3.encoder.layer_norm.A.{p}", "norm.{p}"),
            )
        ),
        SkipRows("pos_embed", rows=2),
        Unsqueeze("pos_embed", axes=1),
    ),
    mark="beit3.vision_embed.cls_token",
)
"""MUSK: branch A sees images; two rows of its position table are never read."""

CTRANSPATH = KeyMap(
    "ctranspath",
    (
        Unwrap("model"),
        Drop(
            (
                "layers.{i}.blocks.{j}.attn_mask",
                "layers.{i}.blocks.{j}.attn.relative_position_index",
                "head.{rest}",
            )
        ),
        # The older code ends a stage with its downsampling, the current one begins the next stage with it.
        Rename(
            (
                ("layers.0.downsample.{rest}", "layers.1.downsample.{rest}"),
                ("layers.1.downsample.{rest}", "layers.2.downsample.{rest}"),
                ("layers.2.downsample.{rest}", "layers.3.downsample.{rest}"),
                ("layers.{i}.blocks.{rest}", "layers.{i}.blocks.{rest}"),
                ("patch_embed.{rest}", "patch_embed.{rest}"),
                ("norm.{p}", "norm.{p}"),
            )
        ),
    ),
    mark="model",
)
"""timm 0.5's Swin transformer with a convolutional stem, under ``model``."""

TORCHVISION_RESNET = KeyMap("torchvision-resnet", (Drop(("fc.{p}",)),))
"""torchvision's names, which are also timm's; the classifier is left out."""

TORCHVISION_RESNET_TO_LAYER3 = KeyMap("torchvision-resnet-to-layer3", (Drop(("fc.{p}", "layer4.{rest}")),))
"""The same for a network that ends after its third stage."""

LIGHTNING = KeyMap("lightning", (Unwrap("state_dict"),), mark="state_dict")
"""Lightning's checkpoint around our names."""

CONCH_V1 = KeyMap(
    "conch",
    (
        Unwrap("state_dict", optional=True),
        Strip(("module.",), written=""),
        Keep(("visual.trunk.", "visual.attn_pool_contrast.", "visual.ln_contrast.")),
        Strip(("visual.",), written="visual."),
    ),
)
"""The image side of CONCH: trunk, contrastive pooler, its norm; text, caption pooler and projections stay behind."""

KEEP = KeyMap("keep", (Drop(("text.{rest}", "logit_scale")),), mark="visual.cls_token")
"""KEEP's image side and its head."""

FASTGLIOMA_PATCHES = KeyMap(
    "fastglioma",
    (Unwrap("state_dict"), Keep(("model.backbone.",)), Strip(("model.backbone.",), written="model.backbone.")),
    mark="state_dict.model.backbone.conv1.weight",
)
"""The patch encoder inside a published FastGlioma checkpoint."""

HIDISC_PATCHES = KeyMap(
    "hidisc",
    (Unwrap("state_dict"), Keep(("model.bb.",)), Strip(("model.bb.",), written="model.bb.")),
    mark="state_dict.model.bb.conv1.weight",
)
"""The patch encoder in the checkpoint of its own training, where it has another name."""


FASTGLIOMA_SLIDE = KeyMap(
    "fastglioma-slide",
    (
        Unwrap("state_dict"),
        Keep(("model.bb.mil.", "model.head.")),
        Rename((("model.bb.mil.{rest}", "slide.{rest}"), ("model.head.{rest}", "head.{rest}"))),
    ),
    mark="state_dict.model.bb.mil.cls_token",
)
"""FastGlioma's slide transformer and score head, from the published checkpoint or from that of its own training."""

CHIEF_SLIDE = KeyMap(
    "chief",
    (
        Drop(
            (
                "organ_embedding",
                "classifiers.{rest}",
                "instance_classifiers.{rest}",
                "att_head.{rest}",
                "text_to_vision.{rest}",
            )
        ),
    ),
    mark="attention_net.0.weight",
)
"""CHIEF's gated attention; sites, classifiers and text do not touch the vector."""

FEATHER_SLIDE = KeyMap(
    "feather",
    (Keep(("model.patch_embed.", "model.global_attn.")), Strip(("model.",), written="model.")),
    mark="model.global_attn.attention_c.weight",
)
"""FEATHER's projection and attention; its classifier stays behind."""

MIDNIGHT = replace(
    hf_dinov2(swiglu=True, registers=False).then(Resample("hf_dinov2", (16, 16), n_prefix=1), Add("trunk.")),
    name="midnight",
)
"""M2 whose position table, if it is stored for 518 px, is brought to 224 px once by the rule of its source."""

CONCH_V1_5 = KeyMap("conch-v1.5", (Resample("conch_v1_5", (28, 28), n_prefix=1, key="trunk.pos_embed"),))
"""Our names; the position table goes through 14 x 14 to 28 x 28, as upstream, whatever its stored size."""

KEY_MAPS: dict[str, KeyMap] = {
    layout.name: layout
    for layout in (
        *(OWN, HF_VIT, CLIP_VISION, BEIT3_VISION, CTRANSPATH, CONCH_V1, CONCH_V1_5, KEEP, MIDNIGHT),
        *(hf_dinov2(swiglu=s, registers=r) for s in (False, True) for r in (False, True)),
        *(dinov2(swiglu=s, registers=r) for s in (False, True) for r in (False, True)),
        *(DINO, TORCHVISION_RESNET, TORCHVISION_RESNET_TO_LAYER3, LIGHTNING),
        *(FASTGLIOMA_PATCHES, HIDISC_PATCHES, FASTGLIOMA_SLIDE, CHIEF_SLIDE, FEATHER_SLIDE),
        *(replace(layout.then(Add("trunk.")), name=f"{layout.name}/trunk") for layout in (OWN, BEIT3_VISION)),
    )
}
"""Every layout by name; ``<name>/trunk`` is for a network that a head holds under ``trunk``."""
