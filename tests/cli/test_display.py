import io

import pytest
from rich.console import Console

from newslora.cli import display
from newslora.data.story import RowCounts
from newslora.training.progress import Restarted


def test_what_others_print_stays_out_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    for to_json in (True, False):
        with display.result_alone(to_json):
            print("a worker died")
        assert capsys.readouterr() == (("", "a worker died\n") if to_json else ("a worker died\n", ""))


def test_what_comes_from_other_processes_is_shown() -> None:
    said = io.StringIO()
    with display.training(Console(file=said)) as report:
        report(RowCounts(1200, 60, None, 3, ("Courts", "Farming"), True))
        report(RowCounts(1200, 60, 50, 3, ("Courts", "Farming"), False))
        report(Restarted())
    first, second, third = said.getvalue().splitlines()
    assert first == (
        "data: 1,200 training, and more while training, 60 validation articles; 3 filtered out; classes Courts, Farming"
    )
    assert "60 validation, 50 test articles" in second
    assert third == "a worker was lost; all start again from the last checkpoint"
