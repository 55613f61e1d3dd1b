"""HistoEncoder: XCiTs trained on prostate tissue, with the choices of features that its own functions offer.

``prostate-small:blocks=3,avg``: token 0 after each of the last ``blocks`` blocks, and with ``avg`` the mean of the
patch tokens. ``norm`` says by which mean and standard deviation tiles are normalised: ``imagenet`` (default), ``half``,
or ``slide``, what the original does by default: that of each slide's own tiles, measured before they are encoded.
"""

from dataclasses import replace
from functools import partial

from microtome.encoders.architectures import Architecture, histoencoder
from microtome.encoders.base import Card
from microtome.encoders.published import Published, by_name
from microtome.encoders.zoo import HALF, IMAGENET, RESEARCH, published, resized
from microtome.errors import ConfigError, UnknownEncoderError

_NORMS = {"imagenet": IMAGENET, "half": HALF, "slide": ((), ())}
_NETWORKS = {"prostate-small": "xcit_small_12_p16_224", "prostate-medium": "xcit_medium_24_p16_224"}
_BLOCKS = {"prostate-small": 14, "prostate-medium": 26}


def _encoder(name: str, *, dim: int, url: str, parameters: float) -> Published:
    file = f"{name.replace('-', '_')}.pth"
    return published(
        Card(
            name=name,
            dim=dim,
            tile_px=224,
            **resized(224, IMAGENET, "bilinear"),
            pooling="class token after the last norm",
            file=file,
            url=url,
            licence="Apache-2.0",
            paper="https://arxiv.org/abs/2411.11458",
            citation="Pohjonen et al., HistoEncoder: a digital pathology foundation model for prostate cancer, 2024",
            code="https://github.com/jopo666/HistoEncoder",
            trained_on=("unknown: 48 M prostate tiles",),
            intended_use=RESEARCH,
            parameters=parameters,
            variants=("blocks=N", "avg", "norm=imagenet", "norm=half", "norm=slide"),
            aliases=(name.replace("-", "_"),),
            unconfirmed=(
                "normalisation (the original takes each slide's own mean and standard deviation)",
                "filter of the resize",
                "whether the links are alive",
            ),
        ),
        f"histoencoder-{name.removeprefix('prostate-')}",
        square_only=True,
    )


ENCODERS = by_name(
    _encoder(
        "prostate-small",
        dim=384,
        url="https://dl.dropboxusercontent.com/s/tbff9wslc8p7ie3/prostate_small.pth?dl=0",
        parameters=25.87,
    ),
    _encoder(
        "prostate-medium",
        dim=512,
        url="https://dl.dropboxusercontent.com/s/k1fr09x5auki8sp/prostate_medium.pth?dl=0",
        parameters=83.88,
    ),
)


def find(name: str) -> Published:
    """An encoder with its choices: ``prostate-small:blocks=3,avg``, in any order; the card's name has them in one.

    Raises:
        UnknownEncoderError: If there is no such choice.
        ConfigError: If a choice cannot be honoured.
    """
    base, _, said = name.partition(":")
    n_blocks, avg_pool, norm = _read_choices(name, base, said)
    given = [f"blocks={n_blocks}"] * (n_blocks > 1) + ["avg"] * avg_pool + [f"norm={norm}"] * (norm != "imagenet")
    encoder = ENCODERS[base]
    dim = encoder.card.dim * (n_blocks + avg_pool)
    mean, std = _NORMS[norm]
    card = replace(
        encoder.card,
        name=":".join([base, *filter(None, [",".join(given)])]),
        dim=dim,
        mean=mean,
        std=std,
        pooling=f"token 0 after each of the last {n_blocks} blocks" + ", mean of the patch tokens" * avg_pool,
        variants=(),
        aliases=(),
    )
    network = Architecture(
        build=partial(histoencoder, _NETWORKS[base], num_blocks=n_blocks, avg_pool=avg_pool),
        dim=dim,
        layout_names=card.layouts,
    )
    return published(card, network, square_only=True, norm="slide" if norm == "slide" else "card")


def _read_choices(name: str, base: str, said: str) -> tuple[int, bool, str]:
    choices: dict[str, str] = {}
    for choice in said.split(","):
        key, _, value = choice.partition("=")
        if key in choices:
            raise ConfigError(f"{name!r} says {key} twice. Say it once.")
        choices[key] = value
    blocks, norm = choices.get("blocks", "1"), choices.get("norm", "imagenet")
    fine = choices.keys() <= {"blocks", "avg", "norm"} and not choices.get("avg") and norm in _NORMS
    if not fine or not blocks.isdecimal() or not 1 <= int(blocks) <= _BLOCKS[base]:
        raise UnknownEncoderError(
            f"No encoder goes by {name!r}. '{base}' takes blocks=1 to blocks={_BLOCKS[base]}, avg, and norm=imagenet, "
            f"norm=half or norm=slide, joined with commas: {base}:blocks=2,avg."
        )
    return int(blocks), "avg" in choices, norm
