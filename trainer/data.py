"""Samples from the token files: fixed windows over the packed stream, targets shifted by one, resets where documents begin."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from adam.contract.curriculum import sample_count, segments
from adam.contract.errors import DataError
from adam.contract.paths import RunPaths
from adam.contract.shards import TokensManifest, TokenSplit, check_files, load_tokens, token_files


class Batch(NamedTuple):
    """`tokens` and `targets`: int64 (B, L), targets[:, t] follows tokens[:, t]. `resets`: bool (B, L), True where a document begins."""

    tokens: torch.Tensor
    targets: torch.Tensor
    resets: torch.Tensor


class Windows:
    """The samples of a split: window i holds the tokens i·L … i·L + L of the stream, so that each token is a target once.

    Raises DataError where the split is shorter than one window.
    """

    def __init__(self, directory: Path, name: str, split: TokenSplit, seq_len: int) -> None:
        self.seq_len = seq_len
        self.count = sample_count(split, seq_len)
        if self.count == 0:
            raise DataError(
                f"the {name} split has {split.count} tokens, one sample needs {seq_len + 1}",
                "add text, raise forge.val_fraction or lower trainer.seq_len",
            )
        self._tokens = np.memmap(
            directory / split.tokens.name, dtype=np.dtype(split.dtype), mode="r", shape=(split.count,)
        )
        self._starts = np.memmap(directory / split.starts.name, dtype="<u8", mode="r", shape=(split.documents,))

    def batch(self, samples: list[int]) -> Batch:
        """The windows of `samples`, in that order."""
        size = self.seq_len
        stream = np.stack([self._tokens[i * size : i * size + size + 1].astype(np.int64) for i in samples])
        resets = np.stack([self._resets(i * size) for i in samples])
        tokens = torch.from_numpy(stream)
        return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), torch.from_numpy(resets))

    def _resets(self, begin: int) -> npt.NDArray[np.bool_]:
        first, last = np.searchsorted(self._starts, [begin, begin + self.seq_len])
        resets = np.zeros(self.seq_len, dtype=np.bool_)
        resets[self._starts[first:last].astype(np.int64) - begin] = True
        return resets


class Data(NamedTuple):
    """What the trainer reads.

    `segments`: the first train sample of each phase. `token_bytes`: int64 (vocabulary,), the bytes of text that each id stands for.
    """

    manifest: TokensManifest
    train: Windows
    segments: tuple[int, ...]
    val: Windows
    token_bytes: torch.Tensor


def open_data(paths: RunPaths, seq_len: int) -> Data:
    """Map the token files of a run. Raises DataError where one is missing, was cut, or is too short."""
    manifest = load_tokens(paths)
    if manifest is None:
        raise DataError(f"no tokens at {paths.tokens}", "build them with `adamctl forge`")
    check_files(paths.tokens, token_files(manifest), digests=False)
    train, val = (Windows(paths.tokens, name, manifest.splits[name], seq_len) for name in ("train", "val"))
    table = np.fromfile(paths.tokens / manifest.token_bytes.name, dtype="<u2").astype(np.int64)
    return Data(manifest, train, segments(manifest, seq_len), val, torch.from_numpy(table))
