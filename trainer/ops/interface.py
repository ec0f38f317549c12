"""The heavy operations of a Mamba, behind one interface: a backend is an object with these methods.

Shapes: B sequences, L tokens, D channels, N states, H heads of P channels, G groups. `resets` is bool (B, L), True where a new
document begins at that token: neither the state nor the convolution's window crosses it. None: no document begins inside.
"""

from typing import Protocol

from torch import Tensor


class Ops(Protocol):
    repeatable: bool  # equal inputs give equal bits, gradients included

    def selective_scan(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        z: Tensor,
        delta_bias: Tensor,
        resets: Tensor | None,
    ) -> Tensor:
        """Mamba's selective scan with its bias, softplus, skip and gate (arXiv 2312.00752, algorithm 2).

        dt = softplus(delta + delta_bias);  h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t;  y_t = (C_t h_t + D u_t) SiLU(z_t)

        u, delta, z: (B, L, D). A: (D, N), below 0, fp32. B, C: (B, L, N). D, delta_bias: (D,) fp32.
        Gives (B, L, D) in the dtype of u; computed in fp32 (fp64 for fp64 inputs).
        """

    def selective_scan_from(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        z: Tensor,
        delta_bias: Tensor,
        resets: Tensor | None,
        initial: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The same from a state on, and the state it ends with, for long sequences in pieces and for decoding.

        initial: (B, D, N) fp32, h before the first token; None: 0. Gives (out, h after the last token, (B, D, N) fp32).
        """

    def ssd(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        dt_bias: Tensor,
        resets: Tensor | None,
        chunk_size: int,
    ) -> Tensor:
        """Mamba-2's state-space duality with its bias, softplus and skip (arXiv 2405.21060, listing 1).

        x: (B, L, H, P). dt: (B, L, H). A, D, dt_bias: (H,) fp32, A below 0. B, C: (B, L, G, N).
        Gives (B, L, H, P) in the dtype of x.
        """

    def causal_conv1d(self, x: Tensor, weight: Tensor, bias: Tensor | None, resets: Tensor | None) -> Tensor:
        """SiLU of a causal depthwise convolution. x: (B, L, D). weight: (D, K), its last tap at the token itself. bias: (D,) or None."""

    def add_rms_norm(self, x: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """(RMS norm of x + residual, that sum in fp32): what a block reads, and the residual stream behind it."""

    def gated_rms_norm(self, x: Tensor, z: Tensor, weight: Tensor, epsilon: float, groups: int) -> Tensor:
        """RMS norm over each group of channels of x SiLU(z): Mamba-2's last norm. x, z: (B, L, D)."""

    def cross_entropy(self, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Losses in nats, (B, L) fp32, of logits hidden @ weight.T. hidden: (B, L, D). weight: (V, D). targets: int64 (B, L)."""
