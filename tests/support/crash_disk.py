"""What a disk may hold after a crash: a model that promises no more than POSIX does.

* Bytes written to a file are surely there once that file is fsynced. Until then each sector of them is there, or is what was
  there before (zeros, where the file did not reach); the file may have its old length, its new one or any between,
  also one that tears a block. Never are there bytes that nobody wrote.
* An fsync of a file says nothing of its name. Names (made, renamed, removed) are surely as they were left once their directory
  is fsynced. Until then each change of them has happened or not, whatever the order: a later one without an earlier one.
* A rename within one directory is one change. One between two directories is two, a change of each: file systems
  have been found that keep one without the other.

After ALICE (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014), which found how far real file systems reorder, and
CrashMonkey (Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing", OSDI 2018).
"""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

BLOCK, PAGE = 512, 4096  # a disk's sector, and what the kernel writes back of a mapped file
MOST_SUBSETS = {BLOCK: 64, PAGE: 8}  # of the unsynced blocks of one file
ROOT = 0  # the node of the directory that the model begins with; its own name is sure
Tree = dict[str, bytes | None]  # path -> bytes, None: a directory


@dataclass(frozen=True)
class Made:
    """A new file or directory; it has no name yet."""

    node: int
    directory: bool


@dataclass(frozen=True)
class Names:
    """A change of names in one directory, whole or not at all. None: the name is gone."""

    node: int
    names: dict[str, int | None]


@dataclass(frozen=True)
class Bytes:
    """Bytes written to a file; None: it was cut to `offset`."""

    node: int
    offset: int
    data: bytes | None

    def on(self, old: bytes) -> bytes:
        start = old[: self.offset].ljust(self.offset, b"\0")
        return start if self.data is None else start + self.data + old[self.offset + len(self.data) :]


@dataclass(frozen=True)
class Mapped:
    """What a file has been made to hold through a mapping: no call tells of it, and each page is written back when the kernel likes."""

    node: int
    data: bytes


@dataclass(frozen=True)
class Sync:
    """An fsync or fdatasync of a file or directory, and from where in the code it came."""

    node: int
    site: str


Op = Made | Names | Bytes | Mapped | Sync


@dataclass
class File:
    sure: bytes = b""
    now: bytes = b""  # as programs see it
    block: int = BLOCK


@dataclass
class Directory:
    sure: dict[str, int] = field(default_factory=dict)
    waiting: list[dict[str, int | None]] = field(default_factory=list)

    def after(self, chosen: int) -> dict[str, int]:
        """The names where those changes have happened whose bits are set in `chosen`."""
        names: dict[str, int | None] = dict(self.sure)
        for number, change in enumerate(self.waiting):
            if chosen >> number & 1:
                names |= change
        return {name: node for name, node in names.items() if node is not None}


class Disk:
    """Nodes, what is sure of them, and what waits to become so."""

    def __init__(self) -> None:
        self.nodes: dict[int, File | Directory] = {ROOT: Directory()}

    def apply(self, op: Op) -> None:
        node = self.nodes.get(op.node)
        match op, node:
            case Made(), None:
                self.nodes[op.node] = Directory() if op.directory else File()
            case Names(), Directory():
                node.waiting.append(op.names)
            case Bytes(), File():
                node.now = op.on(node.now)
            case Mapped(), File():
                node.now, node.block = op.data, PAGE
            case Sync(), File():
                node.sure = node.now
            case Sync(), Directory():
                node.sure, node.waiting = node.after(-1), []
            case _:
                raise AssertionError(f"{op} on {node}")

    def now(self) -> Tree:
        """What programs see."""
        return self._tree({node: self._options(node)[-1] for node in self.nodes})

    def crashes(self, most: int, chance: random.Random) -> Iterator[Tree]:
        """What may be there after a crash now: all of it where that is no more than `most`, else the corners and a sample.

        The corners: one thing differs from all being lost, or from all being there.
        """
        options = {node: self._options(node) for node in self._reachable()}
        options = {node: found for node, found in options.items() if len(found) > 1}
        if math.prod(len(found) for found in options.values()) <= most:
            for choice in itertools.product(*options.values()):
                yield self._tree(dict(zip(options, choice, strict=True)))
            return
        for place in (0, -1):
            rest = {node: found[place] for node, found in options.items()}
            for node, found in options.items():
                for one in found:
                    yield self._tree(rest | {node: one})
        for _ in range(most):
            yield self._tree({node: chance.choice(found) for node, found in options.items()})

    def _options(self, number: int) -> list[int] | list[bytes]:
        """What may be of a node: first all lost, last all there. Changes of a directory by the bits of a number."""
        node = self.nodes[number]
        if isinstance(node, Directory):
            return list(range(1 << len(node.waiting)))
        return file_options(node.sure, node.now, node.block)

    def _reachable(self) -> list[int]:
        """The nodes that may have a name after a crash."""
        found, look = [ROOT], [ROOT]
        while look:
            node = self.nodes[look.pop()]
            if isinstance(node, Directory):
                for names in (node.sure, *node.waiting):
                    new = [n for n in names.values() if n is not None and n not in found]
                    found += new
                    look += new
        return found

    def _tree(self, choice: dict[int, int | bytes], number: int = ROOT, path: str = "") -> Tree:
        node = self.nodes[number]
        if isinstance(node, File):
            return {path: choice.get(number, node.sure)}  # type: ignore[dict-item]
        tree: Tree = {path: None} if path else {}
        for name, child in sorted(node.after(choice.get(number, 0)).items()):  # type: ignore[arg-type]
            tree |= self._tree(choice, child, f"{path}/{name}" if path else name)
        return tree


@lru_cache(maxsize=4096)
def file_options(sure: bytes, now: bytes, block: int = BLOCK) -> list[bytes]:
    """What a file may hold: `sure` first, `now` last. Of many sectors: each one alone and all but each one, and a sample."""
    if sure == now:
        return [now]
    old = sure.ljust(len(now), b"\0")
    dirty = [at for at in range(0, len(now), block) if now[at : at + block] != old[at : at + block]]
    found = [sure, *(mixed(old, now, chosen, block) for chosen in subsets(dirty, MOST_SUBSETS[block]))]
    ends = {at + more for at in dirty for more in (0, block // 3)} | {(len(sure) + len(now)) // 2}
    found += [now[:end] for end in sorted(ends) if len(sure) < end < len(now)]
    return [*dict.fromkeys(data for data in found if data != now), now]


def subsets(dirty: list[int], most: int) -> list[set[int]]:
    if 1 << len(dirty) <= most:
        return [{at for bit, at in enumerate(dirty) if chosen >> bit & 1} for chosen in range(1 << len(dirty))]
    chance = random.Random(len(dirty))
    sample = [{at for at in dirty if chance.random() < 0.5} for _ in range(most)]
    return [set(), *({at} for at in dirty), *(set(dirty) - {at} for at in dirty), *sample]


def mixed(old: bytes, now: bytes, chosen: set[int], block: int) -> bytes:
    """The new bytes in the chosen blocks, the old ones in the others."""
    result = bytearray(old)
    for at in chosen:
        result[at : at + block] = now[at : at + block]
    return bytes(result)
