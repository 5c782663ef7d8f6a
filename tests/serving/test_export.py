"""Exports behind the same API, without PyTorch where the export needs none."""

import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.serving.stand import TEXTS

from newslora.inference.classifier import NewsClassifier
from newslora.inference.export import export_run
from newslora.serving.app import create_app
from newslora.serving.library import Library

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from fastapi.testclient import TestClient
from newslora.serving.app import create_app
from newslora.serving.library import Library
import newslora.cli.serve
import newslora.serving.server
with TestClient(create_app(Library([Path(sys.argv[1])]))) as client:
    print(client.post("/v1/classify", json={"texts": sys.argv[2]}).json()["results"][0]["score"])
"""


@pytest.fixture(scope="module", params=["merged", "onnx"])
def export(request: pytest.FixtureRequest, runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exports") / str(request.param)
    data = output.with_suffix(".csv")
    data.write_text("text\n" + "".join(f"{text}\n" for text in TEXTS))
    export_run(runs[0], request.param, output, str(data))
    return output


def test_an_export_is_served_beside_runs(export: Path, runs: list[Path]) -> None:
    with TestClient(create_app(Library([export, runs[1], runs[0]]))) as client:
        listed = client.get("/v1/models").json()
        assert [model["name"] for model in listed["models"]] == [export.name, "desk-1", "desk-0"]
        assert listed["models"][0]["explains"] == (export.name == "merged")
        body = {"texts": TEXTS}
        exported, adapter = (
            client.post("/v1/classify", json=body | {"adapter": name}).json()["results"]
            for name in (export.name, "desk-0")
        )
        for one, other in zip(exported, adapter, strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        refused = client.post("/v1/explain", json={"text": TEXTS[0], "adapter": export.name})
        assert refused.status_code == (200 if export.name == "merged" else 422)


def test_a_graph_is_served_without_torch(export: Path, runs: list[Path]) -> None:
    if export.name != "onnx":
        return
    command = [sys.executable, "-c", WITHOUT_TORCH, str(export), TEXTS[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = NewsClassifier.load(runs[0]).predict([TEXTS[0]])[0]["score"]
    assert float(done.stdout) == pytest.approx(expected, abs=1e-4)
