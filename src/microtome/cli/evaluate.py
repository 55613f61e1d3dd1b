"""`microtome evaluate | results`: what predictions are worth, and the runs of a study in one table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from microtome.cli.app import EXIT_FAILED, WITH_LABELS, app, configured, print_yaml
from microtome.config import EvaluateConfig, ResultsConfig

if TYPE_CHECKING:
    from microtome.tasks.evaluate import EvaluationFiles
    from microtome.tasks.results import Results

Flat = Parameter(name="*")


@app.command(group=WITH_LABELS)
def evaluate(
    predictions: Path | None = None,
    /,
    *,
    options: Annotated[EvaluateConfig, Flat] = EvaluateConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Judge predictions against the labels of a cohort: metrics with intervals, figures, one page.

    Args:
        predictions: Table of predictions (parquet or CSV).
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    given = options if predictions is None else options.model_copy(update={"predictions": predictions})
    settings = configured(EvaluateConfig, given, config, ())
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.tasks.evaluate import evaluate_files

    show_evaluation(evaluate_files(settings))
    return 0


@app.command(group=WITH_LABELS)
def results(
    logs: Path | None = None,
    /,
    *,
    options: Annotated[ResultsConfig, Flat] = ResultsConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Collect every run below a folder into one table (CSV, parquet, Markdown) and forest plots.

    Args:
        logs: Folder below which runs of cv, benchmark and evaluate lie.
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    given = options if logs is None else options.model_copy(update={"logs": logs})
    settings = configured(ResultsConfig, given, config, ())
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.tasks.results import collect_results

    found = collect_results(settings)
    show_results(found)
    return EXIT_FAILED if found.problems else 0


def show_evaluation(result: "EvaluationFiles") -> None:
    """Print the metrics with their intervals, what does not count, and where the page is."""
    from microtome.cli.show import say
    from microtome.viz.evaluation_figures import describe_rows
    from microtome.viz.figure_style import show_interval

    evaluation = result.evaluation
    for row in evaluation.table.to_dict("records"):
        if ":" in str(row["metric"]):  # of one class: the table has them
            continue
        shown = show_interval(float(row["estimate"]), float(row["low"]), float(row["high"]))
        reason = f"  ({row['reason']})" if shown == "undefined" and row.get("reason") else ""
        say(f"{row['metric']:<28} {shown}{reason}")
    say(f"\n{describe_rows(evaluation)}")
    reasons: dict[str, int] = {}
    for reason in evaluation.excluded.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, n in sorted(reasons.items(), key=lambda item: -item[1]):
        say(f"excluded {n}: {reason}")
    if result.comparison is not None:
        say("")
        for row in result.comparison.table.to_dict("records"):
            difference = show_interval(float(row["difference"]), float(row["low"]), float(row["high"]))
            say(f"{row['metric']}: {row['b']} − {row['a']} = {difference}, p (Holm) {row['p_holm']:.3g}")
    for row in result.tables["subgroups"].to_dict("records") if "subgroups" in result.tables else ():
        shown = show_interval(float(row["estimate"]), float(row["low"]), float(row["high"]))
        said = f"  ({row['reason']})" if row["reason"] else ""
        say(f"{row['column']} {row['subgroup']}: {row['metric']} {shown}, n = {row['n']}{said}")
    for row in result.tables["adjuncts"].to_dict("records") if "adjuncts" in result.tables else ():
        shares = f"sensitivity {row['sensitivity']:.3f}, specificity {row['specificity']:.3f}"
        say(f"{row['name']} on the {row['n']} rows of {row['adjunct']}: {shares}")
    say(f"Page:    {result.page}")


def show_results(found: "Results") -> None:
    """Print the table, the runs that are not in it and why, and where the files are."""
    from rich.console import Console
    from rich.table import Table

    from microtome.cli.show import say
    from microtome.tasks.result_tables import show_row

    shown = [{**show_row(row), "run": str(row["log_path"])} for row in found.table.to_dict("records")]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in shown[0]:
        table.add_column(column, overflow="fold")
    for row in shown:
        table.add_row(*row.values())
    Console(highlight=False, soft_wrap=True, markup=False, width=180).print(table)
    for problem in found.problems:
        say(f"not in the table: {problem.path}: {problem.reason}")
    for note in found.notes:
        say(note)
    for path in found.files:
        say(f"File:    {path}")
