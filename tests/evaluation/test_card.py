import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from newslora.config import RunConfig
from newslora.evaluation.card import write_card
from newslora.evaluation.evaluate import evaluate_logits
from newslora.model.budget import Counts
from newslora.training.run_folder import RunFolder

NAMES = ("World", "Sports", "Business", "Sci/Tech")
REPORT = {
    "tables": {"train": {"source": "news.csv", "rows": 1200, "repaired": 340}},
    "rows": {"train": 1100, "validation": 58},
    "filters": {
        "empty": {"rows": 0, "examples": []},
        "near_duplicate": {"rows": 42, "examples": [{"place": "news.csv:7", "text": "The match was lost."}]},
    },
    "leaks": {"validation in train": {"rows": 0, "examples": []}},
}


@pytest.fixture
def run(small_run: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(small_run.path, tmp_path / "my-run")))


def evaluate(run: RunFolder, source: str = "data/test.csv") -> dict[str, Any]:
    labels = np.arange(40) % 4
    logits = np.eye(4)[np.where(np.arange(40) < 6, 0, labels)] * 3
    about = {"names": NAMES, "places": range(40), "source": source, "counts": Counts(23_456, 3_456_789)}
    return evaluate_logits(run, logits, labels.tolist(), **about)


def test_the_hub_can_read_it(run: RunFolder) -> None:
    results = evaluate(run)
    card = ModelCard.load(write_card(run, REPORT))
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-classification")
    assert {"lora", "news"} <= set(card.data.tags)
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "accuracy": results["accuracy"],
        "f1": results["macro_f1"],
    }
    assert card.data.eval_results[0].dataset_name == "test.csv"


def test_names_of_the_hub_are_given_and_local_paths_are_not(run: RunFolder) -> None:
    assert ModelCard.load(write_card(run)).data.base_model is None
    settings = {"model": {"backbone": "minilm"}, "data": {"train": "fancyzhx/ag_news"}}
    RunConfig.from_dict(settings).save(run.config_file)
    data = ModelCard.load(write_card(run)).data
    assert (data.base_model, data.datasets) == ("sentence-transformers/all-MiniLM-L6-v2", ["fancyzhx/ag_news"])


def test_it_says_what_was_trained_and_how_well_it_does(run: RunFolder) -> None:
    results = evaluate(run)
    text = write_card(run, REPORT).read_text()
    low, high = results["interval_95"]["accuracy"]
    for part in (
        "23,456 of 3,456,789 parameters are trained (budget 1,000,000)",
        "r = 8, alpha = 16, scaling alpha/r",
        "1,200 read, 340 of them repaired",
        "near duplicate 42",
        "| 1 | 1.4000 | 1.3000 | 0.4000 | 0.3800 |",
        f"| accuracy | {results['accuracy']:.4f} | {low:.4f} to {high:.4f} |",
        "AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=4)",
        "newslora train config.yaml",
    ):
        assert part in text
    assert "The match was lost" not in text


def test_without_a_test_table(run: RunFolder) -> None:
    card = ModelCard.load(write_card(run))
    assert card.data.eval_results is None
    assert "## Results" not in card.content
    assert "## Limits" in card.content
