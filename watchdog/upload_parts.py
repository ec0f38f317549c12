"""What an upload is made of: the files that are to be there, those that are not yet, and the manifest over all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from adam.contract.checkpoints import MANIFEST, FileEntry, Manifest
from adam.contract.clock import stamp
from adam.contract.config import Config
from adam.contract.config_file import load_config
from adam.contract.durable import fsync_dir, replace_file, require_room, sha256_file
from adam.contract.far import SHARDS, STATE, TOKENS, WEIGHTS, Far, FarManifest, FarPart
from adam.contract.paths import RunPaths
from adam.contract.records import StepRow
from adam.contract.shards import DataFile, load_shards, load_tokens, token_files
from adam.contract.steplog import rows_in
from adam.contract.weights import (
    CONFIG,
    mamba_config,
    metadata_of,
    shape_of,
    size_of,
    weights_of,
    write_weights,
)
from adam.contract.whole import whole_tensors
from adam.watchdog.upload_card import model_card
from adam.watchdog.upload_words import Task

CARD = "README.md"
Files = dict[str, Path]  # named as in the far place -> where they lie


class Parts:
    """`files`: to be sent. `new`: their entries. `manifest`: of the far place once they are there."""

    def __init__(self, paths: RunPaths, manifest: FarManifest) -> None:
        self._paths, self.manifest = paths, manifest
        self.files: dict[str, Path | bytes] = {}
        self.new: tuple[FileEntry, ...] = ()

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.new)

    def add(self, files: Files, entries: tuple[FileEntry, ...], **fields: object) -> None:
        self.files |= files
        self.new += entries
        self.manifest = msgspec.structs.replace(self.manifest, **fields)

    def clear(self) -> None:
        """Nothing is left to be sent: what was made for it goes."""
        shutil.rmtree(self._paths.upload_weights, ignore_errors=True)


def read_parts(paths: RunPaths, task: Task, manifest: Manifest, far: Far) -> Parts:
    """What `task` asks for, less what the far place has of it, with the right bytes."""
    config, there = load_config(paths.lock), far.manifest()
    parts = Parts(paths, there or FarManifest(name="", stamp=stamp()))
    parts.manifest = msgspec.structs.replace(parts.manifest, name=config.name or paths.root.name, stamp=stamp())

    def part(known: FarPart | None, make: Callable[[], Files]) -> tuple[Files, FarPart] | None:
        """A part to be sent; None where it is there."""
        if known is not None and known.seal == manifest.self_sha256 and not far.wrong(known.files):
            return None
        files = make()
        return files, FarPart(task.checkpoint, manifest.step, manifest.self_sha256, entries_of(files))

    if task.weights and (
        found := part(there.weights if there else None, lambda: made_weights(paths, task.checkpoint, manifest, config))
    ):
        parts.add(found[0], found[1].files, weights=found[1])
    if task.state and (found := part(there.state if there else None, lambda: state_files(paths, task.checkpoint))):
        parts.add(found[0], found[1].files, state=found[1])
    if task.state:
        files, entries = data_files(paths)
        if there is None or there.data != entries or far.wrong(entries):
            parts.add(files, entries, data=entries)
    return parts


def entries_of(files: Files) -> tuple[FileEntry, ...]:
    return tuple(FileEntry(name, path.stat().st_size, sha256_file(path)) for name, path in files.items())


def state_files(paths: RunPaths, checkpoint: str) -> Files:
    """The checkpoint's files, its manifest among them, and the run's configuration."""
    place = paths.checkpoints / checkpoint
    found = sorted(path for path in place.iterdir() if path.is_file())
    found += [path for path in (paths.config, paths.lock) if path.exists()]
    return {f"{STATE}{checkpoint}/{path.name}": path for path in sorted(found, key=lambda path: path.name == MANIFEST)}


def data_files(paths: RunPaths) -> tuple[Files, tuple[FileEntry, ...]]:
    """Shards and tokens with their manifests. Of the large ones the manifests know the digests."""
    shards, tokens = load_shards(paths), load_tokens(paths)
    known: tuple[tuple[str, Path, tuple[DataFile, ...]], ...] = (
        (SHARDS, paths.shards, shards.files if shards else ()),
        (TOKENS, paths.tokens, token_files(tokens) if tokens else ()),
    )
    files, entries = Files(), []
    for prefix, directory, listed in known:
        digests = {entry.name: entry for entry in listed}
        for path in sorted(path for path in directory.iterdir() if path.is_file()):
            files[prefix + path.name] = path
            entry = digests.get(path.name)
            digest = entry.sha256 if entry is not None else sha256_file(path)
            entries.append(FileEntry(prefix + path.name, path.stat().st_size, digest))
    return files, tuple(entries)


def made_weights(paths: RunPaths, checkpoint: str, manifest: Manifest, config: Config) -> Files:
    """model.safetensors, config.json and README.md in the outbox; those that an upload before this one has left are taken."""
    place = paths.upload_weights / f"{checkpoint}-{config.upload.dtype}"
    if not place.is_dir():
        shutil.rmtree(paths.upload_weights, ignore_errors=True)
        make_weights(paths, place, checkpoint, manifest, config)
    return {path.name: path for path in sorted(place.iterdir())}


def make_weights(paths: RunPaths, place: Path, checkpoint: str, manifest: Manifest, config: Config) -> None:
    """The directory appears when all of it is there. Raises DiskError where there is no room."""
    source = paths.checkpoints / checkpoint
    head, tensors = whole_tensors(source)
    shape = shape_of(paths, source, head, tensors)
    weights = weights_of(tensors, shape)
    require_room(paths.root, size_of(weights, config.upload.dtype) + (1 << 20), "the weights that are to be uploaded")
    made = place.with_name(f".{place.name}")
    made.mkdir(parents=True)
    write_weights(made / WEIGHTS, weights, config.upload.dtype, metadata_of(source, head, shape), lambda _: None)
    replace_file(made / CONFIG, json.dumps(mamba_config(shape), indent=2).encode() + b"\n")
    rows = rows_of(paths, manifest.step)
    card = model_card(
        config.name or paths.root.name, config, shape, manifest, rows, load_shards(paths), load_tokens(paths)
    )
    replace_file(made / CARD, card.encode())
    made.rename(place)
    fsync_dir(place.parent)


def rows_of(paths: RunPaths, step: int) -> tuple[StepRow | None, StepRow | None]:
    """The last row up to `step`, and the last one that was validated."""
    last: StepRow | None = None
    validated: StepRow | None = None
    for _, row in rows_in(paths.steps):
        if row is not None and row.step <= step:
            last, validated = row, row if row.val_loss is not None else validated
    return last, validated
