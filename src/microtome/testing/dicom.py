"""A writer of DICOM whole-slide images, for samples and tests; it needs pydicom, which microtome does not."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from microtome.errors import ConfigError, OutputWriteError
from microtome.slides.pyramid import Canvas, TilePyramid
from microtome.slides.write import TileCoding
from microtome.storage import flush_to_disk

_ROOT = "2.25."  # UIDs made from a UUID


def write_dicom(folder: Path, canvas: Canvas, *, coding: TileCoding | None = None) -> None:
    """Write a VL Whole Slide Microscopy series: one file per level, TILED_FULL, JPEG baseline frames.

    The folder appears whole. The compressed frames of one level are held in memory, a few MB per 100 megapixels.

    Args:
        folder: Where to; must not exist. Its name is the series' identity: the same name gives the same UIDs.
        canvas: 8-bit RGB pixels with a known mpp (DICOM has no way to say that it is unknown).
        coding: Tiles and JPEG quality.

    Raises:
        ConfigError: If pydicom is not installed, the canvas is not 8-bit RGB or has no mpp, or the compression is
            not JPEG.
        OutputWriteError: If the folder exists.

    References:
        DICOM PS3.3, A.32.8 (VL Whole Slide Microscopy Image IOD) and C.8.12.4. Specimen, container and ICC modules
        are left out: this is a file for readers' tests, not for an archive.
    """
    coding = coding or TileCoding()
    try:
        import pydicom  # noqa: F401 - asked for here, so that its absence is told before anything is written
    except ImportError as error:
        raise ConfigError("Writing DICOM needs pydicom, which is not installed. Run: pip install pydicom.") from error
    if not canvas.is_rgb or canvas.mpp is None or coding.compression != "jpeg":
        raise ConfigError(
            f"A DICOM slide holds 8-bit RGB of a known mpp as JPEG here. Got {len(canvas.channels)} channel(s) of "
            f"{canvas.dtype}, mpp {canvas.mpp}, {coding.compression}."
        )
    with (
        _folder_whole(folder) as temporary,
        TilePyramid(canvas, coding.tile_px, spool=temporary, workers=coding.workers) as pyramid,
    ):
        for level in range(len(canvas.downsamples)):
            frames = [_jpeg(tile, coding.quality) for tile in pyramid.tiles(level)]
            path = temporary / f"level-{level}.dcm"
            _dataset(folder.name, canvas, coding, level, frames).save_as(path, enforce_file_format=True)
            flush_to_disk(path)


@contextmanager
def _folder_whole(folder: Path) -> Iterator[Path]:
    if folder.exists():
        raise OutputWriteError(f"'{folder}' is there already. A DICOM series is written to a new folder.")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _jpeg(tile: np.ndarray, quality: int) -> bytes:
    _, data = cv2.imencode(".jpg", tile[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


def _uid(*parts: object) -> str:
    """A UID that is the same for the same parts."""
    return _ROOT + str(uuid.uuid5(uuid.NAMESPACE_OID, "microtome/" + "/".join(map(str, parts))).int)


def _dataset(name: str, canvas: Canvas, coding: TileCoding, level: int, frames: list[bytes]) -> Any:  # noqa: ANN401 - pydicom has no types here
    """One level's file."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage

    downsample, size = canvas.downsamples[level], canvas.level_sizes[level]
    spacing = (canvas.mpp or 0) * downsample / 1000
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = UID(_uid(name, "level", level))
    image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    image.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = _uid(name, "study"), _uid(name, "series")
    image.FrameOfReferenceUID, image.PyramidUID = _uid(name, "frame"), _uid(name, "pyramid")
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "Synthetic", name, "", ""
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "", "", "", ""
    image.Modality, image.Manufacturer, image.ManufacturerModelName = "SM", "microtome", "synthetic"
    image.SeriesNumber, image.InstanceNumber = 1, level + 1
    image.ContainerIdentifier = name
    image.ImageType = (
        ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"] if level == 0 else ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    )
    image.DimensionOrganizationType = "TILED_FULL"
    image.TotalPixelMatrixColumns, image.TotalPixelMatrixRows = size.width, size.height
    image.TotalPixelMatrixFocalPlanes = image.NumberOfOpticalPaths = 1
    image.Columns = image.Rows = coding.tile_px
    image.NumberOfFrames = len(frames)
    image.SamplesPerPixel, image.PlanarConfiguration, image.PixelRepresentation = 3, 0, 0
    image.PhotometricInterpretation = "YBR_FULL_422"
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.LossyImageCompression = "01"
    image.LossyImageCompressionRatio = round(3 * coding.tile_px**2 * len(frames) / max(1, sum(map(len, frames))), 2)
    image.LossyImageCompressionMethod = "ISO_10918_1"
    image.ImagedVolumeWidth, image.ImagedVolumeHeight = spacing * size.width, spacing * size.height
    image.ImagedVolumeDepth = 0.004
    image.VolumetricProperties, image.SpecimenLabelInImage, image.BurnedInAnnotation = "VOLUME", "NO", "NO"
    image.FocusMethod, image.ExtendedDepthOfField = "AUTO", "NO"
    image.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    image.TotalPixelMatrixOriginSequence = [_with(XOffsetInSlideCoordinateSystem=0, YOffsetInSlideCoordinateSystem=0)]
    pixels = _with(PixelSpacing=[f"{spacing:.10g}"] * 2, SliceThickness=0.004)  # at most 16 characters
    kind = _with(FrameType=image.ImageType)
    image.SharedFunctionalGroupsSequence = [
        _with(PixelMeasuresSequence=[pixels], WholeSlideMicroscopyImageFrameTypeSequence=[kind])
    ]
    image.OpticalPathSequence = [_with(OpticalPathIdentifier="1", ObjectiveLensPower=round(10 / (canvas.mpp or 1), 2))]
    image.PixelData = encapsulate(frames)
    return image


def _with(**values: Any) -> Any:  # noqa: ANN401 - a data set of any attributes
    """A nested data set."""
    from pydicom.dataset import Dataset

    nested = Dataset()
    for name, value in values.items():
        setattr(nested, name, value)
    return nested
