"""The hub path against a loopback server that speaks the hub's protocol, in a process of its own."""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

COMMITS = {"main": "a" * 40, "v1": "b" * 40}
CARD = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train.parquet\n"
CARD += b"- config_name: brief\n  data_files:\n  - split: train\n    path: brief.parquet\n---\n"


def parquet(*texts: str) -> bytes:
    names = {"names": ["Money", "Sport"], "_type": "ClassLabel"}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": names}
    table = pa.table({"text": list(texts), "label": [row % 2 for row in range(len(texts))]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()


FILES = {
    COMMITS["main"]: {"README.md": CARD, "train.parquet": parquet("rates", "cup"), "brief.parquet": parquet("r", "c")},
    COMMITS["v1"]: {
        "README.md": CARD,
        "train.parquet": parquet("old rates", "old cup"),
        "brief.parquet": parquet("o", "p"),
    },
}


class Hub(BaseHTTPRequestHandler):
    """Serves one data set, ``acme/news``, with two revisions and two configurations."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if not path.removeprefix("/api").startswith("/datasets/acme/news"):
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        kind, _, rest = path.partition("/news")[2].strip("/").partition("/")
        revision, _, name = rest.partition("/")
        commit = COMMITS.get(revision or "main", revision)
        if commit not in FILES:
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if kind == "resolve":
            return self.file(commit, name)
        entries = [
            {"type": "file", "path": file, "size": len(body), "oid": digest(body)}
            for file, body in FILES[commit].items()
        ]
        info = {
            "id": "acme/news",
            "sha": commit,
            "siblings": [{"rfilename": file} for file in FILES[commit]],
            "tags": [],
        }
        return self.answer(200, json.dumps(entries if kind == "tree" else info).encode(), {})

    do_HEAD = do_GET  # noqa: N815

    def file(self, commit: str, name: str) -> None:
        if name not in FILES[commit]:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        body = FILES[commit][name]
        return self.answer(200, body, {"ETag": f'"{digest(body)}"', "X-Repo-Commit": commit})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def digest(body: bytes) -> str:
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


NOBODY = "http://127.0.0.1:9"
EXPECTED = ["acme/news", ["rates", "cup"], ["Money", "Sport"], [1, 2], ["Money", "Sport"]]
PROGRAM = """
import json, sys
from newslora import NewsloraError
from newslora.config import DataConfig
from newslora.data.sources import read_table
for source, split, settings in json.loads(sys.argv[1]):
    try:
        table = read_table(source, DataConfig(**settings), split=split)
        print(json.dumps([table.source, table.texts, table.labels, table.places, table.classes]))
    except NewsloraError as error:
        print(json.dumps(str(error)))
"""


def ask(hub: str, home: Path, *queries: tuple[str, str, dict[str, str]], offline: bool = False) -> list[Any]:
    settings = {"HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(queries)],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_splits_revisions_and_configurations(hub: str, tmp_path: Path) -> None:
    first, old, brief, split, revision, missing = ask(
        hub,
        tmp_path,
        ("acme/news", "train", {}),
        ("acme/news", "train", {"revision": "v1"}),
        ("acme/news", "train", {"configuration": "brief"}),
        ("acme/news", "dev", {}),
        ("acme/news", "train", {"revision": "v9"}),
        ("acme/none", "train", {}),
    )
    assert first == EXPECTED
    assert (old[1], brief[1]) == (["old rates", "old cup"], ["r", "c"])
    assert split.startswith("acme/news: split dev of the hub data set cannot be had (Unknown split")
    assert revision.startswith("acme/news: split train of the hub data set cannot be had (")
    assert missing.startswith("acme/none: split train of the hub data set cannot be had (")
    assert not any("\n" in message for message in (split, revision, missing))


def test_offline_what_was_cached_is_found_and_what_was_not_is_refused(hub: str, tmp_path: Path) -> None:
    latest, old = ("acme/news", "train", {}), ("acme/news", "train", {"revision": "v1"})
    pinned, missing = ("acme/news", "train", {"revision": "a" * 40}), ("acme/none", "train", {})
    assert ask(hub, tmp_path, latest) == [EXPECTED]
    again, commit, unknown, tag = ask(NOBODY, tmp_path, latest, pinned, missing, old, offline=True)
    assert again == commit == EXPECTED
    assert unknown.startswith("acme/none: split train of the hub data set cannot be had (")
    assert tag.startswith("acme/news: split train of the hub data set cannot be had (")


def test_the_revision_cached_last_is_not_taken_for_another(hub: str, tmp_path: Path) -> None:
    # datasets itself gives the one cached last to whoever asks while the hub is out of reach.
    latest, old = ("acme/news", "train", {}), ("acme/news", "train", {"revision": "v1"})
    assert [table[1][0] for table in ask(hub, tmp_path, latest, old)] == ["rates", "old rates"]
    tables = ask(NOBODY, tmp_path, latest, old, offline=True)
    assert [table[1][0] for table in tables] == ["rates", "old rates"]
