"""`microtome probe`: what is in the features of tiles."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from microtome.cli.app import WITH_LABELS, app, configured, print_yaml
from microtome.config import ProbeConfig


@app.command(group=WITH_LABELS)
def probe(
    *,
    options: Annotated[ProbeConfig, Parameter(name="*")] = ProbeConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Judge features of labelled tiles: linear evaluation, nearest neighbours, few shots.

    Args:
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    settings = configured(ProbeConfig, options, config, ())
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.cli.show import say
    from microtome.tasks.probe import probe as probe_features

    result = probe_features(settings)
    if result.reference is not None:
        for row in result.reference.to_dict("records"):
            say(
                f"portion {row['portion']:<6g} AUC {_shown(row['auc'], row['bt_auc_low'], row['bt_auc_high'])}"
                f"  accuracy {_shown(row['acc'], row['bt_acc_low'], row['bt_acc_high'])}"
            )
    if result.modern is not None:
        for row in result.modern[result.modern["class"] == ""].to_dict("records"):
            say(f"{row['method']:<9} {row['metric']:<24} {_shown(row['estimate'], row['low'], row['high'])}")
    if result.few_shot is not None:
        for row in result.few_shot.to_dict("records"):
            found = row["note"] or f"accuracy {_shown(row['accuracy_score'], row['low'], row['high'])}"
            say(f"{row['shots']:>2} shots  {found}")
    say(f"Results: {result.folder}")
    return 0


def _shown(estimate: float, low: float, high: float) -> str:
    return f"{estimate:.3f} [{low:.3f}, {high:.3f}]"
