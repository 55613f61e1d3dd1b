"""`microtome encoders fetch | check`: weights brought here beforehand, and whether an encoder gives what it should."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from microtome.cli.app import EXIT_FAILED, MAIN_JOB, app
from microtome.cli.show import say

encoders_app = App(name="encoders", group=MAIN_JOB, default_parameter=Parameter(negative=()))
app.command(encoders_app)


@encoders_app.command
def fetch(*names: str, all_open: bool = False, quiet: bool = False) -> int:
    """Bring weights here, for machines that will have no network.

    Args:
        names: Encoders.
        all_open: All whose weights anybody may download without asking.
        quiet: Show no progress of downloads.
    """
    from microtome.encoders.fetch import fetch_encoders, open_encoders
    from microtome.errors import ConfigError

    wanted = tuple(dict.fromkeys((*names, *(open_encoders() if all_open else ()))))
    if not wanted:
        raise ConfigError("Say which encoders' weights to fetch, by name, or pass --all-open.")
    counts = dict.fromkeys(("done", "skipped", "failed"), 0)
    for fetched in fetch_encoders(wanted, make_shown=(lambda card: _unseen) if quiet else None):
        counts[fetched.status] += 1
        where = fetched.reason if fetched.path is None else str(fetched.path)
        say(f"{fetched.status:8} {fetched.name}: {where}")
    say(f"done {counts['done']}, skipped {counts['skipped']} (here already), failed {counts['failed']}")
    return EXIT_FAILED if counts["failed"] else 0


def _unseen(done: int, total: int | None) -> None:
    del done, total


@encoders_app.command
def check(
    name: str,
    *,
    weights: Literal["none"] | Path | None = None,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    runtime: Literal["auto", "torch", "openvino"] = "auto",
    references: Annotated[Path | None, Parameter(name="--references")] = None,
    accept: bool = False,
) -> int:
    """Encode tiles drawn by rule and compare the vectors with what is known of this encoder.

    Args:
        name: The encoder.
        weights: Weights file in place of the published one; "none" fills the network by rule.
        device: auto, cpu, cuda, cuda:0, mps.
        precision: fp32, bf16 or fp16; what is best on the device by default.
        runtime: What runs the network.
        references: Folder with references.json and the tiles and vectors that it names.
        accept: Record what the encoder gives now in place of what was recorded before.
    """
    from microtome.encoders.check import check_encoder
    from microtome.encoders.hardware import Wanted
    from microtome.encoders.references import read_references

    found = [] if references is None else read_references(references, name)
    made = check_encoder(name, Wanted(device, precision, runtime), weights=weights, references=found, accept=accept)
    for finding in made.findings:
        say(f"{_MARKS[finding.passed]:7} {finding.name}: {finding.text}")
    say(f"{name}: {'nothing wrong found' if made.passed else 'FAILED'}")
    return 0 if made.passed else EXIT_FAILED


_MARKS = {True: "ok", False: "FAILED", None: "-"}
