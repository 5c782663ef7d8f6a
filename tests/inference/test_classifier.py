import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import peft
import pytest
import torch

from newslora.errors import NewsloraError
from newslora.inference.bulk import predict_file
from newslora.inference.classifier import NewsClassifier
from newslora.model.adapter import quiet
from newslora.model.temperature import save_calibration
from newslora.training.run_folder import RunFolder

TEXTS = [
    "Market shares rise on talks",
    "coach",
    "The probe and the comet, the probe and the comet, the probe and the comet, the probe and the comet",
    "Troops fall",
]


@pytest.fixture
def run(small_run: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(small_run.path, tmp_path / "run")))


@pytest.fixture(scope="module")
def classifier(small_run: RunFolder) -> NewsClassifier:
    return NewsClassifier.load(small_run.path)


def test_probabilities_are_those_of_plain_peft(small_run: RunFolder, classifier: NewsClassifier) -> None:
    with quiet():
        model = peft.AutoPeftModelForSequenceClassification.from_pretrained(str(small_run.adapter), num_labels=4).eval()
    rows = classifier.predict_proba(TEXTS)
    for text, row in zip(TEXTS, rows, strict=True):
        batch = classifier.model.tokenizer(text, truncation=True, max_length=12, return_tensors="pt")
        with torch.no_grad():
            expected = model(**batch).logits.softmax(dim=-1).numpy()[0]
        assert row == pytest.approx(expected, abs=1e-5)


def test_answers_are_in_the_order_of_the_texts(classifier: NewsClassifier) -> None:
    together = classifier.predict_proba(TEXTS)
    alone = np.vstack([classifier.predict_proba([text]) for text in TEXTS])
    assert together == pytest.approx(alone, abs=1e-6)
    assert len({tuple(row) for row in together.round(4)}) == len(TEXTS)


def test_an_answer_has_its_label_score_and_scores(classifier: NewsClassifier) -> None:
    answers, rows = classifier.predict(TEXTS), classifier.predict_proba(TEXTS)
    for answer, row in zip(answers, rows, strict=True):
        assert list(answer["scores"]) == ["World", "Sports", "Business", "Sci/Tech"]
        assert list(answer["scores"].values()) == pytest.approx(row.tolist())
        assert answer["label"] == max(answer["scores"], key=answer["scores"].get)
        assert answer["score"] == max(answer["scores"].values())
    assert json.loads(json.dumps(answers)) == answers


def test_no_text_no_answer(classifier: NewsClassifier) -> None:
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, 4)


def test_texts_are_repaired_as_at_training(classifier: NewsClassifier) -> None:
    clean, debris = classifier.predict_proba(["Market shares rise", "Market\\shares &lt;b&gt;rise&lt;/b&gt;"])
    assert debris == pytest.approx(clean, abs=1e-7)


def test_the_temperature_of_the_run_is_applied(run: RunFolder, classifier: NewsClassifier) -> None:
    save_calibration(run.adapter, 3.0, {})
    warm = NewsClassifier.load(run.path).predict_proba(TEXTS)
    powers = classifier.predict_proba(TEXTS) ** (1 / 3)
    assert warm == pytest.approx(powers / powers.sum(axis=1, keepdims=True), abs=1e-6)


def test_the_adapter_folder_alone_is_enough(run: RunFolder, tmp_path: Path, classifier: NewsClassifier) -> None:
    moved = Path(shutil.move(run.adapter, tmp_path / "elsewhere"))
    assert NewsClassifier.load(moved).predict_proba(TEXTS) == pytest.approx(classifier.predict_proba(TEXTS))


def test_padded_engine_gives_the_same(small_run: RunFolder, classifier: NewsClassifier) -> None:
    padded = NewsClassifier.load(small_run.path, engine="padded")
    assert padded.predict_proba(TEXTS) == pytest.approx(classifier.predict_proba(TEXTS), abs=1e-5)


def test_threads_get_their_own_answers(small_run: RunFolder, classifier: NewsClassifier) -> None:
    fresh = NewsClassifier.load(small_run.path)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda i: fresh.predict_proba([TEXTS[i % 4]])[0], range(40)))
    expected = classifier.predict_proba(TEXTS)
    assert np.array(rows) == pytest.approx(expected[np.arange(40) % 4], abs=1e-6)


def test_weights_are_read_when_first_needed(run: RunFolder) -> None:
    fresh = NewsClassifier.load(run.path)
    (run.adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(NewsloraError, match="adapter"):
        fresh.predict(["the match"])


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ("the match", "texts: one string was given; give a list of articles, such as [text]"),
        (["the match", None], "texts[1]: not a text but NoneType; give the article as a string"),
        (["the match", "", "x"], "texts[1]: no text"),
        (["<br> \n"], "texts[0]: no text (empty, or only blanks and markup)"),
    ],
)
def test_what_is_no_list_of_texts(classifier: NewsClassifier, texts: list[str], reason: str) -> None:
    with pytest.raises(NewsloraError, match=f"^{re.escape(reason)}"):
        classifier.predict(texts)


def test_folders_without_a_classifier(tmp_path: Path) -> None:
    with pytest.raises(NewsloraError, match="none: no such folder; give a run folder"):
        NewsClassifier.load(tmp_path / "none")
    with pytest.raises(NewsloraError, match="holds no trained adapter"):
        NewsClassifier.load(tmp_path)


def test_a_file_in_blocks_gets_the_same_probabilities(tmp_path: Path, classifier: NewsClassifier) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    predict_file(classifier, str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), block=3)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    answers = classifier.predict(TEXTS)
    assert [row["label"] for row in rows] == [answer["label"] for answer in answers]
    assert [row["score"] for row in rows] == pytest.approx([answer["score"] for answer in answers], abs=1e-6)
