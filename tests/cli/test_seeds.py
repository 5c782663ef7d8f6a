"""``newslora train --train.seeds`` as a user types it."""

import json

import pytest
from tests.cli.conftest import Command, Desk


def test_seeds_are_trained_and_told_of(command: Command, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    done = command(*desk.words(train_seeds="0,1", train_epochs=1))
    assert done.status == 0
    record = json.loads((desk.run / "seeds.json").read_text())
    assert f"{record['test']['accuracy']['mean']:.4f}" in done.out
    assert "Student's t over 2 seeds" in done.out
    again = command("train", "--output", desk.run, "--resume", "--json")
    assert json.loads(again.out) == {"run": str(desk.run), **record}


@pytest.mark.parametrize("seeds", ["3", "0,0", "0,x", "-1,2"])
def test_what_are_no_several_seeds_is_refused(command: Command, desk: Desk, seeds: str) -> None:
    done = command(*desk.words(train_seeds=seeds))
    assert (done.status, done.out) == (2, "")
    assert "train.seeds" in done.err
    assert done.err.count("\n") == 1
    assert not desk.run.exists()


def test_an_interrupt_names_the_command_that_goes_on(
    command: Command, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("newslora.seeds.train", interrupt)
        done = command(*desk.words(train_seeds="0,1", train_epochs=1))
    assert done.status == 1
    assert f"newslora train --resume --output {desk.run} goes on" in done.err
    assert command("train", "--output", desk.run, "--resume").status == 0
    assert (desk.run / "seeds.json").exists()
