import pytest

from microtome.errors import CorruptOutputError
from microtome.tasks.training.logs import CsvLog


def test_rows_after_the_step_and_a_row_that_was_cut_off_are_removed(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("step,epoch,loss\n2,0,0.5\n4,0,0.25\n6,1,0.2\n8,1")
    log = CsvLog(path, 4)
    log.add({"step": 6, "epoch": 1, "loss": 0.125})
    assert path.read_text().split() == ["step,epoch,loss", "2,0,0.5", "4,0,0.25", "6,1,0.125"]


def test_a_column_that_comes_later_is_added_to_all_rows(tmp_path):
    log = CsvLog(tmp_path / "train.csv", 0)
    log.add({"step": 1, "loss": 0.5})
    log.add({"step": 2, "loss": 0.4, "extra": 7})
    log.add({"step": 3, "loss": 0.3})
    assert (tmp_path / "train.csv").read_text().split() == ["step,loss,extra", "1,0.5,", "2,0.4,7", "3,0.3,"]


def test_a_file_that_is_no_such_log_is_refused(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("slide_id,label\nA,1\n")
    with pytest.raises(CorruptOutputError, match=r"train\.csv"):
        CsvLog(path, 10)
    assert path.read_text() == "slide_id,label\nA,1\n"
