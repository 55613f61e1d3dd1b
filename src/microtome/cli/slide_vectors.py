"""`microtome encode-slides`: one vector per slide."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from microtome.cli.app import EXIT_FAILED, STAGES, app, configured, print_yaml
from microtome.config import EncodeSlidesConfig


@app.command(name="encode-slides", group=STAGES)
def encode_slides(
    features: Path | None = None,
    /,
    *,
    options: Annotated[EncodeSlidesConfig, Parameter(name="*")] = EncodeSlidesConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """Turn the features of a slide's tiles into one vector of the slide, by a published slide encoder.

    Args:
        features: Folder of features.
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    given = options if features is None else options.model_copy(update={"features": features})
    settings = configured(EncodeSlidesConfig, given, config, ())
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.cli.show import say
    from microtome.tasks.slide_vectors import encode_slides as encode

    result = encode(settings)
    say(f"\nslides: done {len(result.done)}, skipped {len(result.skipped)}, failed {len(result.failed)}")
    for slide_id, why in result.failed.items():
        say(f"  {slide_id}: {why}")
    say(f"Files:   {result.store.folder}")
    return EXIT_FAILED if result.failed else 0
