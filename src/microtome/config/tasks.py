"""Settings of `microtome tasks`."""

from pathlib import Path

from pydantic import model_validator

from microtome.config.base import Options
from microtome.errors import ConfigError


class TasksConfig(Options):
    """Settings of `microtome tasks`.

    Attributes:
        name: Show one task: its slides, its table and columns, how cells are read, what was published.
        data: Folder with HistoSSL's raw and preprocessed: say how many of its slides have a label.
        encoder: Take the slides that have features of this encoder.
        out: Write the task's table of slides and labels there, for `microtome cv --cohort`.
    """

    name: str | None = None
    data: Path | None = None
    encoder: str | None = None
    out: Path | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "TasksConfig":
        if self.out is not None and (self.name is None or self.data is None):
            raise ConfigError("out is a table of one task's slides: pass name and data.")
        if self.encoder is not None and self.data is None:
            raise ConfigError("encoder chooses among the slides of data. Pass data.")
        return self
