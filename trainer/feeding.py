"""From files into tensors, at the speed of the way to the GPU. Files are read, not mapped: a mapping costs a fault for each page."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Self

import torch
from torch import Tensor

from adam.trainer.stages import STAGE_BYTES, Stage, free_stages
from adam.trainer.sums import bytes_of

READERS = 4  # threads: one alone reads a tmpfs at a fifth of what the way to the device takes


class Feeder:
    """Copies from files into tensors, exactly; to a GPU through pinned buffers in turn, so that reading and sending overlap.

    Tensors must be contiguous.
    """

    def __init__(self, *, device: str) -> None:
        self._free = free_stages() if device == "cuda" else SimpleQueue[Stage]()
        self._stream = torch.cuda.current_stream() if device == "cuda" else None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="feeder")
        self._reading: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._readers.shutdown(cancel_futures=True)  # nothing is read any more from files that are about to be closed

    def copy(self, target: Tensor, file: int, first: int) -> None:
        """Begin to fill `target` from the bytes at `first` of an open file."""
        into = bytes_of(target.detach())
        for begin in range(0, into.numel(), STAGE_BYTES):
            part = into[begin : begin + STAGE_BYTES]
            read = self._send if self._stream is not None else read_into
            self._reading.append(self._readers.submit(read, part, file, first + begin))

    def _send(self, part: Tensor, file: int, first: int) -> None:
        buffer, sent = self._free.get()
        try:
            sent.synchronize()
            read_into(buffer[: part.numel()], file, first)
            with torch.cuda.stream(self._stream):
                part.copy_(buffer[: part.numel()], non_blocking=True)
                sent.record()
        finally:
            self._free.put((buffer, sent))

    def wait(self, most: int = 0) -> None:
        """Until no more than `most` parts are under way. Raises OSError, EOFError."""
        while len(self._reading) > most:
            self._reading.pop(0).result()

    def finish(self) -> None:
        """Until all has arrived. Raises OSError, EOFError (a file is shorter than it was)."""
        self.wait()
        if self._stream is not None:
            self._stream.synchronize()


def read_into(part: Tensor, file: int, first: int) -> None:
    """Fill bytes of the host's memory from a file."""
    data = part.numpy().data
    while data:
        count = os.preadv(file, [data], first)
        if not count:
            raise EOFError(f"the file ends at byte {first}")
        data, first = data[count:], first + count
