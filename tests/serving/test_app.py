import asyncio
import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from tests.serving.stand import TEXTS, make_roberta, make_run

from newslora.inference.classifier import NewsClassifier
from newslora.serving import batcher, explain
from newslora.serving.adapters import BackboneRunner
from newslora.serving.app import create_app
from newslora.serving.library import Library
from newslora.serving.limits import MAX_CHARACTERS, MAX_TEXTS, Limits
from newslora.serving.observe import JsonFormatter

TOKEN = "a token of many letters"


def scores(result: dict[str, Any]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in result["scores"]}


@pytest.fixture(scope="module")
def expected(runs: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """What each run answers alone."""
    return {run.name: NewsClassifier.load(run).predict(TEXTS) for run in runs}


def check(response: httpx.Response, expected: list[dict[str, Any]]) -> None:
    assert response.status_code == 200, response.text
    for result, answer in zip(response.json()["results"], expected, strict=True):
        assert result["label"] == answer["label"]
        assert result["score"] == pytest.approx(answer["score"], abs=1e-4)
        assert scores(result) == pytest.approx(answer["scores"], abs=1e-4)


def test_one_text_and_many(client: TestClient, expected: dict[str, Any]) -> None:
    check(client.post("/v1/classify", json={"texts": TEXTS[0]}), expected["desk-0"][:1])
    check(client.post("/v1/classify", json={"texts": TEXTS}), expected["desk-0"])


def test_each_request_names_its_adapter(client: TestClient, expected: dict[str, Any]) -> None:
    for name, answers in expected.items():
        response = client.post("/v1/classify", json={"texts": TEXTS[:3], "adapter": name})
        assert response.json()["adapter"] == name
        check(response, answers[:3])


def test_memory_is_given_back_after_so_many_batches(
    library: Library, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[int] = []
    monkeypatch.setattr(batcher, "_TRIM_BATCHES", 3)
    monkeypatch.setattr(batcher, "trim_memory", lambda: trims.append(1))
    with TestClient(create_app(library, Limits())) as client:
        for number in range(7):
            check(client.post("/v1/classify", json={"texts": TEXTS[number]}), expected["desk-0"][number : number + 1])
    assert len(trims) == 2


def test_mixed_requests_at_once_are_all_answered_rightly(library: Library, expected: dict[str, Any]) -> None:
    async def ask() -> list[httpx.Response]:
        app = create_app(library, Limits(queue_tokens=10**6))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            bodies = [{"texts": [TEXTS[i % 40], TEXTS[(i + 7) % 40]], "adapter": f"desk-{i % 16}"} for i in range(320)]
            answers = await asyncio.gather(*(client.post("/v1/classify", json=body) for body in bodies))
            metrics = (await client.get("/metrics")).text
            batches = float(metrics.partition("newslora_batch_tokens_count ")[2].split()[0])
            assert batches < 80, "requests ran one by one"
            return answers

    for i, response in enumerate(asyncio.run(ask())):
        answers = expected[f"desk-{i % 16}"]
        check(response, [answers[i % 40], answers[(i + 7) % 40]])


def test_labels_come_by_probability_as_many_as_asked(client: TestClient) -> None:
    body = {"texts": TEXTS[0], "adapter": "desk-4"}
    [whole] = client.post("/v1/classify", json=body).json()["results"]
    assert [entry["score"] for entry in whole["scores"]] == sorted(scores(whole).values(), reverse=True)
    assert len(whole["scores"]) == 6
    [cut] = client.post("/v1/classify", json=body | {"top_k": 2}).json()["results"]
    assert cut["scores"] == whole["scores"][:2]


def test_it_abstains_below_the_threshold(client: TestClient) -> None:
    answers = client.post("/v1/classify", json={"texts": TEXTS, "threshold": 0.75}).json()["results"]
    assert {answer["label"] is None for answer in answers} == {True, False}
    for answer in answers:
        assert (answer["label"] is None) == (answer["score"] < 0.75)


def test_a_run_alone_is_served_the_same(runs: list[Path], expected: dict[str, Any]) -> None:
    with TestClient(create_app(Library(runs[5:6]))) as client:
        check(client.post("/v1/classify", json={"texts": TEXTS}), expected["desk-5"])
        words = client.post("/v1/explain", json={"text": TEXTS[0]}).json()["words"]
    with TestClient(create_app(Library(runs[4:6]))) as client:
        shared = client.post("/v1/explain", json={"text": TEXTS[0], "adapter": "desk-5"}).json()["words"]
    assert [word["weight"] for word in words] == pytest.approx([word["weight"] for word in shared], abs=1e-4)


def test_words_add_up_to_the_labels_margin(
    client: TestClient, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "FEWEST", 128)
    monkeypatch.setattr(explain, "MOST", 128)  # random weights make a rough path
    found = client.post("/v1/explain", json={"text": TEXTS[1], "adapter": "desk-1"}).json()
    assert [found["text"][word["start"] : word["end"]] for word in found["words"]] == [
        w["text"] for w in found["words"]
    ]
    assert " ".join(word["text"] for word in found["words"]).replace(" .", ".") == TEXTS[1]
    classifier = NewsClassifier.load(runs[1])
    logits = classifier.logits([TEXTS[1]])[0]
    blank = classifier.logits(["[PAD] " * len(found["words"])])[0]
    target = classifier.names.index(found["label"])

    def margin(row: np.ndarray) -> float:
        return float(row[target] - np.delete(row, target).mean())

    assert target == logits.argmax()
    total = sum(word["weight"] for word in found["words"])
    assert total == pytest.approx(margin(logits) - margin(blank), abs=0.005)


def test_another_label_can_be_explained(client: TestClient) -> None:
    body = {"text": TEXTS[1], "adapter": "desk-3"}
    first = client.post("/v1/explain", json=body | {"label": "topic 3-0"}).json()
    second = client.post("/v1/explain", json=body | {"label": "topic 3-1"}).json()
    assert (first["label"], second["label"]) == ("topic 3-0", "topic 3-1")
    assert first["words"] != second["words"]
    refused = client.post("/v1/explain", json=body | {"label": "Sports"})
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("label: must be one of topic 3-0, topic 3-1")


def test_models_are_listed(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert (listed["default"], listed["changeable"], len(listed["models"])) == ("desk-0", False, 16)
    wanted = {"name": "desk-2", "labels": [f"topic 2-{i}" for i in range(4)], "max_length": 26}
    assert listed["models"][2] == wanted | {"explains": True, "removable": False}


def test_health_and_readiness(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200
    client.app.state.service.stopping = True  # type: ignore[attr-defined]
    assert client.get("/readyz").status_code == 503


def test_metrics_count(client: TestClient) -> None:
    client.post("/v1/classify", json={"texts": TEXTS[:5], "adapter": "desk-3"})
    client.post("/v1/classify", json={"texts": []})
    client.get("/nowhere")
    lines = client.get("/metrics").text.splitlines()
    assert 'newslora_texts_total{adapter="desk-3"} 5.0' in lines
    assert 'newslora_requests_total{route="/v1/classify",status="200"} 1.0' in lines
    assert 'newslora_requests_total{route="/v1/classify",status="422"} 1.0' in lines
    assert 'newslora_requests_total{route="other",status="404"} 1.0' in lines
    assert "newslora_waiting_tokens 0.0" in lines
    assert "newslora_models 16.0" in lines


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "texts: Field required"),
        ({"texts": TEXTS[0], "adaptor": "x"}, "adaptor: Extra inputs are not permitted"),
        ({"texts": TEXTS[0], "top_k": 0}, "top_k: Input should be greater than or equal to 1"),
        ({"texts": TEXTS[0], "threshold": 2}, "threshold: Input should be"),
        ({"texts": TEXTS[0], "adapter": "../desk-0"}, "adapter: String should match pattern"),
    ],
)
def test_what_is_wrong_is_named(client: TestClient, body: dict[str, Any], error: str) -> None:
    response = client.post("/v1/classify", json=body)
    assert response.status_code == 422
    assert response.json()["error"].startswith(error)


def test_a_text_without_words_is_told_beside_the_answers_of_others(
    client: TestClient, expected: dict[str, Any]
) -> None:
    response = client.post("/v1/classify", json={"texts": [TEXTS[0], "<br>", TEXTS[1]]})
    first, second, third = response.json()["results"]
    assert second == {
        "label": None,
        "score": 0.0,
        "scores": [],
        "error": "no text (empty, or only blanks and markup); give the article's words",
    }
    for result, answer in zip((first, third), expected["desk-0"], strict=False):
        assert (result["label"], result["error"]) == (answer["label"], None)
    refused = client.post("/v1/explain", json={"text": "<br>"})
    assert (refused.status_code, refused.json()["error"][:13]) == (422, "text: no text")


def test_limits_of_number_and_length(client: TestClient) -> None:
    for texts in (["word"] * (MAX_TEXTS + 1), "word " * MAX_CHARACTERS, ["x", "y" * (MAX_CHARACTERS + 1)], "", []):
        assert client.post("/v1/classify", json={"texts": texts}).status_code == 422
    assert client.post("/v1/classify", json={"texts": ["word"] * MAX_TEXTS}).status_code == 200
    assert client.post("/v1/classify", json={"texts": "y" * MAX_CHARACTERS}).status_code == 200


def test_a_large_body_is_refused_with_and_without_its_length(client: TestClient) -> None:
    body = json.dumps({"texts": "x" * 3_000_000}).encode()
    pieces = (body[i : i + 65536] for i in range(0, len(body), 65536))
    for content in (body, pieces):
        response = client.post("/v1/classify", content=content, headers={"content-type": "application/json"})
        assert response.status_code == 413
        assert "larger than 2,097,152 bytes" in response.json()["error"]


def test_an_unknown_adapter_is_not_found(client: TestClient) -> None:
    response = client.post("/v1/classify", json={"texts": TEXTS[0], "adapter": "nobody"})
    assert response.status_code == 404
    assert response.json() == {"error": "adapter: there is none of that name; GET /v1/models lists them"}


def test_past_the_queue_it_says_when_to_come_back(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    run = BackboneRunner.run

    def slow(self: BackboneRunner, groups: Any) -> Any:
        time.sleep(0.3)
        return run(self, groups)

    monkeypatch.setattr(BackboneRunner, "run", slow)

    async def ask() -> tuple[list[httpx.Response], httpx.Response]:
        app = create_app(library, Limits(queue_tokens=100))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            responses = await asyncio.gather(
                *(client.post("/v1/classify", json={"texts": TEXTS[i]}) for i in range(30))
            )
            return responses, await client.post("/v1/classify", json={"texts": TEXTS[0]})

    responses, after = asyncio.run(ask())
    statuses = [response.status_code for response in responses]
    assert set(statuses) == {200, 429}
    assert after.status_code == 200
    for response in responses:
        if response.status_code == 429:
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"].startswith("too many requests at once; try again in")


def test_who_waits_too_long_is_told(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackboneRunner, "run", lambda self, groups: time.sleep(0.4) or [])
    with TestClient(create_app(library, Limits(answer_seconds=0.1)), raise_server_exceptions=False) as client:
        response = client.post("/v1/classify", json={"texts": TEXTS[0]})
    assert response.status_code == 503
    assert response.json()["error"] == "the answer took too long; send fewer texts"


def test_a_fault_of_the_model_fails_its_batch_alone(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(BackboneRunner, "run", lambda self, groups: 1 / 0)
        assert client.post("/v1/classify", json={"texts": TEXTS[0]}).status_code == 500
    assert client.post("/v1/classify", json={"texts": TEXTS[0]}).status_code == 200


def test_a_token_is_asked_for(library: Library) -> None:
    with TestClient(create_app(library, token=TOKEN)) as client:
        for path in ("/v1/models", "/metrics"):
            refused = client.get(path)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert client.get(path, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        for wrong in (f"Bearer {TOKEN}x", TOKEN, "Bearer ", "Basic abc", f"bearer{TOKEN}"):
            assert client.get("/v1/models", headers={"authorization": wrong}).status_code == 401
        for path in ("/", "/page/app.js", "/openapi.json", "/healthz", "/readyz"):
            assert client.get(path).status_code == 200


def test_the_page_may_load_nothing_but_its_own(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert client.get("/page/app.js").headers["x-content-type-options"] == "nosniff"
    assert client.get("/page/../app.py").status_code == 404
    assert client.get("/page/%2e%2e/app.py").status_code == 404


def test_pages_of_other_sites_cannot_post(client: TestClient) -> None:
    response = client.post("/v1/classify", json={"texts": "x"}, headers={"sec-fetch-site": "cross-site"})
    assert response.status_code == 403


def test_logs_hold_no_word_of_an_article(
    client: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    word = "zanzibarian"
    client.post("/v1/classify", json={"texts": [f"{word} harvest"], "adapter": "desk-1"})
    client.post("/v1/classify", json={"texts": [f"{word} harvest"], word: 1})
    client.post("/v1/explain", json={"text": f"{word} harvest", "label": word})
    client.get(f"/{word}?{word}={word}")
    monkeypatch.setattr(BackboneRunner, "run", lambda self, groups: {}[groups[0][1][0]])
    client.post("/v1/classify", json={"texts": f"{word} harvest"})
    lines = [JsonFormatter().format(record) for record in caplog.records if not record.name.startswith("httpx")]
    entries = [json.loads(line) for line in lines if '"request"' in line]
    assert [entry["status"] for entry in entries] == [200, 422, 422, 404, 500]
    assert entries[0] | {"ms": 0, "time": ""} == {
        "time": "", "level": "info", "event": "request", "method": "POST", "route": "/v1/classify", "status": 200,
        "ms": 0, "adapter": "desk-1", "texts": 1,
    }  # fmt: skip
    assert not [line for line in lines if word in line or "harvest" in line]


# Adapters that come and go.


@pytest.fixture
def shelf(runs: list[Path], tmp_path: Path) -> Path:
    folder = tmp_path / "shelf"
    for run in runs[1:4]:
        shutil.copytree(run, folder / run.name)
    return folder


@pytest.fixture
def changing(runs: list[Path], shelf: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Library(runs[:1], shelf)), raise_server_exceptions=False) as client:
        yield client


def names(client: TestClient) -> list[str]:
    return [model["name"] for model in client.get("/v1/models").json()["models"]]


def test_adapters_are_removed_and_added(changing: TestClient, expected: dict[str, Any]) -> None:
    assert names(changing) == ["desk-0", "desk-1", "desk-2", "desk-3"]
    assert changing.delete("/v1/adapters/desk-2").status_code == 204
    assert changing.delete("/v1/adapters/desk-2").status_code == 404
    assert names(changing) == ["desk-0", "desk-1", "desk-3"]
    body = {"texts": TEXTS, "adapter": "desk-2"}
    assert changing.post("/v1/classify", json=body).status_code == 404
    added = changing.post("/v1/adapters", json={"name": "desk-2"})
    assert (added.status_code, added.json()["name"], added.json()["removable"]) == (201, "desk-2", True)
    check(changing.post("/v1/classify", json=body), expected["desk-2"])


def test_a_rescan_finds_what_changed(changing: TestClient, shelf: Path, runs: list[Path], expected: Any) -> None:
    shutil.copytree(runs[7], shelf / "desk-7")
    shutil.rmtree(shelf / "desk-1")
    shutil.rmtree(shelf / "desk-3")
    shutil.copytree(runs[8], shelf / "desk-3", copy_function=shutil.copy)
    shutil.copytree(runs[9], shelf / "damaged")
    (shelf / "damaged" / "adapter" / "adapter_model.safetensors").write_bytes(b"no")
    (shelf / "notes").mkdir()
    found = changing.post("/v1/adapters/rescan").json()
    assert (found["added"], found["removed"]) == (["desk-3", "desk-7"], ["desk-1"])
    assert list(found["failed"]) == ["damaged"]
    assert str(shelf) not in found["failed"]["damaged"]
    check(changing.post("/v1/classify", json={"texts": TEXTS, "adapter": "desk-3"}), expected["desk-8"])
    assert changing.post("/v1/adapters/rescan").json()["added"] == []


def test_what_was_given_at_the_start_stays(
    changing: TestClient, client: TestClient, shelf: Path, runs: list[Path]
) -> None:
    assert changing.delete("/v1/adapters/desk-0").status_code == 409
    shutil.copytree(runs[9], shelf / "desk-0")
    assert changing.post("/v1/adapters", json={"name": "desk-0"}).status_code == 409
    for response in (
        client.post("/v1/adapters", json={"name": "desk-1"}),
        client.post("/v1/adapters/rescan"),
        client.delete("/v1/adapters/desk-1"),
    ):
        assert response.status_code == 403
        assert response.json()["error"] == "adapters cannot be changed; start newslora serve with --adapters DIR"


@pytest.mark.parametrize(
    "name", ["..", "../desk-9", "a/b", "/etc", ".hidden", "", "a" * 65, "desk-1\0", "désk", "%2e%2e", "a\nb"]
)
def test_names_lead_nowhere_else(changing: TestClient, shelf: Path, runs: list[Path], name: str) -> None:
    shutil.copytree(runs[9], shelf.parent / "desk-9")
    response = changing.post("/v1/adapters", json={"name": name})
    assert response.status_code == 422
    assert str(shelf.parent) not in response.text


def test_links_are_not_followed(changing: TestClient, shelf: Path, runs: list[Path]) -> None:
    (shelf / "elsewhere").symlink_to(runs[9])
    (shelf / "half").mkdir()
    (shelf / "half" / "adapter").symlink_to(runs[9] / "adapter")
    for name in ("elsewhere", "half"):
        assert changing.post("/v1/adapters", json={"name": name}).status_code == 404
    assert changing.post("/v1/adapters/rescan").json()["added"] == []


def test_an_adapter_of_another_backbone_is_told(changing: TestClient, shelf: Path, tmp_path: Path) -> None:
    make_run(shelf / "strange", make_roberta(tmp_path / "other", seed=5), ["a", "b"], 0)
    response = changing.post("/v1/adapters", json={"name": "strange"})
    assert response.status_code == 422
    assert "is on backbone" in response.json()["error"]
    assert changing.post("/v1/classify", json={"texts": TEXTS[0]}).status_code == 200
