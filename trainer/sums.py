"""`contract.sums` of tensors, on the device where they are."""

import torch
from torch import Tensor

from adam.contract.sums import MASK, PAGE_BYTES, page_sum, spelt


def bytes_of(tensor: Tensor) -> Tensor:
    """The tensor's bytes, flat (uint8), without a copy. The tensor must be contiguous."""
    return tensor.reshape(-1).view(torch.uint8) if tensor.numel() else tensor.new_empty(0, dtype=torch.uint8)


def tensor_sum(tensor: Tensor) -> str:
    """The checksum of a tensor's bytes; waits for the device."""
    if tensor.device.type == "cpu":
        return page_sum([bytes_of(tensor).numpy().data])
    return read_sum(device_sum(tensor))


def device_sum(tensor: Tensor) -> Tensor:
    """(2,) int64 on the tensor's device: both sums modulo 2^64. Integer sums wrap, in any order to the same bits."""
    data = bytes_of(tensor)
    whole = data.numel() // PAGE_BYTES * PAGE_BYTES
    pages = data[:whole].view(torch.int64).view(-1, PAGE_BYTES // 8).sum(dim=1)
    if whole < data.numel():
        last = torch.nn.functional.pad(data[whole:], (0, PAGE_BYTES - (data.numel() - whole)))
        pages = torch.cat([pages, last.view(torch.int64).sum().reshape(1)])
    places = torch.arange(1, pages.numel() + 1, device=data.device)
    return torch.stack([pages.sum(), (pages * places).sum()])


def read_sum(pair: Tensor) -> str:
    """The text of `device_sum`'s result; waits for the device."""
    plain, weighted = (int(value) & MASK for value in pair.tolist())
    return spelt(plain, weighted)
