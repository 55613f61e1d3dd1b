"""Our few DICOM attributes against pydicom, on real files and every encoding."""

import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    VLWholeSlideMicroscopyImageStorage,
)

from microtome.errors import MissingCompanionError
from microtome.slides.companions import check_dicom, dicom_series
from microtome.slides.dicom_header import DicomHeader, is_dicom, read_dicom_header


def expected(path) -> DicomHeader:
    data = pydicom.dcmread(path, stop_before_pixels=True)
    return DicomHeader(
        sop_class=str(data.file_meta.MediaStorageSOPClassUID),
        series=str(data.SeriesInstanceUID),
        image_type=tuple(data.get("ImageType") or ("",)),
        transfer_syntax=str(data.file_meta.TransferSyntaxUID),
        photometric=data.get("PhotometricInterpretation", ""),
        bits=data.get("BitsAllocated", 0),
        width=data.get("TotalPixelMatrixColumns", 0) or data.get("Columns", 0),
        height=data.get("TotalPixelMatrixRows", 0) or data.get("Rows", 0),
        concatenation=str(data.get("ConcatenationUID", "")),
        part=data.get("InConcatenationNumber", 0),
        parts=data.get("InConcatenationTotalNumber", 0),
    )


def test_real_files(shared):
    seen = 0
    for top in ("wsi", "wsi_odd"):
        for path in sorted((shared / "data" / top).rglob("*")):
            if path.is_file() and is_dicom(path.read_bytes()[:132]):
                assert read_dicom_header(path) == expected(path), path
                seen += 1
    assert seen == 27


def write(path, syntax, **fields):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = syntax
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    data = FileDataset(
        str(path), {}, file_meta=meta, preamble=b"\0" * 128, is_little_endian=little, is_implicit_VR=implicit
    )
    data.SOPClassUID, data.SeriesInstanceUID = VLWholeSlideMicroscopyImageStorage, UID("1.2.840.7")
    data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.PhotometricInterpretation, data.BitsAllocated, data.Rows, data.Columns = "RGB", 8, 64, 32
    inner = Dataset()
    inner.CodeValue = "x"
    outer = Dataset()
    outer.ConceptNameCodeSequence = Sequence([inner, inner])
    data.AcquisitionContextSequence = Sequence([outer])
    data["AcquisitionContextSequence"].is_undefined_length = True
    outer.is_undefined_length_sequence_item = True
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = 70_000, 50_000
    for name, value in fields.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_encodings(tmp_path, syntax):
    path = tmp_path / "a.dcm"
    write(path, syntax)
    header = read_dicom_header(path)
    assert header == expected(path)
    assert (header.width, header.height, header.is_volume) == (70_000, 50_000, True)


def test_deflated_files_are_known_by_their_class(tmp_path):
    path = tmp_path / "a.dcm"
    write(path, DeflatedExplicitVRLittleEndian)
    header = read_dicom_header(path)
    assert header.is_slide
    assert header.is_deflated
    check_dicom(path, header)


def test_missing_parts_of_a_split_image(tmp_path):
    for part in (1, 2, 4):
        write(
            tmp_path / f"{part}.dcm",
            ExplicitVRLittleEndian,
            ConcatenationUID="1.5",
            InConcatenationNumber=part,
            InConcatenationTotalNumber=4,
        )
    path = tmp_path / "1.dcm"
    with pytest.raises(MissingCompanionError, match="4 parts, of which 3"):
        check_dicom(path, read_dicom_header(path))
    assert [p.name for p in dicom_series(path)] == ["1.dcm", "2.dcm", "4.dcm"]
