"""Models and data sets by id, revision, cache and offline mode, against a loopback server of the hub's protocol."""

import json
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load
from tests.hub.conftest import CUSTOM, DATA, MODEL, NEW, OLD, PICKLED, TOPICS, ask, briefs, run
from tests.hub.server import Hub, Repo
from tests.model.conftest import tiny_tokenizer

Query = tuple[str, dict[str, str]]


def model(adapter: Path, **settings: str) -> Query:
    return "model", {"adapter": str(adapter), "backbone": MODEL, **settings}


def rows(split: str, **settings: str) -> Query:
    return "rows", {"source": DATA, "split": split, **settings}


@dataclass(frozen=True)
class Filled:
    """A cache in which all that ``queries`` ask for was put by reading it, with the answers."""

    home: Path
    queries: list[Query]
    answers: list[dict[str, Any]]


@pytest.fixture(scope="module")
def filled(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    home = tmp_path_factory.mktemp("filled")
    queries = [
        model(home / "adapter-new"),
        model(home / "adapter-old", revision="v1"),
        rows("test"),
        rows("train", revision="v1"),
        rows("train", configuration="letters"),
        rows("test", revision=OLD),
    ]
    hub.log.clear()
    answers = ask(hub.url, home, *queries)
    assert any("/store/" in path for path in hub.downloads())
    return Filled(home, queries, answers)


def weights(hub: Hub, commit: str) -> dict[str, str]:
    """Return the digest of each of the encoder's tensors; the pooler is no part of a classifier."""
    tensors = load(hub.repos["models"][MODEL].commits[commit]["model.safetensors"])
    digests = {f"roberta.{name}": sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors.items()}
    return {name: digest for name, digest in digests.items() if ".pooler." not in name}


def test_a_model_is_that_of_its_revision(hub: Hub, filled: Filled) -> None:
    assert weights(hub, NEW).keys() == weights(hub, OLD).keys()
    for answer, revision, commit in zip(filled.answers, (None, "v1"), (NEW, OLD), strict=False):
        read = answer["value"]
        assert {name: read["weights"][name] for name in weights(hub, NEW)} == weights(hub, commit)
        assert read["ids"] == tiny_tokenizer("roberta")("cab bad ab")["input_ids"]
        file = hub.repos["models"][MODEL].commits[commit]["model.safetensors"]
        noted = {"backbone": MODEL, "revision": revision, "commit": commit, "weights_sha256": sha256(file).hexdigest()}
        assert read["noted"] == noted | {"max_length": 16}


def test_the_adapter_names_the_commit_to_plain_peft(filled: Filled) -> None:
    config = json.loads((filled.home / "adapter-old" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (MODEL, OLD)


def test_a_table_is_that_of_its_split_revision_and_configuration(filled: Filled) -> None:
    wanted = [briefs(1, 30), briefs(10, 90), briefs(2, 6), briefs(11, 30)]
    for answer, texts in zip(filled.answers[2:], wanted, strict=True):
        read = answer["value"]
        assert read["texts"] == texts
        assert read["labels"] == [TOPICS[row % 3] for row in range(len(texts))]
        assert read["places"] == list(range(1, len(texts) + 1))
        assert (read["source"], read["classes"], read["label_column"]) == (DATA, TOPICS, "label")


def test_what_was_read_once_is_not_downloaded_again(hub: Hub, filled: Filled) -> None:
    hub.log.clear()
    assert ask(hub.url, filled.home, *filled.queries) == filled.answers
    assert hub.log, "which commit a branch stands for is asked anew"
    assert hub.downloads() == []


def test_offline_all_that_is_in_the_cache_is_read_without_a_request(hub: Hub, filled: Filled) -> None:
    hub.log.clear()
    assert ask(hub.url, filled.home, *filled.queries, offline=True) == filled.answers
    assert hub.log == []


@pytest.mark.slow
def test_what_is_in_the_cache_is_read_though_the_hub_is_down(down: str, filled: Filled) -> None:
    assert ask(down, filled.home, *filled.queries) == filled.answers


@pytest.mark.slow
def test_a_branch_that_moves_is_followed(
    hub: Hub, filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(shutil.copytree(filled.home, tmp_path / "home", symlinks=True))
    queries = [model(home / "adapter"), rows("test"), rows("test", revision=NEW)]
    for kind, name in (("models", MODEL), ("datasets", DATA)):
        monkeypatch.setitem(hub.repos[kind], name, Repo(hub.repos[kind][name].commits, {"main": OLD}))
    for offline in (False, True):
        moved, latest, pinned = (answer["value"] for answer in ask(hub.url, home, *queries, offline=offline))
        assert moved["noted"]["commit"] == OLD
        assert moved["weights"] == filled.answers[1]["value"]["weights"]
        assert (latest["texts"], pinned["texts"]) == (briefs(11, 30), briefs(1, 30))


FAULTS = [
    (model(Path(), backbone="newsroom/none"), "newsroom/none: cannot be loaded", "the hub has none of this name"),
    (model(Path(), revision="v9"), f"{MODEL} at revision v9: ", "the hub has no revision 'v9'"),
    (model(Path(), revision="9" * 40), f"{MODEL} at revision 999", "the hub has no revision '999"),
    (model(Path(), backbone=PICKLED), f"{PICKLED}: ", "no file named model.safetensors"),
    (model(Path(), backbone=CUSTOM), f"{CUSTOM}: ", "contains custom code"),
    (rows("test", source="newsroom/none"), "newsroom/none: split test ", "the hub has none of this name"),
    (rows("dev"), f"{DATA}: split dev ", "Unknown split \"dev\". Should be one of ['train', 'test']"),
    (rows("test", configuration="words"), f"{DATA}: ", "'words' not found. Available: ['default', 'letters']"),
    (rows("test", revision="v9"), f"{DATA}: ", "the hub has no revision 'v9'"),
    (rows("test", revision="9" * 40), f"{DATA}: ", "the hub has no revision '999"),
]


def test_what_the_hub_has_not_is_refused_in_one_line(hub: Hub, tmp_path: Path) -> None:
    answers = ask(hub.url, tmp_path, *(query for query, *_ in FAULTS))
    for answer, (_, start, reason) in zip(answers, FAULTS, strict=True):
        assert answer["error"].startswith(start)
        assert reason in answer["error"]
        assert "\n" not in answer["error"]
    assert not (tmp_path / "ran").exists(), "a model's own code was run"
    assert not list(tmp_path.rglob("snapshots/*/*.py")) + list(tmp_path.rglob("snapshots/*/*.bin"))


@pytest.mark.parametrize("kind", ["offline", "down", pytest.param("silent", marks=pytest.mark.slow)])
def test_without_hub_and_cache_it_ends_soon_in_one_line(
    kind: str, hub: Hub, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = hub.url if kind == "offline" else request.getfixturevalue(kind)
    queries = [rows("test"), model(tmp_path), model(tmp_path, revision=NEW)]
    answers = ask(url, tmp_path, *queries, offline=kind == "offline")
    why = "offline mode is on" if kind == "offline" else "the hub cannot be reached"
    for answer, (_, arguments) in zip(answers, queries, strict=True):
        assert answer["error"].startswith(arguments.get("source", MODEL))
        assert f"({why}, and the cache does not hold it)" in answer["error"]
        assert "\n" not in answer["error"]
        assert answer["seconds"] < 20


def newslora(url: str, home: Path, *words: str, offline: bool = False) -> Any:
    done = run(url, home, "-m", "newslora.cli.main", *words, "--json", offline=offline)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


TRAIN = ["train", "--data.train", DATA, "--data.test", DATA, "--model.backbone", MODEL, "--model.revision", "v1"]
TRAIN += ["--data.near_duplicates", "no", "--data.max_length", "16"]
TRAIN += ["--lora.r", "4", "--train.epochs", "4", "--train.batch_size", "8"]


@pytest.mark.slow
def test_a_run_from_the_hub_is_evaluated_and_predicts_offline(hub: Hub, tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "run"
    trained = newslora(hub.url, home, *TRAIN, "--output", str(folder))
    assert trained["evaluation"]["n"] == 30
    assert trained["evaluation"]["accuracy"] > 0.6  # a third by chance; a topic's words begin with letters of its own
    assert json.loads((folder / "adapter" / "newslora.json").read_text())["commit"] == OLD
    assert list(json.loads((folder / "adapter" / "config.json").read_text())["id2label"].values()) == TOPICS
    hub.log.clear()
    measured = newslora(hub.url, home, "evaluate", str(folder), "--data", DATA, offline=True)
    assert measured == trained["evaluation"]
    answers = newslora(hub.url, home, "predict", str(folder), *briefs(1, 30), offline=True)
    right = sum(answer["label"] == TOPICS[row % 3] for row, answer in enumerate(answers))
    assert right / 30 == pytest.approx(measured["accuracy"])
    assert hub.log == []


@pytest.mark.slow
def test_a_fault_at_the_command_line_is_one_line_and_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    words = [*TRAIN, "--data.test_split", "dev", "--output", str(tmp_path / "run")]
    done = run(hub.url, tmp_path / "home", "-m", "newslora.cli.main", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {DATA}: split dev of the hub data set cannot be had (Unknown split")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
