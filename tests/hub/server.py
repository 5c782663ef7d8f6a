"""A loopback server that speaks as much of the Hugging Face hub's HTTP protocol as reading models and data sets needs.

Paths, headers and status codes are those that the hub gives to ``huggingface_hub``: small files are answered in
place, large ones (LFS) by a redirect to a store on another host, every file with its commit and its ETag.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]

_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?")
_FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_LARGE = (".safetensors", ".parquet", ".bin")


@dataclass(frozen=True)
class Repo:
    """What each commit of a repository holds, and the commit that each branch or tag stands for."""

    commits: dict[str, Files]
    refs: dict[str, str]


@dataclass
class Hub:
    """What is served, as ``{"models": {id: repo}, "datasets": {id: repo}}``, and a line for each answer given."""

    repos: dict[str, dict[str, Repo]]
    url: str = ""
    log: list[str] = field(default_factory=list)

    def downloads(self) -> list[str]:
        """Return the paths whose content was sent since last asked."""
        sent = [line.split()[2] for line in self.log if re.match(r"GET 20[06] (?!/api/)", line)]
        self.log.clear()
        return sent


@contextmanager
def serving(repos: dict[str, dict[str, Repo]]) -> Iterator[Hub]:
    """Serve repositories at ``hub.url`` until the block ends."""
    hub = Hub(repos)
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub})) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/store/"):
            self.send_store(path.removeprefix("/store/"))
        elif match := _API.fullmatch(path):
            self.send_api(*match.groups())
        elif match := _FILE.fullmatch(path):
            kind, name, revision, file = match.groups()
            self.send_file(kind or "models", name, revision, unquote(file))
        else:
            self.answer(404, b"Not Found")

    do_HEAD = do_POST = do_GET  # noqa: N815 - the names are the library's

    def send_api(self, kind: str, name: str, what: str | None, revision: str | None, below: str | None) -> None:
        commit, files = self.find(kind, name, revision or "main")
        if files is None:
            return
        match what:
            case "tree":
                recursive = parse_qs(urlsplit(self.path).query).get("recursive") in (["true"], ["True"], ["1"])
                self.send_json(_tree(files, unquote(below or ""), recursive))
            case "paths-info":
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                asked = {path.strip("/") for path in form.get("paths", [])}
                self.send_json([entry for entry in _tree(files, "", recursive=True) if entry["path"] in asked])
            case _:
                siblings = [{"rfilename": file} for file in files]
                self.send_json({"id": name, "sha": commit, "siblings": siblings, "tags": [], "private": False})

    def send_file(self, kind: str, name: str, revision: str, file: str) -> None:
        commit, files = self.find(kind, name, revision)
        if files is None:
            return
        known = {"X-Repo-Commit": commit}
        if file not in files:
            self.refuse("EntryNotFound", "Entry not found", known)
        elif file.endswith(_LARGE):
            digest = hashlib.sha256(files[file]).hexdigest()
            known |= {"X-Linked-Size": str(len(files[file])), "X-Linked-ETag": f'"{digest}"'}
            self.answer(
                302, b"", known | {"Location": f"{self.hub.url.replace('127.0.0.1', 'localhost')}/store/{digest}"}
            )
        else:
            self.send_body(files[file], known | {"ETag": f'"{_blob(files[file])}"'})

    def find(self, kind: str, name: str, revision: str) -> tuple[str, Files | None]:
        """Return a revision's commit and files; answer for what there is not."""
        repo = self.hub.repos[kind].get(name)
        if repo is None:
            self.refuse("RepoNotFound", "Repository not found")
            return "", None
        commit = repo.refs.get(unquote(revision), revision)
        if commit not in repo.commits:
            self.refuse("RevisionNotFound", f"Invalid rev id: {unquote(revision)}")
        return commit, repo.commits.get(commit)

    def send_store(self, digest: str) -> None:
        commits = (repo.commits for kind in self.hub.repos.values() for repo in kind.values())
        bodies = (body for held in commits for files in held.values() for body in files.values())
        self.send_body(next(body for body in bodies if hashlib.sha256(body).hexdigest() == digest), {})

    def send_body(self, body: bytes, headers: dict[str, str]) -> None:
        headers |= {"Accept-Ranges": "bytes"}
        if match := _RANGE.fullmatch(self.headers.get("Range", "")):
            first, last = int(match[1]), min(int(match[2] or len(body)), len(body) - 1)
            headers |= {"Content-Range": f"bytes {first}-{last}/{len(body)}"}
            self.answer(206, body[first : last + 1], headers)
        else:
            self.answer(200, body, headers)

    def send_json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        fault = {"X-Error-Code": code, "X-Error-Message": message}
        self.answer(404, json.dumps({"error": message}).encode(), fault | (headers or {}))

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.hub.log.append(f"{self.command} {status} {self.path}")
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Stay silent: the hub's log holds what was answered."""


def _tree(files: Files, below: str, recursive: bool) -> list[dict[str, Any]]:
    """Return the entries of a folder, as the hub lists them."""
    folders = {str(parent) for file in files for parent in PurePosixPath(file).parents if str(parent) != "."}
    entries = [_entry(file, body) for file, body in files.items()]
    entries += [{"type": "directory", "path": folder, "size": 0, "oid": _blob(folder.encode())} for folder in folders]
    inside = [entry for entry in entries if not below or entry["path"].startswith(f"{below}/")]
    return [entry for entry in inside if recursive or str(PurePosixPath(entry["path"]).parent) == (below or ".")]


def _entry(file: str, body: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": file, "size": len(body), "oid": _blob(body)}
    if file.endswith(_LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
    return entry


def _blob(body: bytes) -> str:
    """Return the name that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
