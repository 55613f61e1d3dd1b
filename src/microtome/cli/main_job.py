"""`microtome run | demo | sample | encoders`: the main job and what makes it easy to try."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from microtome.cli.app import EXIT_FAILED, MAIN_JOB, app, configured, print_yaml
from microtome.cli.encoders import encoders_app
from microtome.cli.show import say, show_summary
from microtome.config import RunConfig


@app.command(group=MAIN_JOB)
def run(
    *slides: str,
    options: Annotated[RunConfig, Parameter(name="*")] = RunConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Do everything: inspect, tissue, tiles, features, clusters, UMAP and report.html.

    Args:
        slides: Slide files, folders of slides, or patterns.
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    settings = configured(RunConfig, options, config, slides)
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.tasks.run import run as run_all

    result = run_all(settings)
    show_summary(result)
    return EXIT_FAILED if result.failed else 0


@app.command(group=MAIN_JOB)
def demo(
    out: Path = Path("demo"), *, n_slides: int = 3, size_px: int = 8192, seed: int = 0, quiet: bool = False
) -> int:
    """Make sample slides, do the main job on them, and compare the clusters with what was planted.

    Args:
        out: Folder for the slides (slides/) and the results (out/).
        n_slides: How many slides to make.
        size_px: Their longest side, in level-0 pixels.
        seed: Decides the slides and the clusters.
        quiet: Print nothing but the closing summary.
    """
    from microtome.testing.demo import run_demo

    result = run_demo(out, n_slides=n_slides, size_px=size_px, seed=seed, quiet=quiet)
    show_summary(result.run)
    say(result.purity_text)
    if result.run.report is not None:
        say(f"\nOpen the report:  {result.run.report.resolve().as_uri()}")
    return EXIT_FAILED if result.run.record.failed else 0


@app.command(group=MAIN_JOB)
def sample(
    folder: Path = Path("sample"),
    *,
    modality: Literal["brightfield", "srh"] = "brightfield",
    n_slides: int | None = None,
    size_px: int | None = None,
    seed: int = 0,
    mpp: float = 0.5,
    kinds: str = "svs,tiff,ome",
) -> int:
    """Write synthetic pyramidal H&E-like slides whose tissue and tumour regions are known, or an SRH study.

    Args:
        folder: Where to write; outlines go to truth/ in it, the table of slides to cohort.csv.
        modality: brightfield for slides; srh for a study of stimulated Raman histology in OpenSRH's layout, with
            degrees of infiltration planted in texture.
        n_slides: How many slides (3, or 8 of srh); kinds take turns.
        size_px: Longest side, in level-0 pixels (8192, or 2000 of srh, which is 36 patches).
        seed: Decides the pixels.
        mpp: Resolution to write, µm per pixel.
        kinds: Formats to write, in turn: svs, tiff, ome, dicom.
    """
    if modality == "srh":
        from microtome.testing.srh_sample import write_srh_sample

        across = max(1, (size_px or 2000) * 3 // 1000)
        for srh_slide in write_srh_sample(folder, n_slides=n_slides or 8, patches_across=across, seed=seed):
            say(f"{srh_slide.folder}")
        return 0
    from microtome.testing.synthetic import write_sample

    slides = write_sample(
        folder, n_slides=n_slides or 3, size_px=size_px or 8192, seed=seed, mpp=mpp, kinds=tuple(kinds.split(","))
    )
    for slide in slides:
        say(f"{slide.path}")
    return 0


@encoders_app.default
def encoders(*, name: str | None = None, table: Literal["text", "markdown"] = "text") -> int:
    """List what can be loaded, from where, and under which licence.

    Args:
        name: Show one encoder's whole card: licence, how to get access, training data, and what is unconfirmed.
        table: How to print the list.
    """
    from microtome.cli.show import show_card, show_cards
    from microtome.encoders.registry import cards_table, list_encoders, read_card

    if name is not None:
        show_card(read_card(name))
    elif table == "markdown":
        sys.stdout.write(cards_table())
    else:
        show_cards([read_card(encoder) for encoder in list_encoders()])
    return 0
