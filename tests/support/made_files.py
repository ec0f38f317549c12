"""What a forge has made, to compare: digests of everything, and what tells whether a file was touched."""

import hashlib
import json

from adam.contract.paths import RunPaths


def digests(paths: RunPaths) -> dict[str, str]:
    """Of everything that was made, but for the moment in the manifests."""
    found = {}
    for directory in (paths.shards, paths.tokens):
        for path in sorted(directory.rglob("*")):
            content = path.read_bytes() if path.is_file() else b""
            if path.name == "manifest.json":
                plain = json.loads(content)
                content = json.dumps({k: v for k, v in plain.items() if k not in ("stamp", "shards_sha256")}).encode()
            found[str(path.relative_to(paths.root))] = hashlib.sha256(content).hexdigest()
    return found


def touched(paths: RunPaths) -> dict[str, tuple[int, int, int]]:
    """(inode, time of change, size) of everything that was made, folders too."""
    made = [path for directory in (paths.shards, paths.tokens) for path in (directory, *directory.rglob("*"))]
    return {str(path): (status.st_ino, status.st_mtime_ns, status.st_size) for path in made for status in [path.stat()]}
