"""`microtome score` and `microtome srh check | stain | convert`: stimulated Raman histology."""

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Group, Parameter

from microtome.cli.app import EXIT_FAILED, app, configured, print_yaml, read_yaml
from microtome.config import ScoreConfig, SrhConvertConfig, SrhStainConfig, resolve
from microtome.config.srh import is_infer_yaml, read_infer_yaml

if TYPE_CHECKING:
    from microtome.tasks.score import ScoreResult

SRH = Group("Stimulated Raman", sort_key=5)

srh_app = App(
    name="srh",
    group=SRH,
    default_parameter=Parameter(negative=()),
    help="Stimulated Raman histology: look through a data set, draw virtual H&E, convert models.",
)
app.command(srh_app)


@app.command(group=SRH)
def score(
    *slides: str,
    options: Annotated[ScoreConfig, Parameter(name="*")] = ScoreConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Score stimulated Raman slides for glioma infiltration: scores, maps, tables and report.html.

    Args:
        slides: Folders of patches of one slide, a patient's or study's folder, the root of an OpenSRH data set, mosaic
            TIFFs, or saved embeddings.
        options: Settings.
        config: YAML file with the same settings as the flags, which win; or an infer.yaml of FastGlioma.
        print_config: Print the resolved settings and do nothing.
    """
    settings = _score_settings(options, config, slides)
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.tasks.score import score as score_slides

    result = score_slides(settings)
    show_scores(result)
    return EXIT_FAILED if result.failed else 0


def _score_settings(options: ScoreConfig, config: Path | None, slides: tuple[str, ...]) -> ScoreConfig:
    values = {} if config is None else read_yaml(config)
    if not is_infer_yaml(values):
        return configured(ScoreConfig, options, config, slides)
    given: Mapping[str, Any] = {name: getattr(options, name) for name in options.model_fields_set}
    run = f"{uuid.uuid4().hex[:8]}-{time.strftime('%b%d-%H-%M-%S')}"
    named = {"slides": slides} if slides else {}
    return resolve(ScoreConfig, read_infer_yaml(values, folder_name=run), given, named)


def show_scores(result: "ScoreResult") -> None:
    """Print a line per slide, what failed, and where the report is."""
    from microtome.cli.show import say

    for slide in result.slides:
        unlike = "  OUT OF DISTRIBUTION" if slide["ood"] == "out" else ""
        say(
            f"{slide['slide_id']}: {slide['score']:.3f}  {slide['band']} ({slide['interpretation']}), "
            f"{slide['n_patches']} patches{unlike}"
        )
    for name, why in result.failed.items():
        say(f"{name}: no score. {why}")
    say("Investigational only; the report says what the score is for and what not.")
    say(f"Report:  {result.report}")


@srh_app.command
def check(root: Path, /, *, meta: str | None = None, open_patches: bool = True) -> int:
    """Say what an OpenSRH data set has and what it lacks; exit code 1 where a slide cannot be scored.

    Args:
        root: Its folder.
        meta: Name of its metadata under meta/.
        open_patches: Open one patch of each slide.
    """
    from microtome.cli.show import say
    from microtome.tasks.srh.check import srh_check

    found = srh_check(root, meta=meta, open_patches=open_patches)
    say(f"{found.meta}: {found.n_patients} patients, {found.n_slides} slides")
    say("patches: " + ", ".join(f"{n} {kind.removesuffix('_patches')}" for kind, n in found.n_patches.items()))
    say(f"patients by diagnosis: {_counted(found.classes)}")
    say(f"slides by degree of infiltration: {_counted(found.grades)}")
    say(f"patients by split: {_counted(found.splits)}")
    for finding in found.findings:
        say(f"{'PROBLEM' if finding.blocks else 'note   '} {finding.where}: {finding.what}")
    if not found.findings:
        say("nothing wrong found")
    return EXIT_FAILED if found.n_blocking else 0


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"


@srh_app.command
def stain(
    *slides: str,
    options: Annotated[SrhStainConfig, Parameter(name="*")] = SrhStainConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Draw virtual H&E pictures of slides.

    Args:
        slides: As for microtome score.
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    settings = configured(SrhStainConfig, options, config, slides)
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.cli.show import say
    from microtome.tasks.srh.stain import srh_stain

    done = srh_stain(settings)
    for one in done:
        skipped = f" ({one.n_skipped} patches left white)" if one.n_skipped else ""
        say(f"{one.slide_id}: no picture. {one.error}" if one.path is None else f"{one.path}{skipped}")
    return EXIT_FAILED if any(one.path is None for one in done) else 0


@srh_app.command
def convert(
    model: Path | None = None,
    /,
    *,
    options: Annotated[SrhConvertConfig, Parameter(name="*")] = SrhConvertConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Turn a FastGlioma checkpoint into safetensors with a model card.

    Args:
        model: The checkpoint.
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    given = options if model is None else options.model_copy(update={"model": model})
    settings = configured(SrhConvertConfig, given, config, ())
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.cli.show import say
    from microtome.tasks.srh.convert import srh_convert

    say(f"{srh_convert(settings)}")
    return 0
