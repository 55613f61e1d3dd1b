"""The application: its verbs, what a configuration file may say, and exit codes.

Exit codes: 0 when nothing failed, 1 when a slide failed, 2 when the request itself cannot be honoured, 130 after
Ctrl-C.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cyclopts import App, CycloptsError, Group, Parameter
from pydantic import ValidationError

import microtome
from microtome.config import Options, explain, resolve
from microtome.errors import ConfigError, MicrotomeError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

MAIN_JOB = Group("The main job", sort_key=0)
STAGES = Group("Stages of it, on the same folder", sort_key=1)
WITH_LABELS = Group("With slide or patient labels", sort_key=3)

app = App(
    name="microtome",
    help="Whole slides to tissue, tiles, features, clusters and a report. For research use only.",
    version=microtome.__version__,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main() says how far the work came
)

OptionsT = TypeVar("OptionsT", bound=Options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    import microtome.cli.convert
    import microtome.cli.evaluate
    import microtome.cli.learn
    import microtome.cli.main_job
    import microtome.cli.predict
    import microtome.cli.pretrain
    import microtome.cli.probe
    import microtome.cli.slide_vectors
    import microtome.cli.srh
    import microtome.cli.stages
    import microtome.cli.tasks  # noqa: F401 - importing registers the verbs

    # Before torch is loaded: its threads then sleep while they wait, and leave the cores to those that decode.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with suppress(ValueError):  # not the main thread: somebody else's program handles signals
        signal.signal(signal.SIGTERM, _stop)  # a scheduler that ends a job says so first
    try:
        code = app(arguments, exit_on_error=False, print_error=False)
    except KeyboardInterrupt as stopped:
        if (result := getattr(stopped, "result", None)) is not None:
            from microtome.cli.show import show_summary

            show_summary(result)
        _say("Stopped. What was finished is kept; the same command goes on from there.")
        return EXIT_INTERRUPTED
    except CycloptsError as error:
        cause = error.__cause__
        _say(f"microtome: {explain(Options, cause) if isinstance(cause, ValidationError) else error}")
        return EXIT_USAGE
    except MicrotomeError as error:
        _say(f"microtome: {error}")
        return EXIT_USAGE
    return code if isinstance(code, int) else 0


def configured(kind: type[OptionsT], flags: Options, config: Path | None, slides: Sequence[str]) -> OptionsT:
    """Merge a configuration file and the flags that were given, which win."""
    given = {name: getattr(flags, name) for name in flags.model_fields_set}
    if slides:
        given["slides"] = tuple(slides)
    return resolve(kind, {} if config is None else read_yaml(config), given)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read a configuration file: a mapping of setting to value.

    Raises:
        ConfigError: If it is absent, not YAML, or not a mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"'{path}' cannot be read as YAML: {error}.") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"'{path}' must be a mapping of setting to value, such as 'encoder: texture'.")
    return {key.replace("-", "_"): value for key, value in values.items()}


def print_yaml(options: Options) -> None:
    """Print a resolved configuration so that it can be saved and passed to ``--config``."""
    import yaml

    sys.stdout.write(yaml.safe_dump(options.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
