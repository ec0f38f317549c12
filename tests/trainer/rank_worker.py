"""One rank of a small training, which does what `test_ranks.py` tells it: a line of JSON each way.

python -P rank_worker.py RANK WORLD FILE-TO-MEET-AT
"""

import errno
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from adam.contract import ram, slots
from adam.contract.config import Trainer
from adam.contract.errors import CheckpointError
from adam.contract.model import ModelConfig, resolved
from adam.contract.paths import RunPaths
from adam.contract.process import die_with_parent
from adam.trainer import copying
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.optim import make_optimizer
from adam.trainer.restore import restore
from adam.trainer.snapshot import Identity, Position, Snapshots
from adam.trainer.spread import let_go, spread
from adam.trainer.state import own_part, trained_state

BATCH, LENGTH, VOCABULARY = 4, 16, 61  # of the rows of 61 and of 9 and of 3, four ranks have unequal parts, or none
CONFIG = Trainer(lr=1e-2, weight_decay=0.1)
POLL_S = 0.005


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()


class Worker:
    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.snapshots: Snapshots | None = None
        self.originals = copying.PlainCopy.done, os.posix_fallocate, ram.cgroup_left

    def make(self, arch: str, seed: int, d_model: int = 12, keep: bool = False) -> None:
        """A model of its first weights, spread over the ranks."""
        torch.manual_seed(seed)
        shape = ModelConfig(
            arch=arch, d_model=d_model, n_layer=2, d_state=4, headdim=8, chunk_size=8, pad_vocab_multiple=1
        )
        self.model = MambaLM(resolved(shape, VOCABULARY), ReferenceOps())
        spread(self.model, "cpu", keep=keep)
        self.optimizer = make_optimizer(self.model, CONFIG)
        self.step = 0

    def identity(self, paths: RunPaths, attempt: int) -> Identity:
        return Identity(
            run=paths.identity, attempt=attempt, token=attempt, parent="", fingerprint="f", config_digest="c",
            data_digest="d", rank=self.rank, world=self.world,
        )  # fmt: skip

    def restore(self, directory: str, committed: bool) -> int:
        identity = self.identity(RunPaths(Path("/")), 1)
        position = restore(Path(directory), self.model, self.optimizer, identity, committed=committed)
        self.step = position.step
        return position.samples

    def refused(self, directory: str, committed: bool) -> str:
        """Why it can't be loaded; empty: it was."""
        try:
            self.restore(directory, committed)
        except CheckpointError as error:
            return str(error)
        return ""

    def train(self, updates: int) -> list[float]:
        """The losses of the whole batches."""
        losses = []
        for _ in range(updates):
            batch = torch.randint(
                0, VOCABULARY, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(self.step)
            )
            own = batch.chunk(self.world)[self.rank]
            loss = self.model.loss(own[:, :-1], own[:, 1:], None).sum() / (BATCH * LENGTH)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            if self.snapshots is not None:
                self.snapshots.before_update()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            mean = loss.detach()
            dist.all_reduce(mean)
            losses.append(mean.item())
            with torch.no_grad():  # as a validation
                self.model.loss(own[:, :-1], own[:, 1:], None)
            let_go(self.model)
            self.step += 1
            torch.rand(1 + self.rank)  # each rank's generator goes its own way
        return losses

    def state(self) -> dict[str, object]:
        """Of all that was trained: a digest of each whole tensor. And which rows of it this rank has, by torch's own account."""
        whole, rows = {}, {}
        for name, tensor in trained_state(self.model, self.optimizer):
            full, (own, part) = tensor.full_tensor(), own_part(tensor)
            whole[name] = digest(full)
            assert part is not None and part.shape == tuple(full.shape), name
            assert torch.equal(full[part.start : part.start + len(own)], own), name
            rows[name] = [part.start, len(own)]
        steps = {float(state["step"]) for state in self.optimizer.state.values()}
        return {"whole": whole, "rows": rows, "steps": sorted(steps), "random": digest(torch.get_rng_state())}

    def stage(self, run: str, attempt: int, use_ram: bool) -> dict[str, object]:
        paths = RunPaths(Path(run))
        self.snapshots = Snapshots(paths, self.model, self.optimizer, self.identity(paths, attempt), use_ram=use_ram)
        while not self.snapshots.ready() and not self.snapshots.trouble:
            time.sleep(POLL_S)
        return {"in_ram": self.snapshots.in_ram, "trouble": self.snapshots.trouble}

    def begin(self) -> bool:
        assert self.snapshots is not None
        position = Position(step=self.step, samples=BATCH * self.step, tokens=BATCH * LENGTH * self.step)
        return self.snapshots.take(position, why="interval")

    def take(self) -> bool:
        """True when it is complete on all ranks."""
        begun = self.begin()
        assert self.snapshots is not None
        while not self.snapshots.poll():
            time.sleep(POLL_S)
        return begun and self.snapshots.newest_step == self.step

    def counted(self) -> int:
        assert self.snapshots is not None
        self.snapshots.poll()
        return self.snapshots.taken

    def unstage(self) -> None:
        """Also undo what was done to this rank."""
        if self.snapshots is not None:
            self.snapshots.close()
        self.snapshots = None
        copying.PlainCopy.done, slots.os.posix_fallocate, ram.cgroup_left = self.originals

    def no_room(self, where: str) -> None:
        """This rank alone gets no room in files below `where`."""

        def full(fd: int, offset: int, size: int) -> None:
            if str(Path(f"/proc/self/fd/{fd}").readlink()).startswith(where):
                raise OSError(errno.ENOSPC, "No space left on device")
            self.originals[1](fd, offset, size)

        slots.os.posix_fallocate = full

    def see_little_memory(self) -> None:
        """To this rank alone, memory looks full."""
        ram.cgroup_left = lambda: 1000

    def hold_copies(self, hold: bool) -> None:
        """Copies of this rank are not done for as long as that."""
        copying.PlainCopy.done = (lambda _: None) if hold else self.originals[0]

    def be_ready(self, ready: bool) -> None:
        """To this rank, its slots are there, or not yet."""
        assert self.snapshots is not None
        self.snapshots.ready = lambda: ready

    def stand_still_while_writing(self) -> None:
        """The next snapshot of this rank is never completed."""

        def stand_still(*_: object) -> None:
            answer("standing still")
            signal.pause()

        slots.SlotWriter.complete = stand_still


def answer(value: object) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    die_with_parent()
    rank, world, meet = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    worker = Worker(rank, world)
    answer("ready")
    for line in sys.stdin:
        name, arguments = json.loads(line)
        answer(getattr(worker, name)(**arguments))
    os._exit(0)  # the test is over; what the others have not read is of no interest


if __name__ == "__main__":
    main()
