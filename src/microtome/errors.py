"""Every error that microtome raises on purpose.

Each class has :class:`MicrotomeError` and a builtin as parents, so that a caller may catch either. A message
says what, where, what was got, and what to do.

::

    MicrotomeError
    ├── ConfigError (ValueError)                 a setting that cannot be honoured
    ├── CohortError (ValueError)                 a table of slides that contradicts itself
    │   └── DuplicateSlideError                  two paths under one slide_id
    ├── SlideError
    │   ├── SlideOpenError (OSError)             the file cannot be opened as a slide
    │   │   ├── SlideNotFoundError (FileNotFoundError)
    │   │   ├── SlideIsDirectoryError (IsADirectoryError)
    │   │   ├── SlidePermissionError (PermissionError)
    │   │   ├── EmptyFileError
    │   │   ├── NotAnImageError                  text, archive, unknown bytes
    │   │   │   └── LfsPointerError              a Git LFS pointer in place of the file
    │   │   ├── NotASlideError                   an image of another kind (a CT, a segmentation)
    │   │   ├── TruncatedSlideError
    │   │   ├── CorruptSlideError                the file's own structure makes no sense
    │   │   ├── ZeroSizeError                    no width or no height
    │   │   ├── MissingCompanionError (FileNotFoundError)
    │   │   ├── UnsupportedCompressionError
    │   │   └── UnsupportedFormatError           a slide, but no reader here takes it
    │   ├── UnreadableRegionError (OSError)      opens, but these pixels cannot be decoded
    │   ├── SlideChangedError                    replaced while it was being read
    │   ├── ResolutionError (ValueError)
    │   │   ├── MissingMppError
    │   │   ├── ImplausibleMppError
    │   │   ├── AnisotropicMppError
    │   │   └── MppConflictError
    │   └── ChannelError (ValueError)            16-bit or many channels, and nobody said how to see them
    ├── AnnotationError (ValueError)             GeoJSON that cannot be read as polygons
    ├── TissueError (ValueError)
    │   └── NoTissueError
    ├── TileError (ValueError)
    │   ├── NoTilesError
    │   └── CoverageError                        too many tiles unreadable for the result to stand
    ├── EncoderError
    │   ├── UnknownEncoderError (LookupError)
    │   ├── WeightsError (ValueError)            weights that cannot be had, read or made to fit
    │   ├── ModalityError (ValueError)           pixels of a kind that the encoder was not made for
    │   ├── TileSizeError (ValueError)           tiles of a size that the encoder does not take
    │   ├── ConversionError (RuntimeError)       a network that a runtime cannot take, or computes wrongly
    │   └── EncoderOutputError (ValueError)      NaN or a wrong shape came out
    ├── WorkerError (RuntimeError)               processes of a job died
    ├── TrainingError (ArithmeticError)          a loss, a gradient or a weight is no longer finite
    ├── EvaluationError (ValueError)             labels and results that cannot be compared
    ├── AttributionError (RuntimeError)          what tiles add to a logit cannot be told exactly enough
    └── OutputError
        ├── RecipeMismatchError                  the file there was made with other settings
        ├── MissingOutputError (KeyError)        nothing is there under this name
        ├── CorruptOutputError (OSError)         the file there cannot be read
        ├── OutputWriteError (OSError)           no space, read-only, no permission
        └── ClaimedError                         another process is making this file
"""


class MicrotomeError(Exception):
    """Base of every error that microtome raises on purpose."""


class ConfigError(MicrotomeError, ValueError):
    """A setting cannot be honoured."""


class CohortError(MicrotomeError, ValueError):
    """A table or list of slides contradicts itself."""


class DuplicateSlideError(CohortError):
    """Two paths claim the same slide_id."""


class SlideError(MicrotomeError):
    """Something is wrong with one slide."""


class SlideOpenError(SlideError, OSError):
    """A file cannot be opened as a slide."""


class SlideNotFoundError(SlideOpenError, FileNotFoundError):
    """No file is at the path."""


class SlideIsDirectoryError(SlideOpenError, IsADirectoryError):
    """The path is a directory that holds no single slide."""


class SlidePermissionError(SlideOpenError, PermissionError):
    """The file may not be read by this user."""


class EmptyFileError(SlideOpenError):
    """The file has no bytes."""


class NotAnImageError(SlideOpenError):
    """The bytes are not those of any image format."""


class LfsPointerError(NotAnImageError):
    """The file is a Git LFS pointer; the slide itself was never downloaded."""


class NotASlideError(SlideOpenError):
    """The file is a valid image of a kind that is not a slide."""


class TruncatedSlideError(SlideOpenError):
    """The file ends before its own index says that it does."""


class CorruptSlideError(SlideOpenError):
    """The file has the marks of its format, but its own structure makes no sense."""


class ZeroSizeError(SlideOpenError):
    """The image has no width or no height."""


class MissingCompanionError(SlideOpenError, FileNotFoundError):
    """A file or folder that belongs to the slide is not beside it."""


class UnsupportedCompressionError(SlideOpenError):
    """The pixels are compressed in a way that no reader here decodes."""


class UnsupportedFormatError(SlideOpenError):
    """The file is a slide or image, but no reader here takes it."""


class UnreadableRegionError(SlideError, OSError):
    """The slide is open, but pixels of this region cannot be decoded."""


class SlideChangedError(SlideError):
    """The file was replaced or changed while it was in use."""


class ResolutionError(SlideError, ValueError):
    """The slide's resolution (µm/px) is not known well enough."""


class MissingMppError(ResolutionError):
    """The metadata holds no resolution, and none was given."""


class ImplausibleMppError(ResolutionError):
    """The metadata's resolution cannot be that of a slide."""


class AnisotropicMppError(ResolutionError):
    """The metadata's horizontal and vertical resolution differ."""


class MppConflictError(ResolutionError):
    """A given resolution contradicts plausible metadata."""


class ChannelError(SlideError, ValueError):
    """The slide is not 8-bit RGB or grey, and nobody said how to see it."""


class AnnotationError(MicrotomeError, ValueError):
    """A file of polygons cannot be read as such."""


class TissueError(MicrotomeError, ValueError):
    """Tissue cannot be found as asked."""


class NoTissueError(TissueError):
    """The method found no tissue on the slide."""


class TileError(MicrotomeError, ValueError):
    """Tiles cannot be laid or read as asked."""


class NoTilesError(TileError):
    """The grid leaves no tile on the slide."""


class CoverageError(TileError):
    """Too many tiles of the slide are unreadable."""


class EncoderError(MicrotomeError):
    """Something is wrong with an encoder."""


class UnknownEncoderError(EncoderError, LookupError):
    """No encoder goes by this name."""


class WeightsError(EncoderError, ValueError):
    """The weights cannot be had, cannot be read, or are those of another network."""


class ModalityError(EncoderError, ValueError):
    """The pixels are of a kind that the encoder was not made for."""


class TileSizeError(EncoderError, ValueError):
    """The tiles are of a size that the encoder does not take."""


class ConversionError(EncoderError, RuntimeError):
    """A runtime cannot take the network, or computes something else than it should."""


class EncoderOutputError(EncoderError, ValueError):
    """An encoder gave NaN, infinity or a wrong shape."""


class WorkerError(MicrotomeError, RuntimeError):
    """All processes of a job died."""


class TrainingError(MicrotomeError, ArithmeticError):
    """A loss, a gradient or a weight is no longer finite."""


class EvaluationError(MicrotomeError, ValueError):
    """Labels and results cannot be compared as they are."""


class AttributionError(MicrotomeError, RuntimeError):
    """What the tiles add to a logit does not sum up to the logit."""


class OutputError(MicrotomeError):
    """Something is wrong with an output file or folder."""


class RecipeMismatchError(OutputError):
    """The output that is there was made with other settings."""


class MissingOutputError(OutputError, KeyError):
    """No output goes by this name."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError would put the sentence in quotes


class CorruptOutputError(OutputError, OSError):
    """The output that is there cannot be read."""


class OutputWriteError(OutputError, OSError):
    """The output cannot be written."""


class ClaimedError(OutputError):
    """Another process is making this output."""
