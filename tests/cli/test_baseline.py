"""``newslora baseline`` as a user types it."""

import json

from tests.cli.conftest import Command, Desk


def words(desk: Desk, name: str, *more: object) -> list[object]:
    _, *settings = desk.words(train_epochs=None)
    return ["baseline", name, *settings, *more]


def test_a_baseline_is_fitted_and_shown(command: Command, desk: Desk) -> None:
    done = command(*words(desk, "svm"))
    assert done.status == 0
    assert "120" in done.out or "114 training" in done.out
    assert "macro-F1" in done.out
    assert (desk.run / "evaluation.json").exists()


def test_json_is_the_evaluation(command: Command, desk: Desk) -> None:
    done = command(*words(desk, "majority", "--json"))
    result = json.loads(done.out)
    assert (result["baseline"], result["evaluation"]["n"]) == ("majority", 30)
    assert result["evaluation"] == json.loads((desk.run / "evaluation.json").read_text())


def test_several_seeds(command: Command, desk: Desk) -> None:
    done = command(*words(desk, "svm", "--train.seeds", "0,1", "--json"))
    result = json.loads(done.out)
    assert result["seeds"] == [0, 1]
    assert len(result["test"]["accuracy"]["values"]) == 2
    again = command("baseline", "svm", "--output", desk.run, "--resume", "--json")
    assert json.loads(again.out) == result


def test_the_settings_of_a_run_give_the_baseline_its_rows(command: Command, desk: Desk, trained: object) -> None:
    done = command("baseline", "logistic", f"{trained.path}/config.yaml", "--output", desk.run, "--json")
    assert json.loads(done.out)["evaluation"]["n"] == 30


def test_faults_are_told_in_one_line(command: Command, desk: Desk) -> None:
    for more, told in (
        (words(desk, "forest"), "unknown baseline; did you mean"),
        (words(desk, "svm", "--data.train", "none.csv"), "none.csv: no such file"),
        (words(desk, "svm", "--resume"), "config.yaml: cannot be read"),
        (["baseline", "svm"], "--output"),
    ):
        done = command(*more)
        assert (done.status, done.out) == (2, "")
        assert told in done.err
        assert done.err.count("\n") == 1
    assert not desk.run.exists()


def test_a_single_baseline_is_not_resumed(command: Command, desk: Desk) -> None:
    assert command(*words(desk, "majority")).status == 0
    done = command("baseline", "majority", "--output", desk.run, "--resume")
    assert (done.status, done.out) == (2, "")
    assert "--resume: a baseline of one seed is quick and starts over" in done.err
