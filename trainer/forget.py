"""Tensors that autograd does not keep, since they are cheap to compute again: of each it remembers how it was made.

    forget = Forgetting()
    with forget:
        u = convolution(x)
        forget(u, lambda: convolution(x))      # whoever saves u for the backward gets it computed again there, once
        y = scan(u, …)

As `torch.utils.checkpoint`, but for single tensors: what is dear (the states of a scan) stays. The bits are the same.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Who measures what autograd keeps: hooks on saved tensors do not nest, so that theirs see nothing of what is saved under ours.
watchers: list[Callable[[Tensor], object]] = []


def storage_of(tensor: Tensor) -> int:
    """What a tensor and its views have in common, for as long as one of them lives."""
    place: int = tensor.untyped_storage()._cdata
    return place


class _Made:
    """A tensor that can be made again. It is held only until all who have saved it have read it."""

    def __init__(self, tensor: Tensor, make: Callable[[], Tensor]) -> None:
        self.place, self.numel, self.dtype = storage_of(tensor), tensor.numel(), tensor.dtype
        self.make, self.savers, self.tensor = make, 0, None

    tensor: Tensor | None

    def is_of(self, tensor: Tensor) -> bool:
        return (storage_of(tensor), tensor.numel(), tensor.dtype) == (self.place, self.numel, self.dtype)

    def read(self) -> Tensor:
        if self.tensor is None:
            with torch.no_grad():
                self.tensor = self.make()
        found, self.savers = self.tensor, self.savers - 1
        if self.savers <= 0:
            self.tensor = None
        return found


class Forgetting(torch.autograd.graph.saved_tensors_hooks):
    """While it is in force, tensors that it was told of are not kept for the backward."""

    def __init__(self) -> None:
        made: list[_Made] = []

        # No method of its own: the hook would hold this object and be held by it.
        def pack(tensor: Tensor) -> Any:
            for one in made:
                if one.is_of(tensor) and tensor.is_contiguous():
                    one.savers += 1
                    return one, tensor.shape
            for watch in watchers:
                watch(tensor)
            return tensor.detach()  # a result that its own operation saves would be held by it, and hold it

        self._made = made
        super().__init__(pack, _unpack)

    def __exit__(self, *error: object) -> None:
        """Let go of all that it was told: whoever saved a tensor holds this hook, and would by it hold what its operands are made of.

        Such cycles go through autograd, where Python does not see them: without a backward (out of memory in the forward) they stay for
        ever, and with one until Python looks for cycles, a whole step's operands (10 GB of 2.7B parameters at 8 x 2048).
        """
        super().__exit__(*error)
        self._made.clear()

    def __call__(self, tensor: Tensor, make: Callable[[], Tensor]) -> None:
        """From here on `tensor`, contiguous, is forgotten. make: gives its very bits, from tensors that are kept anyway."""
        self._made.append(_Made(tensor, make))


def _unpack(kept: Any) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    made, shape = kept
    found: Tensor = made.read()
    return found.view(shape)
