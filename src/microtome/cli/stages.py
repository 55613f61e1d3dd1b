"""`microtome inspect | tissue | tile | extract | report`: the stages one by one, on the same folder."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from microtome.cli.app import EXIT_FAILED, STAGES, app, configured, print_yaml
from microtome.cli.show import show_inspection, show_summary
from microtome.cli.tasks import inspect_download
from microtome.config import ExtractConfig, InspectConfig, TileConfig, TissueConfig

Flat = Parameter(name="*")


@app.command(group=STAGES)
def inspect(*slides: str, options: Annotated[InspectConfig, Flat] = InspectConfig(), config: Path | None = None) -> int:
    """Look at a cohort before the work: readers, mpp, duplicates, broken files, what will fail and why.

    Args:
        slides: Slide files, folders of slides, or patterns.
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
    """
    settings = configured(InspectConfig, options, config, slides)
    if settings.layout == "histossl":
        return inspect_download(settings)
    from microtome.tasks.inspect import inspect as inspect_slides

    inspection = inspect_slides(settings)
    show_inspection(inspection)
    return EXIT_FAILED if inspection.n_bad else 0


@app.command(group=STAGES)
def tissue(
    *slides: str,
    options: Annotated[TissueConfig, Flat] = TissueConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Find tissue; write outlines that QuPath opens.

    Args:
        slides: Slide files, folders of slides, or patterns.
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    return _run_to(configured(TissueConfig, options, config, slides), print_config=print_config)


@app.command(group=STAGES)
def tile(
    *slides: str,
    options: Annotated[TileConfig, Flat] = TileConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Lay tiles on the tissue; with --save-tiles write their images too.

    Args:
        slides: Slide files, folders of slides, or patterns.
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    return _run_to(configured(TileConfig, options, config, slides), print_config=print_config)


@app.command(group=STAGES)
def extract(
    *slides: str,
    options: Annotated[ExtractConfig, Flat] = ExtractConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Turn tiles into features: of slides, of coordinates that others laid (--coords), of tile images (--tiles).

    Args:
        slides: Slide files, folders of slides, or patterns.
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    return _run_to(configured(ExtractConfig, options, config, slides), print_config=print_config)


@app.command(group=STAGES)
def report(out: Path) -> int:
    """Draw report.html again from what is in an output folder.

    Args:
        out: The output folder.
    """
    from microtome.cli.show import say
    from microtome.viz.report import write_report

    say(f"Report: {write_report(out)}")
    return 0


def _run_to(settings: TissueConfig, *, print_config: bool) -> int:
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.tasks.run import run

    result = run(settings)
    show_summary(result)
    return EXIT_FAILED if result.failed else 0
