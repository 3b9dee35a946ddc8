"""A stand-in for the Hub's model repositories, which Hugging Face's own client talks to: strict, and with a memory.

It knows the requests of `create_repo`, `preupload_lfs_files`, `create_commit`, `create_tag`, `create_branch`,
`list_repo_tree`, `repo_info` and downloads, and refuses everything else. Bytes that were sent without a commit are
nowhere to be seen, a commit must name the present head as its parent, digests are checked, and tokens may read or
write.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 10_000
"""Bytes from which a file is stored by LFS."""
WRITER, READER = "hf_writer", "hf_reader"


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repo:
    """A repository: commits, each with its files, and the names of some."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    """Paths that are stored by LFS."""

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        names = sorted((path, git_oid(data)) for path, data in files.items())
        oid = hashlib.sha1(json.dumps([branch, len(self.commits), names]).encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def find(self, revision: str) -> str | None:
        found = self.branches.get(revision) or self.tags.get(revision)
        return found or (revision if revision in self.commits else None)


class ModelHub(ThreadingHTTPServer):
    """The server and what it remembers. `faults` maps a part of a path to the answers it shall get next: a status, or
    0 to cut the connection."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.sent: dict[str, bytes] = {}
        """Uploaded LFS objects by SHA-256."""
        self.uploads: Counter[str] = Counter()
        self.requests: list[str] = []
        self.faults: dict[str, list[int]] = {}
        self.gated: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        held = self.repos[repo]
        return held.commits[held.find(revision)]


def client_environment(hub: ModelHub) -> dict[str, str]:
    """The environment of a process whose Hugging Face client talks to this server, without a token."""
    settings = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        settings.pop(name, None)
    return settings


class _Refused(Exception):
    def __init__(self, status: int, code: str = "") -> None:
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        for part, statuses in self.server.faults.items():
            if part in f"{self.command} {path}" and statuses:
                status = statuses.pop(0)
                if not status:
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
                return self._answer(status, {"error": "a fault of the test"})
        try:
            self._route(path, body)
        except _Refused as e:
            self._answer(e.status, {"error": e.code}, {"X-Error-Code": e.code} if e.code else {})

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _serve

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _route(self, path: str, body: bytes) -> None:
        routes = (
            ("POST", r"/api/repos/create", self._create),
            ("POST", r"/api/validate-yaml", lambda _: self._answer(200, {"errors": [], "warnings": []})),
            ("POST", r"/api/models/([\w.-]+/[\w.-]+)/preupload/(.+)", self._preupload),
            ("POST", r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", self._batch),
            ("PUT", r"/lfs/([0-9a-f]{64})", self._put),
            ("POST", r"/verify", self._verify),
            ("POST", r"/api/models/([\w.-]+/[\w.-]+)/commit/(.+)", self._commit),
            ("POST", r"/api/models/([\w.-]+/[\w.-]+)/tag/(.+)", self._tag),
            ("POST", r"/api/models/([\w.-]+/[\w.-]+)/branch/(.+)", self._branch),
            ("GET", r"/api/models/([\w.-]+/[\w.-]+)/refs", self._refs),
            ("GET", r"/api/models/([\w.-]+/[\w.-]+)/tree/(.+)", self._tree),
            ("GET", r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+))?", self._info),
            ("(?:GET|HEAD)", r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self._resolve),
        )
        for method, pattern, handle in routes:
            if re.fullmatch(method, self.command) and (match := re.fullmatch(pattern, path)):
                return handle(body, *match.groups()) if match.groups() else handle(body)
        raise _Refused(404, "UnknownRequest")

    # --- who may do what ---

    def _token(self) -> str | None:
        given = self.headers.get("Authorization", "")
        token = given.removeprefix("Bearer ") or None
        if token not in (None, WRITER, READER):
            raise _Refused(401, "InvalidToken")
        return token

    def _writable(self, name: str) -> Repo:
        if self._token() is None:
            raise _Refused(401)
        if self._token() != WRITER:
            raise _Refused(403)
        return self._readable(name)

    def _readable(self, name: str) -> Repo:
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and self._token() is None):
            raise _Refused(404 if self._token() else 401, "RepoNotFound")
        if name in self.server.gated and self._token() != WRITER:
            raise _Refused(403, "GatedRepo")
        return repo

    def _at(self, repo: Repo, revision: str | None) -> str:
        found = repo.find(revision or "main")
        if found is None:
            raise _Refused(404, "RevisionNotFound")
        return found

    # --- writing ---

    def _create(self, body: bytes) -> None:
        if self._token() != WRITER:
            raise _Refused(403 if self._token() else 401)
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.server.url}/{name}"}
        if name in self.server.repos:
            return self._answer(409, url, {"X-Error-Message": "exists"})
        private = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
        self.server.repos[name] = Repo(private)
        self.server.repos[name].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._answer(200, url)

    def _preupload(self, body: bytes, name: str, revision: str) -> None:
        repo = self._writable(name)
        there = repo.commits[self._at(repo, revision)]
        found = []
        for file in json.loads(body)["files"]:
            path, large = file["path"], file["size"] >= LARGE
            data = there.get(path)
            oid = None if data is None else hashlib.sha256(data).hexdigest() if large else git_oid(data)
            found.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid})
        self._answer(200, {"files": found})

    def _batch(self, body: bytes, name: str) -> None:
        self._writable(name)
        asked = json.loads(body)
        if asked["operation"] != "upload" or asked["hash_algo"] != "sha256" or "basic" not in asked["transfers"]:
            raise _Refused(422)
        objects = []
        for one in asked["objects"]:
            actions = {
                "upload": {"href": f"{self.server.url}/lfs/{one['oid']}"},
                "verify": {"href": f"{self.server.url}/verify"},
            }
            known = one["oid"] in self.server.sent
            objects.append(one if known else one | {"actions": actions})
        self._answer(200, {"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")

    def _put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "WrongDigest")
        self.server.sent[oid] = body
        self.server.uploads[oid] += 1
        self._answer(200, {})

    def _verify(self, body: bytes) -> None:
        asked = json.loads(body)
        if len(self.server.sent.get(asked["oid"], b"")) != asked["size"]:
            raise _Refused(404)
        self._answer(200, {})

    def _commit(self, body: bytes, name: str, branch: str) -> None:
        repo = self._writable(name)
        head = repo.branches.get(branch)
        if head is None:
            raise _Refused(404, "RevisionNotFound")
        files = dict(repo.commits[head])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    if value.get("parentCommit", head) != head:
                        raise _Refused(412)
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                    repo.lfs.discard(value["path"])
                case "lfsFile":
                    data = self.server.sent.get(value["oid"])
                    if data is None or len(data) != value["size"]:
                        raise _Refused(400, "NoSuchObject")
                    files[value["path"]] = data
                    repo.lfs.add(value["path"])
                case "deletedFile":
                    del files[value["path"]]
                case other:
                    raise _Refused(422, other)
        oid = repo.commit(branch, files)
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{name}/commit/{oid}"})

    def _tag(self, body: bytes, name: str, revision: str) -> None:
        repo = self._writable(name)
        tag = json.loads(body)["tag"]
        if tag in repo.tags:
            raise _Refused(409)
        repo.tags[tag] = self._at(repo, revision)
        self._answer(200, {})

    def _branch(self, body: bytes, name: str, branch: str) -> None:
        repo = self._writable(name)
        if branch in repo.branches:
            raise _Refused(409)
        start = json.loads(body or b"{}").get("startingPoint", "main")
        repo.branches[branch] = self._at(repo, start)
        self._answer(200, {})

    # --- reading ---

    def _refs(self, body: bytes, name: str) -> None:
        repo = self._readable(name)
        named = {
            kind: [{"name": n, "ref": f"refs/{ref}/{n}", "targetCommit": oid} for n, oid in held.items()]
            for kind, ref, held in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
        }
        self._answer(200, named | {"converts": []})

    def _info(self, body: bytes, name: str, revision: str | None = None) -> None:
        repo = self._readable(name)
        oid = self._at(repo, revision)
        siblings = [{"rfilename": path} for path in sorted(repo.commits[oid])]
        self._answer(200, {"id": name, "sha": oid, "private": repo.private, "tags": [], "siblings": siblings})

    def _tree(self, body: bytes, name: str, revision: str) -> None:
        repo = self._readable(name)
        entries = []
        for path, data in sorted(repo.commits[self._at(repo, revision)].items()):
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
            if path in repo.lfs:
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
            entries.append(entry)
        self._answer(200, entries)

    def _resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        repo = self._readable(name)
        oid = self._at(repo, revision)
        data = repo.commits[oid].get(path)
        if data is None:
            return self._answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid})
        etag = hashlib.sha256(data).hexdigest() if path in repo.lfs else git_oid(data)
        self._answer(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": oid, "Accept-Ranges": "bytes"})

    def _answer(
        self, status: int, content: Any, headers: dict[str, str] | None = None, kind: str = "application/json"
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(content, bytes) else kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
