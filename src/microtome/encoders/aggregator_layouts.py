"""Layouts in which weights of aggregators are published, and the names of ours.

References:
    specs histossl section 3 and corrections, CLAM section 5, HIPT section 4.
"""

from microtome.encoders.key_maps import OWN, KeyMap
from microtome.encoders.key_steps import Drop, Rename, Strip

_MLP = ("mlp.{rest}", "mlp.{rest}")


def _tile_mlp(theirs: str, ours: str, n_hidden: int) -> tuple[tuple[str, str], ...]:
    """HistoSSL's layers of instances: number 2 j is hidden layer j, the last number is the output's."""
    hidden = ((f"{theirs}.hidden_layers.{2 * j}.{{p}}", f"{ours}.{j}.0.{{p}}") for j in range(n_hidden))
    return (*hidden, (f"{theirs}.hidden_layers.{2 * n_hidden}.{{p}}", f"{ours}.{n_hidden}.{{p}}"))


def histossl_chowder(n_hidden: int = 1) -> KeyMap:
    """HistoSSLscaling's Chowder.

    Args:
        n_hidden: Number of hidden layers of the scorer.
    """
    table = (*_tile_mlp("score_model", "score", n_hidden), _MLP)
    return KeyMap(
        f"histossl-chowder-{n_hidden}", (Rename(table),), mark=f"score_model.hidden_layers.{2 * n_hidden}.weight"
    )


HISTOSSL_ABMIL = KeyMap(
    "histossl-abmil",
    (
        Rename(
            (
                ("tiles_emb.hidden_layers.0.{p}", "project.{p}"),
                ("attention_layer.att.{p}", "attention.attention_a.0.{p}"),
                ("attention_layer.gate.{p}", "attention.attention_b.0.{p}"),
                ("attention_layer.w.{p}", "attention.attention_c.{p}"),
                _MLP,
            )
        ),
    ),
    mark="attention_layer.gate.weight",
)


def histossl_dsmil(n_hidden: int = 2) -> KeyMap:
    """HistoSSLscaling's DSMIL.

    Args:
        n_hidden: Number of hidden layers of scores and queries.
    """
    table = (
        *_tile_mlp("tiles_scores", "scores", n_hidden),
        *_tile_mlp("tiles_queries", "queries", n_hidden),
        ("tiles_values.hidden_layers.0.{p}", "values.{p}"),
        _MLP,
    )
    return KeyMap(
        f"histossl-dsmil-{n_hidden}", (Rename(table),), mark=f"tiles_queries.hidden_layers.{2 * n_hidden}.weight"
    )


def _blocks(first: str, second: str, attention: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        pair
        for i, block in enumerate((first, second))
        for pair in (
            (f"{block}.norm.{{p}}", f"blocks.{i}.norm.{{p}}"),
            (f"{block}.{attention}.{{rest}}", f"blocks.{i}.attention.{{rest}}"),
        )
    )


_TOKENS = (("cls_token", "cls_token"), ("norm.{p}", "norm.{p}"))


def _histossl_transmil(name: str, *attention: tuple[str, str]) -> KeyMap:
    """HistoSSLscaling's TransMIL; ``attention`` says how the names inside its attention correspond."""
    blocks = (
        pair
        for i, block in enumerate(("cor", "agg"))
        for pair in (
            (f"{block}.norm1.{{p}}", f"blocks.{i}.norm.{{p}}"),
            *((f"{block}.attn.{theirs}", f"blocks.{i}.attention.{ours}") for theirs, ours in attention),
        )
    )
    convs = ((f"pos_enc.group_conv{i + 1}.{{p}}", f"positions.convs.{i}.{{p}}") for i in range(3))
    table = (*_TOKENS, *blocks, *convs, ("proj.0.{p}", "project.0.{p}"), ("head.{p}", "head.{p}"))
    return KeyMap(name, (Rename(table),), mark=f"cor.attn.{attention[0][0]}")


HISTOSSL_TRANSMIL = _histossl_transmil("histossl-transmil", ("qkv.{p}", "to_qkv.{p}"), ("proj.{p}", "to_out.0.{p}"))
"""With exact attention."""

HISTOSSL_TRANSMIL_NYSTROM = _histossl_transmil(
    "histossl-transmil-nystrom", *((part, part) for part in ("to_qkv.{p}", "to_out.0.{p}", "res_conv.{p}"))
)
"""With Nyström attention, which keeps the last rows."""

# 7 x 7, 5 x 5 and 3 x 3 there, the smallest first here.
_DEPTHWISE = tuple(
    (f"pos_layer.{x}.{{p}}", f"positions.convs.{i}.{{p}}") for i, x in enumerate(("proj2", "proj1", "proj"))
)

TRANSMIL = KeyMap(
    "transmil",
    (
        Rename(
            (
                *_TOKENS,
                *_DEPTHWISE,
                *_blocks("layer1", "layer2", "attn"),
                ("_fc1.0.{p}", "project.0.{p}"),
                ("_fc2.{p}", "head.{p}"),
            )
        ),
    ),
    mark="_fc2.weight",
)
"""The authors' TransMIL. Which rows its attention keeps is not in the file."""

MILLAB_TRANSMIL = KeyMap(
    "millab-transmil",
    (
        Strip(("model.",), written="model."),
        Rename(
            (
                *_TOKENS,
                *_DEPTHWISE,
                *_blocks("blocks.0", "blocks.1", "attention"),
                ("patch_embed.0.{p}", "project.0.{p}"),
                ("classifier.{p}", "head.{p}"),
            )
        ),
    ),
    mark="model.pos_layer.proj.weight",
)
"""MIL-Lab's TransMIL in its packaged model."""


def _original_dsmil(*, deep_queries: bool) -> KeyMap:
    queries = "b_classifier.q.{rest}"
    return KeyMap(
        f"dsmil-{'deep' if deep_queries else 'linear'}-queries",
        (
            Rename(
                (
                    ("i_classifier.fc.0.{p}", "scores.{p}"),
                    (queries, "queries.{rest}") if deep_queries else (queries, "queries.0.{rest}"),
                    ("b_classifier.v.1.{p}", "values.1.{p}"),
                    ("b_classifier.fcc.{p}", "head.{p}"),
                )
            ),
        ),
        mark="b_classifier.q.0.weight" if deep_queries else "b_classifier.q.weight",
    )


DSMIL = tuple(_original_dsmil(deep_queries=deep) for deep in (True, False))
"""The authors' DSMIL, by the layers of its queries."""

MILLAB_DSMIL = KeyMap(
    "millab-dsmil",
    (
        Strip(("model.",), written="model."),
        Drop(("b_classifier.fcc.{p}",)),
        Rename(
            (
                ("patch_embed.0.{p}", "project.0.{p}"),
                ("i_classifier.inst_classifier.{p}", "scores.{p}"),
                ("b_classifier.q.{p}", "queries.{p}"),
                ("b_classifier.v.1.{p}", "values.{p}"),
                ("b_classifier.norm.{p}", "norm.{p}"),
                ("classifier.{p}", "head.{p}"),
            )
        ),
    ),
    mark="model.i_classifier.inst_classifier.weight",
)
"""MIL-Lab's DSMIL in its packaged model, without the head that it never uses."""


def _hipt_stage(prefix: str, pool: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"{prefix}phi.0.{{p}}", "phi.0.{p}"),
        (f"{prefix}transformer.layers.{{rest}}", "layers.{rest}"),
        (f"{prefix}{pool}.{{rest}}", "attention.{rest}"),
        (f"{prefix}rho.0.{{p}}", "rho.0.{p}"),
        ("classifier.{p}", "classifier.{p}"),
    )


HISTOSSL_HIPTMIL = KeyMap("histossl-hiptmil", (Rename(_hipt_stage("", "gat")),), mark="gat.attention_c.weight")
"""HistoSSLscaling's form of HIPT's slide stage."""

HIPT_GP = KeyMap("hipt-gp", (Rename(_hipt_stage("global_", "attn_pool")),), mark="global_phi.0.weight")
"""HIPT's slide stage on vectors of regions."""

HIPT_LGP = KeyMap(
    "hipt-lgp",
    (
        Rename(
            (
                # Training on a GPU wraps the lower stage.
                ("local_vit.module.{rest}", "local_vit.{rest}"),
                ("local_vit.{rest}", "local_vit.{rest}"),
                *((theirs, f"regions.{ours}") for theirs, ours in _hipt_stage("global_", "attn_pool")),
            )
        ),
    ),
    mark="global_phi.0.weight",
)
"""HIPT's slide stage together with ViT-4K, for :class:`microtome.models.aggregators.hiptmil.HiptSlide`."""

_CLAM_STAGES = (
    *((f"attention_net.{module}0.{{p}}", "attention_net.0.{p}") for module in ("", "module.")),
    # Files from before there was dropout have the attention at 2.
    *((f"attention_net.{module}{i}.{{rest}}", "attention_net.3.{rest}") for i in (3, 2) for module in ("", "module.")),
)

CLAM = KeyMap(
    "clam",
    (
        Drop(("instance_loss_fn.{rest}",)),
        Rename(
            (
                *_CLAM_STAGES,
                ("classifiers.{rest}", "classifiers.{rest}"),
                ("instance_classifiers.{rest}", "instance_classifiers.{rest}"),
            )
        ),
    ),
    mark="instance_classifiers.0.weight",
)
"""CLAM with one branch or several, current files and old ones."""

AGGREGATOR_LAYOUTS: dict[str, tuple[KeyMap, ...]] = {
    "meanpool": (OWN,),  # ``mlp.*`` there as here
    "chowder": (*(histossl_chowder(n) for n in (2, 1, 0)), OWN),
    "abmil": (HISTOSSL_ABMIL, OWN),
    "dsmil": (*(histossl_dsmil(n) for n in (2, 1, 0)), OWN),
    "dsmil_original": (*DSMIL, OWN),
    "dsmil_millab": (MILLAB_DSMIL, OWN),
    "transmil": (HISTOSSL_TRANSMIL, OWN),
    "transmil_nystrom": (HISTOSSL_TRANSMIL_NYSTROM, OWN),
    "transmil_original": (TRANSMIL, OWN),
    "transmil_millab": (MILLAB_TRANSMIL, OWN),
    "hiptmil": (HISTOSSL_HIPTMIL, HIPT_GP, OWN),
    "clam_sb": (CLAM,),
    "clam_mb": (CLAM,),
}
"""Layouts by the name of the aggregator, for :func:`microtome.encoders.key_maps.load_layout`; ours is the last."""
