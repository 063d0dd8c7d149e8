"""Lines of metrics: no line missing, none twice, none broken."""

import errno

import pytest

from sparsek.callbacks import RunLogger


def log(logger, *lines):
    for step, line in enumerate(lines):
        logger.log_metrics(line, step)
        logger.save()


def content(logger):
    with open(f"{logger.log_dir}/metrics.csv", newline="") as file:
        return file.read()


def test_lines_are_cut_back_and_continued_whatever_columns_came_later(tmp_path):
    whole = RunLogger(tmp_path, "whole", 0)
    log(whole, {"a": 1.5}, {"a": 2.5}, {"b": 3.5}, {"a": 0.1, "b": 0.2})
    first = RunLogger(tmp_path, "killed", 0)
    log(first, {"a": 1.5}, {"a": 2.5}, {"b": 3.5})
    second = RunLogger(tmp_path, "killed", 0, keep=True)
    second.experiment.cut(2)
    for step, line in ((2, {"b": 3.5}), (3, {"a": 0.1, "b": 0.2})):
        second.log_metrics(line, step)
        second.save()
    assert content(second) == content(whole)
    assert second.experiment.lines == 4


def test_a_line_that_was_cut_short_is_dropped(tmp_path):
    logger = RunLogger(tmp_path, "x", 0)
    log(logger, {"a": 1.5})
    with open(f"{logger.log_dir}/metrics.csv", "a") as file:
        file.write("2.")
    again = RunLogger(tmp_path, "x", 0, keep=True)
    log(again, {"a": 2.5})
    assert content(again) == "a,step\r\n1.5,0\r\n2.5,0\r\n"


def test_without_keep_a_version_begins_anew(tmp_path):
    log(RunLogger(tmp_path, "x", 0), {"a": 1.5})
    with pytest.warns(UserWarning, match="exists and is not empty"):
        again = RunLogger(tmp_path, "x", 0).experiment
    assert again.lines == 0


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    logger = RunLogger(tmp_path, "x", 0)
    log(logger, {"a": 1.5})
    before, opened = content(logger), type(logger.experiment._path).open

    class Half:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(logger.experiment._path), "open", lambda path, *a, **o: Half(opened(path, *a, **o)))
    with pytest.raises(OSError, match="No space"):
        log(logger, {"a": 2.5})
    monkeypatch.undo()
    assert content(logger) == before
