"""A stand-in for the Hub's data sets over HTTP: huggingface_hub and datasets speak to it as to the real one.

It serves repositories of files at commits, says what is gated, moved or gone, and fails as it is told: by a status, a reset
connection, or a body that ends too early.
"""

import hashlib
import json
import re
import threading
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec
from local_server import Handler, LocalServer


class Repo(msgspec.Struct):
    """`commits`: revision -> its files; the last one is main."""

    commits: dict[str, dict[str, bytes]]
    gated: bool = False
    moved_to: str = ""


class Fault(msgspec.Struct):
    part: str  # of the path
    what: int | str  # a status, reset or short
    left: int


def revision_of(files: dict[str, bytes]) -> str:
    digest = hashlib.sha1()
    for name, data in sorted(files.items()):
        digest.update(name.encode() + b"\0" + data)
    return digest.hexdigest()


class FakeDatasets(LocalServer):
    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        super().__init__(_Handler)

    def add(self, repo: str, files: dict[str, bytes], **about: Any) -> str:
        """Commit `files` as all that is in `repo`; the commit."""
        revision = revision_of(files)
        found = self.repos.setdefault(repo, Repo({}, **about))
        found.commits.pop(revision, None)
        found.commits[revision] = files
        return revision

    def fault(self, part: str, what: int | str, times: int = 1) -> None:
        self.faults.append(Fault(part, what, times))

    def take_fault(self, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.left and fault.part in path:
                    fault.left -= 1
                    return fault
        return None

    def environment(self, cache: Any) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        }


class _Handler(Handler):
    server_hub: FakeDatasets

    def do_GET(self) -> None:
        hub, path = self.server_hub, unquote(self.path.partition("?")[0])
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.requests.append((self.command, self.path))
        fault = hub.take_fault(path)
        if fault is not None and fault.what == "reset":
            self.reset()
        elif fault is not None and isinstance(fault.what, int):
            self.answer(fault.what, {"error": f"as asked: {fault.what}"})
        else:
            self.route(path, body, short=fault is not None)

    do_HEAD = do_POST = do_GET

    def route(self, path: str, body: bytes, short: bool) -> None:
        found = re.fullmatch(r"/(?:api/)?datasets/([^/]+/[^/]+)(?:/auth-check|/(\w[\w-]*)/([^/]+)(?:/(.*))?)?", path)
        repo = self.server_hub.repos.get(found.group(1)) if found else None
        if found is None or repo is None:
            self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return
        name, action, revision, rest = found.groups()
        if repo.moved_to:
            target = self.path.replace(name, repo.moved_to, 1)
            self.answer(307, {"error": "moved"}, Location=self.server_hub.url + target)
            return
        if path.endswith("/auth-check") and not repo.gated:
            self.answer(200, {})
            return
        if repo.gated and not ((action is None and not path.endswith("/auth-check")) or action == "revision"):
            self.answer(403, {"error": "gated"}, X_Error_Code="GatedRepo")
            return
        commit = next(reversed(repo.commits)) if revision in (None, "main") else revision
        if commit not in repo.commits:
            self.answer(404, {"error": "no such revision"}, X_Error_Code="RevisionNotFound")
            return
        files = repo.commits[commit]
        match action:
            case None | "revision":
                siblings = [{"rfilename": file, **self.blob(data)} for file, data in files.items()]
                gated = "manual" if repo.gated else False
                self.answer(
                    200, {"id": name, "sha": commit, "siblings": siblings, "gated": gated, "private": False, "tags": []}
                )
            case "tree":
                self.answer(200, self.tree(files, rest or ""))
            case "paths-info":
                paths = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
                self.answer(200, [self.entry(path, files[path]) for path in paths if path in files])
            case "resolve":
                self.resolve(files, rest or "", commit, short)
            case _:
                self.answer(404, {"error": f"no such endpoint: {path}"})

    @staticmethod
    def blob(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        return {
            "size": len(data),
            "blobId": digest[:40],
            "lfs": {"sha256": digest, "size": len(data), "pointerSize": 134},
        }

    def entry(self, path: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        return {"type": "file", "path": path, "size": len(data), "oid": digest[:40],
                "lfs": {"oid": digest, "size": len(data), "pointerSize": 134}}  # fmt: skip

    def tree(self, files: dict[str, bytes], folder: str) -> list[dict[str, Any]]:
        recursive = parse_qs(self.path.partition("?")[2]).get("recursive", ["false"])[0].lower() == "true"
        prefix = folder.rstrip("/") + "/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, data in files.items():
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                directory = prefix + "/".join(parts[:depth])
                found[directory] = {"type": "directory", "path": directory, "size": 0, "oid": "0" * 40}
            if recursive or len(parts) == 1:
                found[path] = self.entry(path, data)
        return list(found.values())

    def resolve(self, files: dict[str, bytes], path: str, commit: str, short: bool) -> None:
        if path not in files:
            self.answer(404, {"error": "no such file"}, X_Error_Code="EntryNotFound")
            return
        data = files[path]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self.answer(200, data=data, short=short, **headers)
            return
        first, last = int(asked.group(1)), min(len(data) - 1, int(asked.group(2) or len(data)))
        part = data[first : last + 1]
        headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
        self.answer(206, data=part, short=short, **headers)
