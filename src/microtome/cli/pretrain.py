"""`microtome pretrain hidisc | slide-ssl | ordinal`: training of networks for stimulated Raman histology."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Group, Parameter

from microtome.cli.app import app, configured, print_yaml
from microtome.config import HiDiscConfig, OrdinalConfig, SlideSslConfig

if TYPE_CHECKING:
    from microtome.tasks.pretrain.stages import StageResult

Flat = Parameter(name="*")

pretrain_app = App(
    name="pretrain",
    group=Group("Training encoders", sort_key=6),
    default_parameter=Parameter(negative=()),
    help="Train the networks for stimulated Raman histology: patches, slides, scores.",
)
app.command(pretrain_app)


@pretrain_app.command
def hidisc(
    *, options: Annotated[HiDiscConfig, Flat] = HiDiscConfig(), config: Path | None = None, print_config: bool = False
) -> int:
    """Stage 1: the patch encoder, by what belongs to the same patient, slide and patch.

    Args:
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    settings = configured(HiDiscConfig, options, config, ())
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.tasks.pretrain.stages import pretrain_hidisc

    return show_stage(pretrain_hidisc(settings))


@pretrain_app.command(name="slide-ssl")
def slide_ssl(
    *,
    options: Annotated[SlideSslConfig, Flat] = SlideSslConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Stage 2: the slide transformer, by views of the same slide.

    Args:
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    settings = configured(SlideSslConfig, options, config, ())
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.tasks.pretrain.stages import pretrain_slide_ssl

    return show_stage(pretrain_slide_ssl(settings))


@pretrain_app.command
def ordinal(
    *,
    options: Annotated[OrdinalConfig, Flat] = OrdinalConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Stage 3: the score of infiltration, with its calibration; also `microtome fit --model fastglioma-slide`.

    Args:
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    settings = configured(OrdinalConfig, options, config, ())
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.tasks.pretrain.stages import fit_ordinal

    return show_stage(fit_ordinal(settings))


def show_stage(result: "StageResult") -> int:
    """Print what came of a stage, and where it is."""
    from microtome.cli.show import say

    for name, value in result.metrics.items():
        say(f"{name}: {value:.4f}")
    say(f"Weights: {result.weights}")
    if result.model is not None:
        say(f"Model:   {result.model}")
    return 0
