"""Encoders that are known and cannot be loaded honestly, each with the reason.

Slide encoders take a bag of another encoder's vectors and so are no tile encoders;
:mod:`microtome.encoders.slide_encoders` loads some of them.
"""

from microtome.encoders.base import Card
from microtome.encoders.zoo import NON_COMMERCIAL, RESEARCH, UNPINNED, Unavailable

_ND = "CC-BY-NC-ND-4.0"
_VERB = " `microtome encode-slides` loads it."
_REMOTE = " Its network is published only as code that the hub sends and runs, which microtome does not run."


def _not_of_tiles(tiles: str, more: str = "") -> str:
    return f"It makes one vector of a slide out of the vectors of '{tiles}'; encoders here take tiles.{more}"


_CARDS = (
    Card(
        name="path-foundation",
        dim=384,
        input_px=224,
        tile_px=224,
        mpp=(0.5, 1.0, 2.0),
        pooling="the output of its signature",
        repo="google/path-foundation",
        file="saved_model.pb",
        licence="Health AI Developer Foundations",
        gated=True,
        paper="https://arxiv.org/abs/2310.13259",
        citation="Lai et al., Domain-specific optimization and diverse evaluation of self-supervised models, 2023",
        code="https://huggingface.co/google/path-foundation",
        trained_on=("TCGA",),
        intended_use=RESEARCH,
        parameters=22.0,
        unconfirmed=("resolutions", "training data", "parameters", "paper", "name of the file", UNPINNED),
        unavailable="It is published for TensorFlow only.",
    ),
    Card(
        name="prov-gigapath-slide",
        dim=768,
        input_px=None,
        tile_px=256,
        mpp=(0.5,),
        pooling="class token",
        repo="prov-gigapath/prov-gigapath",
        file="slide_encoder.pth",
        licence="Apache-2.0 with conditions of its own",
        gated=True,
        paper="https://doi.org/10.1038/s41586-024-07441-w",
        citation="Xu et al., A whole-slide foundation model for digital pathology from real-world data, Nature 2024",
        code="https://github.com/prov-gigapath/prov-gigapath",
        trained_on=("private (Providence)",),
        intended_use=RESEARCH,
        parameters=86.33,
        unconfirmed=(UNPINNED,),
        unavailable=_not_of_tiles("prov-gigapath"),
    ),
    Card(
        name="titan",
        dim=768,
        input_px=None,
        tile_px=512,
        mpp=(0.5,),
        pooling="its own",
        repo="MahmoodLab/TITAN",
        file="model.safetensors",
        licence=_ND,
        gated=True,
        paper="https://arxiv.org/abs/2411.19666",
        citation="Ding et al., Multimodal Whole Slide Foundation Model for Pathology, 2024",
        code="https://github.com/mahmoodlab/TITAN",
        trained_on=("private (MGB)",),
        intended_use=NON_COMMERCIAL + " Its authors kept TCGA, PAIP, CPTAC and PANDA out of its training.",
        parameters=48.5,
        unconfirmed=("what its network is inside", "name of the file", UNPINNED),
        unavailable=_not_of_tiles("conch-v1.5", _REMOTE),
    ),
    Card(
        name="prism",
        dim=1280,
        input_px=None,
        tile_px=224,
        mpp=(0.5,),
        pooling="image embedding",
        repo="paige-ai/Prism",
        file="model.safetensors",
        licence=_ND,
        gated=True,
        paper="https://arxiv.org/abs/2405.10254",
        citation="Shaikovski et al., PRISM: A Multi-Modal Generative Foundation Model for Histopathology, 2024",
        code="https://huggingface.co/paige-ai/Prism",
        trained_on=("private (MSK)",),
        intended_use=NON_COMMERCIAL,
        parameters=557.7,
        unconfirmed=("what its network is inside", "training data", "name of the file", UNPINNED),
        unavailable=_not_of_tiles("virchow", _REMOTE),
    ),
    Card(
        name="chief",
        dim=768,
        input_px=None,
        tile_px=256,
        mpp=(1.0,),
        pooling="gated attention",
        url="https://github.com/hms-dbmi/CHIEF",
        file="CHIEF_pretraining.pth",
        licence="GPL-3.0",
        paper="https://doi.org/10.1038/s41586-024-07894-z",
        citation="Wang et al., A pathology foundation model for cancer diagnosis and prognosis prediction, Nature 2024",
        code="https://github.com/hms-dbmi/CHIEF",
        trained_on=("unknown: 60 000 slides",),
        intended_use=RESEARCH,
        parameters=1.185,
        unconfirmed=("training data", UNPINNED),
        unavailable=_not_of_tiles("chief-ctranspath", _VERB),
    ),
    Card(
        name="madeleine",
        dim=512,
        input_px=None,
        tile_px=256,
        mpp=(1.0,),
        pooling="gated attention of four heads",
        repo="MahmoodLab/madeleine",
        file="model.pt",
        licence=_ND,
        paper="https://arxiv.org/abs/2408.02859",
        citation="Jaume et al., Multistain Pretraining for Slide Representation Learning in Pathology, ECCV 2024",
        code="https://github.com/mahmoodlab/MADELEINE",
        trained_on=("ACROBAT",),
        intended_use=NON_COMMERCIAL,
        parameters=5.0,
        unconfirmed=("number of heads", "parameters (another source has 3.2 M)", UNPINNED),
        unavailable=_not_of_tiles("conch"),
    ),
    *(
        Card(
            name=f"feather-{tiles}",
            dim=512,
            input_px=None,
            tile_px=256 if tiles.startswith("uni") else 512,
            mpp=(0.5,),
            pooling="gated attention",
            repo=f"MahmoodLab/abmil.base.{repo}.pc108-24k",
            file="model.safetensors",
            licence=_ND,
            gated=True,
            paper="https://arxiv.org/abs/2506.09022",
            citation="Shao et al., Do Multiple Instance Learning Models Transfer?, 2025",
            code="https://github.com/mahmoodlab/MIL-Lab",
            trained_on=("private (MGB)",),
            intended_use=NON_COMMERCIAL,
            parameters=parameters,
            unconfirmed=("licence", UNPINNED),
            unavailable=_not_of_tiles(tiles, _VERB),
        )
        for tiles, repo, parameters in (
            ("conch-v1.5", "conch_v15", 0.79),
            ("uni2-h", "uni_v2", 1.18),
            ("uni", "uni", 0.92),
        )
    ),
)

ENCODERS = {card.name: Unavailable(card) for card in _CARDS}
