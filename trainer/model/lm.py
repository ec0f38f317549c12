"""A Mamba language model whose parameters have the names of mamba_ssm's MambaLMHeadModel."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adam.contract.model import ModelConfig
from adam.trainer.model.init import init_weights
from adam.trainer.model.mamba1 import Mamba1
from adam.trainer.model.mamba2 import Mamba2
from adam.trainer.ops.interface import Ops


class RMSNorm(nn.Module):
    """Adds to the residual stream, in fp32, and gives its norm (arXiv 1910.07467)."""

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.ops, self.epsilon = ops, config.norm_epsilon
        self.weight = nn.Parameter(torch.ones(config.d_model))

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.ops.add_rms_norm(x, residual, self.weight, self.epsilon)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, ops: Ops, linear: type[nn.Linear]) -> None:
        super().__init__()
        self.norm = RMSNorm(config, ops)
        self.mixer = (Mamba1 if config.arch == "mamba1" else Mamba2)(config, ops, linear)

    def forward(self, x: Tensor, residual: Tensor | None, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        normed, residual = self.norm(x, residual)
        return self.mixer(normed, resets), residual


class Backbone(nn.Module):
    def __init__(self, config: ModelConfig, ops: Ops, linear: type[nn.Linear]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, ops, linear) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config, ops)
        self.recompute = False  # keep of each block its input alone, and compute the rest again in the backward

    def forward(self, tokens: Tensor, resets: Tensor | None) -> Tensor:
        x, residual = self.embedding(tokens), None
        for layer in self.layers:
            if self.recompute and torch.is_grad_enabled():
                # Nothing in a block is random.
                x, residual = checkpoint(layer, x, residual, resets, use_reentrant=False, preserve_rng_state=False)
            else:
                x, residual = layer(x, residual, resets)
        normed: Tensor = self.norm_f(x, residual)[0]
        return normed


class MambaLM(nn.Module):
    """A language model of a resolved shape; its first weights come from torch's global generator.

    Args:
        config: with nothing left to fill in (`adam.contract.model.resolved`).
        ops: the backend of its heavy operations.
        linear: what in_proj and out_proj of each block are.
    """

    def __init__(self, config: ModelConfig, ops: Ops, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.ops = ops
        self.backbone = Backbone(config, ops, linear)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        init_weights(self, config.n_layer)
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def forward(self, tokens: Tensor, resets: Tensor | None = None) -> Tensor:
        """Logits, (B, L, V). tokens: int64 (B, L). resets: bool (B, L), True where a document begins, or None."""
        logits: Tensor = self.lm_head(self.backbone(tokens, resets))
        return logits

    def loss(self, tokens: Tensor, targets: Tensor, resets: Tensor | None) -> Tensor:
        """Losses of the targets in nats, (B, L) fp32. targets: int64 (B, L), what follows each token."""
        return self.ops.cross_entropy(self.backbone(tokens, resets), self.lm_head.weight, targets)


def no_weight_decay(name: str, parameter: Tensor) -> bool:
    """True for norms, biases, A_log, D and dt_bias (mamba_ssm marks A_log, D and dt_bias; vectors are never decayed)."""
    return parameter.ndim < 2 or name.endswith("A_log")
