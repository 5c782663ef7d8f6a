import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from newslora.data.encoding import Encoded
from newslora.errors import NewsloraError
from newslora.inference.export import export_run
from newslora.inference.onnx_model import OnnxModel, pad, padded_batches, threads
from newslora.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def graph(small_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "onnx"
    export_run(small_run.path, "onnx", folder)
    return folder


@given(st.lists(st.integers(1, 90), max_size=60), st.integers(1, 200))
def test_batches_hold_every_row_once_and_keep_to_the_tokens(lengths: list[int], tokens: int) -> None:
    given_lengths = np.array(lengths, dtype=np.int64)
    batches = list(padded_batches(given_lengths, tokens))
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * given_lengths[rows].max() <= tokens
    tops = [given_lengths[rows].max() for rows in batches]
    assert tops == sorted(tops, reverse=True)


def test_padding_stands_on_the_right() -> None:
    encoded = Encoded(np.array([5, 6, 7, 8, 9, 4], dtype=np.int32), np.array([0, 2, 5, 6]))
    ids, mask = pad(encoded, np.array([1, 2, 0]), padding=1)
    assert ids.tolist() == [[7, 8, 9], [4, 1, 1], [5, 6, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert (ids.dtype, mask.dtype) == (np.int64, np.int64)


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, number in (("3", 3), ("", len(os.sched_getaffinity(0))), ("0", len(os.sched_getaffinity(0)))):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert threads() == number


def test_no_article_no_logits(graph: Path) -> None:
    empty = Encoded(np.empty(0, dtype=np.int32), np.zeros(1, dtype=np.int64))
    assert OnnxModel(graph).logits(empty).shape == (0, 4)


def test_cores_that_share_the_batches_answer_as_one_does(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, 12, size=300)
    encoded = Encoded(draw.integers(5, 24, lengths.sum()).astype(np.int32), np.concatenate([[0], lengths.cumsum()]))
    answers = {}
    for cores in ("1", "2", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", cores)
        model = OnnxModel(graph)
        answers[cores] = model.logits(encoded)
        assert ("_narrow" in vars(model)) == (cores != "1")
    assert len(np.unique(answers["1"], axis=0)) > 200  # rows out of their order would show
    for cores in ("2", "3"):
        np.testing.assert_allclose(answers[cores], answers["1"], rtol=1e-5, atol=1e-6)


def test_a_graph_needs_no_pytorch(graph: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from newslora.inference.classifier import NewsClassifier\n"
        f"print(NewsClassifier.load({str(graph)!r}).predict(['Market shares rise'])[0]['label'])\n"
        "assert 'peft' not in sys.modules and 'accelerate' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("World", "Sports", "Business", "Sci/Tech")


def test_graphs_that_cannot_be_run(tmp_path: Path, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("newslora.json", "config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((graph / name).read_bytes())
    with pytest.raises(NewsloraError, match=r"model\.onnx: no such file; export the run again"):
        OnnxModel(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(NewsloraError, match=r"model\.onnx: cannot be run \(.+\); export the run again"):
        OnnxModel(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NewsloraError, match=r"install newslora\[onnx\]"):
        OnnxModel(graph)
