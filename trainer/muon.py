"""Muon for the matrices of blocks, AdamW for all else, as one optimizer (`trainer.optimizer = "muon"`).

Muon (Keller Jordan, kellerjordan.github.io/posts/muon) takes each matrix's momentum (0.95, Nesterov) to the nearest orthogonal one, by five
Newton-Schulz steps in bf16, so that all directions are learnt alike. torch has it; its rate is scaled to the root mean square of AdamW's
updates (arXiv 2502.16982, section 2.2), so that rate, schedule and weight decay are those of the configuration. Of a matrix it keeps one
moment in place of two.
"""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import Parameter

MOMENTUM = "momentum_buffer"  # as torch.optim.Muon calls it in its state

_adamw_step = inspect.unwrap(torch.optim.AdamW.step)
_muon_step = inspect.unwrap(torch.optim.Muon.step)


def is_matrix(name: str, parameter: torch.Tensor) -> bool:
    """True for the projections of blocks. Embedding, output layer, A_log, vectors and the convolution are AdamW's."""
    return parameter.ndim == 2 and ".mixer." in name and not name.endswith("A_log")


class MuonAndAdamW(torch.optim.AdamW):
    """One object for what sets rates, clears gradients and keeps states; `update` does both.

    Args:
        groups: AdamW's, with their weight decay.
        matrices: Muon's.
        options: AdamW's; `lr` is Muon's too.
    """

    def __init__(
        self, groups: list[dict[str, Any]], matrices: Iterable[Parameter], weight_decay: float, **options: Any
    ) -> None:
        super().__init__(groups, **options)
        self._muon = torch.optim.Muon(
            list(matrices), lr=options["lr"], weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self._muon.state = self.state
        self._matrices = {id(parameter) for group in self._muon.param_groups for parameter in group["params"]}
        self._groups = list(self.param_groups)
        self.param_groups.extend(self._muon.param_groups)

    def takes(self, parameter: torch.Tensor) -> bool:
        """True where Muon updates it."""
        return id(parameter) in self._matrices

    def update(self) -> None:
        """One update from the gradients, without what `step` wraps around it for torch.compile. Under `torch.no_grad`."""
        everything, self.param_groups = self.param_groups, self._groups
        try:
            _adamw_step(self)
        finally:
            self.param_groups = everything
        _muon_step(self._muon)
