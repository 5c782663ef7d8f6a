"""The server as it runs: in a process of its own, over sockets."""

import json
import os
import random
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.serving.stand import TEXTS, Server, serving

from newslora.cli.main import main
from newslora.inference.classifier import NewsClassifier


@pytest.fixture(scope="module")
def shelf(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    for run in runs[2:8]:
        shutil.copytree(run, folder / run.name)
    return folder


@pytest.fixture(scope="module")
def server(runs: list[Path], shelf: Path) -> Iterator[Server]:
    with serving(*runs[:2], "--adapters", shelf) as server:
        yield server


@pytest.fixture(scope="module")
def expected(runs: list[Path]) -> dict[str, list[dict[str, Any]]]:
    return {run.name: NewsClassifier.load(run).predict(TEXTS) for run in runs[:8]}


def is_right(response: httpx.Response, answer: dict[str, Any]) -> bool:
    [result] = response.json()["results"]
    found = {entry["label"]: entry["score"] for entry in result["scores"]}
    return found == pytest.approx(answer["scores"], abs=1e-4)


def test_adapters_come_and_go_under_load_without_a_failure(server: Server, expected: dict[str, Any]) -> None:
    fixed, changing = ("desk-0", "desk-1", "desk-2", "desk-3"), ("desk-4", "desk-5", "desk-6", "desk-7")
    done, told = threading.Event(), Counter[int]()

    def change() -> int:
        rounds = 0
        with httpx.Client(base_url=server.url, timeout=30) as client:
            while not done.is_set():
                name = changing[rounds % 4]
                assert client.delete(f"/v1/adapters/{name}").status_code == 204
                assert client.post("/v1/adapters", json={"name": name}).status_code == 201
                assert client.post("/v1/adapters", json={"name": "desk-2"}).status_code == 201  # anew, while asked
                assert client.post("/v1/adapters/rescan").status_code == 200
                rounds += 1
        return rounds

    def ask(seed: int) -> None:
        draw = random.Random(seed)
        with httpx.Client(base_url=server.url, timeout=30) as client:
            for _ in range(125):
                name, i = draw.choice(fixed + changing), draw.randrange(len(TEXTS))
                response = client.post("/v1/classify", json={"texts": TEXTS[i], "adapter": name})
                told[response.status_code] += 1
                if response.status_code == 404:
                    assert name in changing
                else:
                    assert is_right(response, expected[name][i])

    with ThreadPoolExecutor(9) as pool:
        changes = pool.submit(change)
        askers = [pool.submit(ask, seed) for seed in range(8)]
        try:
            for asker in askers:
                asker.result()
        finally:
            done.set()
        assert changes.result() >= 3
    assert told[200] + told[404] == 1000
    assert told[200] > 800


def test_answers_are_not_held_back(server: Server) -> None:
    seconds = []
    with httpx.Client(base_url=server.url) as client:
        for text in TEXTS:
            started = time.perf_counter()
            client.post("/v1/classify", json={"texts": text})
            seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[len(seconds) // 2] < 0.03  # with Nagle's algorithm it is 0.04 at least


def malformed(count: int) -> Iterator[dict[str, Any]]:
    """Requests that are wrong in every way, as arguments of ``httpx.Client.request``."""
    draw = random.Random(7)
    good = json.dumps({"texts": ["Harbour cargo", "storm"], "adapter": "desk-1", "top_k": 1, "threshold": 0.5})
    values = [None, True, -1, 1e400, "x" * 70, [], {}, [[]], {"a": 1}, 10**400, "\ud800", "\0", 0.5, [None], ["a", 3]]
    for i in range(count):
        body: Any
        match i % 8:
            case 0:  # cut off
                body = good[: draw.randrange(1, len(good) - 1)]
            case 1:  # a sign too much, or another one
                place = draw.randrange(len(good))
                body = f'{good[:place]}{draw.choice("{[}],:" + chr(0))}"{good[place:]}'
            case 2:  # wrong types
                field = draw.choice(["texts", "adapter", "top_k", "threshold", "unknown"])
                value = draw.choice([v for v in values if not (field == "texts" and v in ("x" * 70, "\0"))])
                value = [] if value is None or (field == "threshold" and value in (0.5, True)) else value
                body = json.dumps(json.loads(good) | {field: value})
            case 3:  # deep
                depth = draw.choice([500, 5_000, 500_000])
                body = draw.choice(["[" * depth, '{"texts":' * depth, "[" * depth + "]" * depth])
            case 4:  # not UTF-8
                body = good.encode().replace(b"storm", bytes(draw.choices(range(128, 192), k=5)))
            case 5:  # no JSON at all
                body = draw.choice([b"", b"null", b"7", b'"text"', b"texts=a", b"<xml/>", b"\xff\xfe\x00", b"NaN"])
            case 6:  # no such place, or no such method
                path = draw.choice(
                    ["/v1", "/v1/classify/x", "/v2/classify", "/page/../../etc/passwd", "/v1/adapters/%00"]
                )
                yield {"method": draw.choice(["POST", "PUT", "PATCH", "DELETE"]), "url": path, "content": good}
                continue
            case _:  # huge, once in a while; else another content type
                body = "x" * 3_000_000 if i % 64 == 7 else good[::-1]
        yield {"method": "POST", "url": draw.choice(["/v1/classify", "/v1/explain"]), "content": body}


def test_a_thousand_malformed_requests_are_refused_and_leave_it_up(server: Server) -> None:
    told = Counter[int]()
    with httpx.Client(base_url=server.url, timeout=30, headers={"content-type": "application/json"}) as client:
        for request in malformed(1000):
            response = client.request(**request)
            assert 400 <= response.status_code < 500, (request, response.text)
            assert isinstance(response.json()["error"], str)
            told[response.status_code] += 1
        assert client.post("/v1/classify", json={"texts": TEXTS[0]}).status_code == 200
    assert set(told) >= {400, 404, 405, 413, 422}
    assert not [line for line in server.lines if line["level"] == "error"]


def talk(server: Server, *pieces: bytes, pause: float = 0.0, wait: float = 15.0) -> bytes:
    """Send pieces over a socket and return all that comes back until it is closed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
        return answer


HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_what_is_hardly_http_is_refused(server: Server) -> None:
    for pieces in (
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],
        [b"GARBAGE\r\n\r\n"],
        [HEAD + b"Content-Length: -5\r\n\r\n"],
        [HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"],
        [HEAD + b"X: " + b"y" * 200_000 + b"\r\n\r\n"],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\nhello\r\n"],
    ):
        answer = talk(server, *pieces)
        assert answer.startswith(b"HTTP/1.1 4"), (pieces, answer[:80])
    assert httpx.get(f"{server.url}/healthz").status_code == 200


@pytest.mark.slow
def test_slow_heads_and_bodies_are_given_up_and_delay_no_one(server: Server) -> None:
    with ThreadPoolExecutor(9) as pool:
        heads = [pool.submit(talk, server, HEAD) for _ in range(4)]
        bodies = [pool.submit(talk, server, HEAD + b"Content-Length: 90\r\n\r\n", b'{"texts"') for _ in range(4)]
        time.sleep(0.5)
        started = time.perf_counter()
        assert httpx.post(f"{server.url}/v1/classify", json={"texts": TEXTS[0]}).status_code == 200
        assert time.perf_counter() - started < 2
        assert {head.result() for head in heads} == {b""}
        for body in bodies:
            assert body.result().startswith(b"HTTP/1.1 408")
            assert b"the request did not arrive within 10 s" in body.result()


def test_a_body_that_grows_too_large_without_a_length_is_refused(server: Server) -> None:
    chunk = b"%x\r\n" % (1 << 20) + b"x" * (1 << 20) + b"\r\n"
    answer = talk(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk, chunk, b"1\r\nx\r\n", b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    answer = talk(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 33)  # never ends
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.slow
def test_schemathesis_finds_no_fault(server: Server) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    found = []
    for operation in schema.get_all_operations():

        @settings(
            max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
        )
        @given(case=operation.ok().as_strategy())
        def check(case: schemathesis.Case) -> None:
            # No schema says that a text must hold words, or which labels a model has.
            excluded = [positive_data_acceptance] if case.operation.path == "/v1/explain" else []
            case.call_and_validate(timeout=30, excluded_checks=excluded)
            found.append(case)

        check()
    assert len(found) > 100


@pytest.mark.slow
def test_the_end_loses_no_accepted_request(runs: list[Path], expected: dict[str, Any]) -> None:
    ended = threading.Event()
    told, broken = Counter[int](), Counter[str]()

    def ask(seed: int) -> None:
        draw = random.Random(seed)
        while not ended.is_set():
            name, i = f"desk-{draw.randrange(2)}", draw.randrange(len(TEXTS))
            body = json.dumps({"texts": [TEXTS[i]] * draw.randrange(1, 30), "adapter": name})
            connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
            try:
                connection.request("POST", "/v1/classify", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = json.loads(response.read())
            except (OSError, HTTPException) as error:
                broken[type(error).__name__] += 1
                continue
            finally:
                connection.close()
            told[response.status] += 1
            if response.status == 200:
                assert answer["results"][-1]["score"] == pytest.approx(expected[name][i]["score"], abs=1e-4)

    with serving(*runs[:2]) as server, ThreadPoolExecutor(12) as pool:
        askers = [pool.submit(ask, seed) for seed in range(12)]
        time.sleep(3)
        status = server.end()
        ended.set()
        for asker in askers:
            asker.result()
    answered = Counter(line["status"] for line in server.lines if line.get("route") == "/v1/classify")
    assert status == 0
    assert set(told) <= {200, 429}
    assert told == answered, "an answer was not sent, or did not arrive"
    # A connection still waiting to be accepted as the door closes is reset.
    assert set(broken) <= {"ConnectionRefusedError", "ConnectionResetError"}, broken
    assert broken["ConnectionResetError"] <= 12, "at most one for each asker"
    assert [line["event"] for line in server.lines if line["event"] != "request"] == ["serving", "stopping", "stopped"]


def test_what_cannot_be_served_is_told_in_one_line(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short").write_text("secret\n")
    shutil.copytree(runs[0], tmp_path / "desk-0")
    (tmp_path / "two words").symlink_to(runs[1])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, error in (
            ((tmp_path / "none",), "no such folder"),
            ((runs[0], "--adapters", tmp_path / "none"), "is no folder; give the folder that holds the run folders"),
            ((runs[0], tmp_path / "desk-0"), "another run is named 'desk-0' too; rename one of the folders"),
            ((runs[0], "--token-file", tmp_path / "short"), "short: the token must have 16 printable ASCII characters"),
            ((runs[0], "--token-file", tmp_path / "none"), "cannot be read; give a file that holds the token"),
            ((runs[0], "--port", port), f"127.0.0.1:{port}: cannot listen there (Address already in use"),
            ((runs[0], "--port", 70000), "--port: 70000 is no port; give 0 to 65535"),
        ):
            capsys.readouterr()
            assert main(["serve", *map(str, words)]) == 2
            told = capsys.readouterr().err
            assert told.startswith("error: ") and told.count("\n") == 1
            assert error in told
    monkeypatch.setitem(os.environ, "NEWSLORA_TOKEN", "short")
    assert main(["serve", str(runs[0])]) == 2
    assert "NEWSLORA_TOKEN: the token must have" in capsys.readouterr().err
