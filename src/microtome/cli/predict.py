"""`microtome predict | heatmap`: a trained model on slides or features."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from microtome.cli.app import EXIT_FAILED, WITH_LABELS, app, configured, print_yaml
from microtome.config import PredictConfig

if TYPE_CHECKING:
    from microtome.tasks.mil.predict import PredictResult

Flat = Parameter(name="*")
_NAMED = 10  # failures that are told one by one


@app.command(group=WITH_LABELS)
def predict(
    model: Path | None = None,
    /,
    *slides: str,
    options: Annotated[PredictConfig, Flat] = PredictConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Predict slides or features with a trained model, and draw what moved each prediction.

    Args:
        model: Folder that `microtome fit` wrote.
        slides: A folder of features, an output folder that has them, or slide files, folders of slides or patterns.
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    return _predict(model, slides, options, config, print_config=print_config, maps_only=False)


@app.command(group=WITH_LABELS)
def heatmap(
    model: Path | None = None,
    /,
    *slides: str,
    options: Annotated[PredictConfig, Flat] = PredictConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Draw what a trained model attends to and what moves it, without a table of predictions.

    Args:
        model: Folder that `microtome fit` wrote.
        slides: A folder of features, an output folder that has them, or slide files, folders of slides or patterns.
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    return _predict(model, slides, options, config, print_config=print_config, maps_only=True)


def _predict(
    model: Path | None,
    slides: tuple[str, ...],
    options: PredictConfig,
    config: Path | None,
    *,
    print_config: bool,
    maps_only: bool,
) -> int:
    given = options if model is None else options.model_copy(update={"model": model})
    settings = configured(PredictConfig, given, config, slides)
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.tasks.mil.predict import predict_files

    result = predict_files(settings, maps_only=maps_only)
    show_predictions(result)
    return EXIT_FAILED if result.failed else 0


def show_predictions(result: "PredictResult") -> None:
    """Print how many were predicted and mapped, what failed, and where the files are."""
    from microtome.cli.show import say

    table = None if result.predictions is None else result.predictions.table
    if table is not None:
        known = "in_training" in table.columns
        seen = f", {int(table['in_training'].sum())} of patients in training" if known else ""
        say(f"\npredicted {len(table)}{seen}")
    if result.n_maps or result.n_maps_kept:
        bare = f", {result.n_without_thumbnail} of them without a thumbnail" if result.n_without_thumbnail else ""
        say(f"maps of {result.n_maps} slide(s){bare}; {result.n_maps_kept} were there already")
    if result.failed:
        say(f"failed {len(result.failed)}")
    for name, reason in list(result.failed.items())[:_NAMED]:
        say(f"  {name}: {reason}")
    if len(result.failed) > _NAMED:
        say(f"  and {len(result.failed) - _NAMED} more, which {result.out / 'predict.json'} names")
    for note in result.notes:
        say(note)
    if table is not None:
        say(f"Table:   {result.out / 'predictions.parquet'}")
    if result.n_maps or result.n_maps_kept:
        say(f"Maps:    {result.out / 'maps'}")
