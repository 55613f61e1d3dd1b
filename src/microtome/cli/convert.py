"""`microtome convert`: features from one program's files to another's."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from microtome.cli.app import EXIT_FAILED, STAGES, app, configured, print_yaml
from microtome.config import ConvertConfig

if TYPE_CHECKING:
    from microtome.tasks.convert import Conversion


@app.command(group=STAGES)
def convert(
    features: Path | None = None,
    /,
    *,
    options: Annotated[ConvertConfig, Parameter(name="*")] = ConvertConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Convert features between the formats of microtome, CLAM, Trident, HistoSSL and HistoEncoder.

    Args:
        features: File or folder of features.
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    given = options if features is None else options.model_copy(update={"source": features})
    settings = configured(ConvertConfig, given, config, ())
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.tasks.convert import convert as convert_features

    result = convert_features(settings)
    show_conversion(result)
    return EXIT_FAILED if result.failed else 0


def show_conversion(result: "Conversion") -> None:
    """Print what was done, what was lost, and what failed."""
    from microtome.cli.show import say

    claimed = result.having("claimed")
    waiting = f", left to another process {len(claimed)}" if claimed else ""
    say(
        f"\n{result.source_format} to {result.target_format}: done {len(result.having('done'))}, "
        f"skipped {len(result.having('skipped'))} (there already), failed {len(result.failed)}{waiting}"
    )
    for slide in result.failed:
        say(f"  {slide.slide_id}: {slide.error}")
    if result.losses:
        say(f"{result.target_format} does not hold: {_counted(result.losses, len(result.slides))}")
    if result.notes:
        say(f"Of the source: {_counted(result.notes, len(result.slides))}")
    say(f"Files:   {result.out}")


def _counted(found: Mapping[str, int], n_slides: int) -> str:
    return "; ".join(text if n == n_slides else f"{text} ({n} slides)" for text, n in sorted(found.items()))
