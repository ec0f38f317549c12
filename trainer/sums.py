"""`contract.sums` of tensors, on the device where they are. Integer sums wrap, in any order to the same bits."""

import torch
from torch import Tensor

from adam.contract.slots import PAGE_BYTES
from adam.contract.sums import page_sum, spelt


def bytes_of(tensor: Tensor) -> Tensor:
    """The tensor's bytes, flat (uint8), without a copy. The tensor must be contiguous."""
    return tensor.reshape(-1).view(torch.uint8) if tensor.numel() else tensor.new_empty(0, dtype=torch.uint8)


def tensor_sum(tensor: Tensor) -> str:
    """The checksum of a tensor in the host's memory."""
    return page_sum([bytes_of(tensor).numpy().data])


def all_sums(tensors: list[Tensor]) -> list[str]:
    """The checksums of tensors of one device, waiting for it once; of one that is spread over ranks, that of this rank's part."""
    tensors = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    if tensors[0].device.type == "cpu":
        return [tensor_sum(tensor) for tensor in tensors]
    return read_sums(torch.stack([device_sum(tensor) for tensor in tensors]))


def page_sums(data: Tensor) -> Tensor:
    """(pages,) int64 of whole pages of bytes: the sum of each page's words."""
    return data.view(torch.int64).view(-1, PAGE_BYTES // 8).sum(dim=1)


def device_sum(tensor: Tensor) -> Tensor:
    """(2,) int64: both sums of one tensor."""
    data = bytes_of(tensor)
    whole = data.numel() // PAGE_BYTES * PAGE_BYTES
    pages = page_sums(data[:whole])
    if whole < data.numel():
        last = torch.nn.functional.pad(data[whole:], (0, PAGE_BYTES - (data.numel() - whole)))
        pages = torch.cat([pages, page_sums(last)])
    return sums_between(pages, pages.new_tensor([0]), pages.new_tensor([pages.numel()]))[0]


def sums_between(pages: Tensor, first: Tensor, end: Tensor) -> Tensor:
    """(n, 2) int64: both sums of the n tensors that have the pages `first` to `end` of `pages`."""
    zero = pages.new_zeros(1)
    places = torch.arange(1, pages.numel() + 1, device=pages.device)
    plain, weighted = (torch.cat([zero, values.cumsum(0)]) for values in (pages, pages * places))
    own = plain[end] - plain[first]
    return torch.stack([own, weighted[end] - weighted[first] - first * own], dim=1)


def read_sums(pairs: Tensor) -> list[str]:
    """The texts of `sums_between`'s rows; waits for the device."""
    return [spelt(plain, weighted) for plain, weighted in pairs.tolist()]
