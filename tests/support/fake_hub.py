"""A stand-in for the Hugging Face Hub that the real huggingface_hub talks to: one repository in memory, and faults on demand.

with FakeHub() as hub:                  # in a process: os.environ |= hub.environment
    hub.fault("POST", "/commit/", 500)
    hub.fault("POST", "/commit/", "lost")   # done, but the answer never arrives
"""

import base64
import hashlib
import json
import threading
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec
from local_server import Handler, LocalServer

REPO = "someone/model"
TOKEN = "hf_a-secret-that-must-appear-nowhere"
STALL_S = 600.0


class Fault(msgspec.Struct):
    method: str
    part: str  # of the path
    what: int | str  # a status, or reset, stall, lost
    left: int
    headers: dict[str, str]


class Commit(msgspec.Struct):
    oid: str
    title: str
    files: dict[str, bytes]  # all that is there then


class FakeHub(LocalServer):
    def __init__(self, *, exists: bool = True) -> None:
        self.exists, self.private = exists, False
        self.commits = [Commit("0" * 40, "made", {})]
        self.stored: dict[str, bytes] = {}  # LFS objects by SHA-256
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.released = threading.Event()
        self.lock = threading.Lock()
        super().__init__(_Handler)

    def __exit__(self, *error: object) -> None:
        self.released.set()
        super().__exit__(*error)

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": TOKEN}

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1].files

    @property
    def pushes(self) -> list[Commit]:
        """The commits of others than the Hub itself."""
        return self.commits[1:]

    def fault(self, method: str, part: str, what: int | str, times: int = 1, **headers: str) -> Fault:
        fault = Fault(method, part, what, times, {name.replace("_", "-"): value for name, value in headers.items()})
        self.faults.append(fault)
        return fault

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.left and fault.method == method and fault.part in path:
                    fault.left -= 1
                    return fault
        return None

    def commit(self, lines: list[dict[str, Any]]) -> tuple[int, dict[str, str]]:
        """Raises KeyError for an object that was never uploaded."""
        with self.lock:
            head, *operations = lines
            if head["value"].get("parentCommit", self.commits[-1].oid) != self.commits[-1].oid:
                return 412, {"error": "A commit has happened since."}
            files = dict(self.files)
            for operation in operations:
                value = operation["value"]
                match operation["key"]:
                    case "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    case "lfsFile":
                        files[value["path"]] = self.stored[value["oid"]]
                    case "deletedFile":
                        del files[value["path"]]
            oid = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
            self.commits.append(Commit(oid, head["value"]["summary"], files))
            return 200, {"commitUrl": f"{self.url}/{REPO}/commit/{oid}", "commitOid": oid}


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


class _Handler(Handler):
    server_hub: FakeHub

    def do_GET(self) -> None:
        self.serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def serve(self) -> None:
        hub = self.server_hub
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.read_chunks()
        hub.requests.append((self.command, self.path))
        fault = hub.take_fault(self.command, self.path)
        if fault is not None and fault.what == "stall":
            hub.released.wait(STALL_S)
        if fault is not None and fault.what in ("stall", "reset"):
            self.reset()
        elif fault is not None and isinstance(fault.what, int):
            self.answer(fault.what, {"error": f"as asked: {fault.what}"}, **fault.headers)
        elif "/lfs-store/" not in self.path and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid credentials in Authorization header"})
        else:
            self.route(body, lost=fault is not None)

    def read_chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def route(self, body: bytes, lost: bool) -> None:
        hub, path = self.server_hub, self.path.partition("?")[0]
        api = f"/api/models/{REPO}"
        if path == "/api/repos/create":
            hub.exists, hub.private = True, json.loads(body).get("visibility") == "private"
            self.answer(200, {"url": f"{hub.url}/{REPO}"})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif path.startswith("/lfs-store/"):
            hub.stored[path.rpartition("/")[2]] = body
            self.answer(200, {})
        elif not hub.exists:
            self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif path == api:
            names = [{"rfilename": name} for name in hub.files]
            self.answer(200, {"id": REPO, "sha": hub.commits[-1].oid, "siblings": names, "private": hub.private})
        elif path.startswith(f"/{REPO}/resolve/"):
            self.resolve(path.removeprefix(f"/{REPO}/resolve/"))
        elif path == f"/{REPO}.git/info/lfs/objects/batch":
            self.batch(json.loads(body))
        elif path == f"{api}/preupload/main":
            self.answer(200, {"files": [self.mode(file["path"]) for file in json.loads(body)["files"]]})
        elif path == f"{api}/paths-info/main":
            self.paths_info(body)
        elif path.startswith(f"{api}/lfs-files"):
            self.lfs_files(body)
        elif path == f"{api}/commit/main":
            self.commit(body, lost)
        else:
            self.answer(404, {"error": f"no such endpoint: {self.command} {path}"})

    def commit(self, body: bytes, lost: bool) -> None:
        status, content = self.server_hub.commit([json.loads(line) for line in body.splitlines()])
        if lost:
            self.reset()
        else:
            self.answer(status, content)

    @staticmethod
    def mode(path: str) -> dict[str, Any]:
        return {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False}

    def batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for item in asked["objects"]:
            found = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.server_hub.stored:
                href = f"{self.server_hub.url}/lfs-store/{item['oid']}"
                found["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(found)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def resolve(self, rest: str) -> None:
        revision, _, name = rest.partition("/")
        commits = self.server_hub.commits
        commit = commits[-1] if revision == "main" else next(found for found in commits if found.oid == revision)
        if name not in commit.files:
            self.answer(404, {"error": "no such file"}, X_Error_Code="EntryNotFound")
            return
        data = commit.files[name]
        self.answer(200, data=data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=commit.oid)

    def paths_info(self, body: bytes) -> None:
        found = []
        for name in parse_qs(body.decode())["paths"]:
            if name in self.server_hub.files:
                data = self.server_hub.files[name]
                digest = hashlib.sha256(data).hexdigest()
                entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": digest[:40]}
                if is_large(name):
                    entry["lfs"] = {"size": len(data), "oid": digest, "pointerSize": 134}
                found.append(entry)
        self.answer(200, found)

    def lfs_files(self, body: bytes) -> None:
        hub = self.server_hub
        if self.command == "POST":
            for digest in json.loads(body)["deletions"]["sha"]:
                del hub.stored[digest]
            self.answer(200, {})
            return
        names = {
            hashlib.sha256(data).hexdigest(): name for commit in hub.commits for name, data in commit.files.items()
        }
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self.answer(
            200,
            [
                {"fileOid": oid, "oid": oid, "filename": names.get(oid, "?"), "pushedAt": now, "size": len(data)}
                for oid, data in hub.stored.items()
            ],
        )
