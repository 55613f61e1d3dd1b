"""`microtome cv | benchmark | fit`: learning from labels of slides."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from microtome.cli.app import EXIT_FAILED, WITH_LABELS, app, configured, print_yaml
from microtome.config import BenchmarkConfig, CVConfig, FitConfig

Flat = Parameter(name="*")
_EVERY_S = 5.0


@app.command(group=WITH_LABELS)
def cv(
    *, options: Annotated[CVConfig, Flat] = CVConfig(), config: Path | None = None, print_config: bool = False
) -> int:
    """Cross-validate a model: choose settings on inner folds, judge on outer ones.

    Args:
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    settings = configured(CVConfig, options, config, ())
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.cli.show import say
    from microtome.tasks.mil.cross_validate import cross_validate

    result = cross_validate(settings, say=_telling(quiet=settings.quiet))
    for line in result.lines():
        say(line)
    _say_excluded(result.labels.excluded)
    say(f"Results: {result.out}")
    return 0


@app.command(group=WITH_LABELS)
def benchmark(
    *,
    options: Annotated[BenchmarkConfig, Flat] = BenchmarkConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Cross-validate tasks × encoders × models into one table of results.

    Args:
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    settings = configured(BenchmarkConfig, options, config, ())
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.cli.show import say
    from microtome.tasks.mil.benchmark import run_benchmark

    result = run_benchmark(settings, say=_telling(quiet=settings.quiet))
    for line in result.lines():
        say(line)
    return EXIT_FAILED if result.failed else 0


@app.command(group=WITH_LABELS)
def fit(
    *, options: Annotated[FitConfig, Flat] = FitConfig(), config: Path | None = None, print_config: bool = False
) -> int:
    """Train a model on all labelled slides, and write it as a folder that `microtome predict` takes.

    Args:
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    settings = configured(FitConfig, options, config, ())
    if print_config:
        print_yaml(settings)
        return 0
    if settings.model == "fastglioma-slide":
        from microtome.cli.pretrain import show_stage
        from microtome.tasks.pretrain.fit import fit_slide_model

        return show_stage(fit_slide_model(settings))
    from microtome.cli.show import say
    from microtome.tasks.mil.fit import fit as fit_model

    result = fit_model(settings, say=_telling(quiet=settings.quiet))
    for line in result.lines():
        say(line)
    _say_excluded(result.labels.excluded)
    say(f"Model:   {result.folder}")
    return 0


def _telling(*, quiet: bool) -> Callable[[str], None]:
    """Writes to standard error how far a run is; of lines that begin alike, one in a while."""
    last: dict[str, float] = {}

    def tell(text: str) -> None:
        subject, now = text.partition(":")[0], time.monotonic()
        if not quiet and now - last.get(subject, -_EVERY_S) >= _EVERY_S:
            last[subject] = now
            sys.stderr.write(text + "\n")

    return tell


def _say_excluded(excluded: Mapping[str, str]) -> None:
    from microtome.cli.show import say

    for reason, count in Counter(excluded.values()).most_common():
        say(f"left out {count} slide(s): {reason}")
