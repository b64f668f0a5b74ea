"""AdamW over rows of parameters, each replica with its own settings, moments, and fate.

Weight decay is decoupled (Loshchilov & Hutter 2019, arXiv:1711.05101) and reaches matrices only. A
replica whose loss or gradient was not finite is frozen: from that step on nothing of it changes.
Everything that a step decides stays on the device, so that the host never waits for it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from train.config.experiment import OptimizerConfig
from train.model.parameters import Layout


class AdamW:
    """One optimiser of R replicas whose parameters are the rows of one matrix."""

    def __init__(
        self,
        rows_RP: Tensor,
        layout: Layout,
        settings: Sequence[OptimizerConfig],
        *,
        at_once: bool = False,
    ) -> None:
        """Start with moments of zero.

        Args:
            rows_RP: The parameters, which updates change.
            layout: Where in a row they lie.
            settings: Of each replica.
            at_once: Whether one compiled kernel updates all replicas. PyTorch's takes one learning
                rate at a time, so that a stack is two launches a replica, of which each fills a
                fraction of a GPU while its model is small.
        """
        device = rows_RP.device
        self.rows_RP, self.settings = rows_RP, settings
        self.exp_avg_RP = torch.zeros_like(rows_RP)
        self.exp_avg_sq_RP = torch.zeros_like(rows_RP)
        self.steps_R = torch.zeros(len(settings), device=device)
        self.frozen_R = torch.zeros(len(settings), device=device)
        """1 from a replica's first step on that was not finite."""
        self._clip_R = torch.tensor([s.grad_clip for s in settings], device=device)
        names = ("beta1", "beta2", "eps", "weight_decay")
        values = [[getattr(s, name) for s in settings] for name in names]
        self._settings_4R = torch.tensor(values, device=device)
        self._update_rows = torch.compile(update_rows, dynamic=False) if at_once else None
        self._segments = ((0, layout.decayed, True), (layout.decayed, layout.width, False))

    @torch.no_grad()
    def update(self, grad_RP: Tensor, loss_R: Tensor, lr_R: Tensor) -> Tensor:
        """Clip, and update every replica that is and was finite; return the norms before clipping.

        Args:
            grad_RP: Gradients; scaled in place.
            loss_R: The step's losses.
            lr_R: Learning rates of this update, float32, on the device.

        Returns:
            Shape (R,). Global gradient norms.
        """
        norm_R: Tensor = torch.linalg.vector_norm(grad_RP, dim=1)
        is_bad_R = ~(torch.isfinite(loss_R) & torch.isfinite(norm_R))
        self.frozen_R.copy_(torch.maximum(self.frozen_R, is_bad_R.to(torch.float32)))
        scale_R = (self._clip_R / (norm_R + 1e-6)).clamp(max=1.0)
        scale_R = scale_R.nan_to_num(0.0)  # padding must stay zero
        self.steps_R += 1.0 - self.frozen_R
        if self._update_rows is not None:
            moments = self.exp_avg_RP, self.exp_avg_sq_RP
            facts = self._settings_4R, self.steps_R, self.frozen_R, lr_R, scale_R
            self._update_rows(self.rows_RP, grad_RP, *moments, *facts, self._segments[0][1])
            return norm_R
        grad_RP.mul_(scale_R[:, None])
        for replica, settings in enumerate(self.settings):
            for start, end, decays in self._segments:
                self._update_segment(
                    replica,
                    slice(start, end),
                    grad_RP,
                    lr_R[replica],
                    settings,
                    weight_decay=settings.weight_decay if decays else 0.0,
                )
        return norm_R

    def _update_segment(
        self,
        replica: int,
        segment: slice,
        grad_RP: Tensor,
        lr: Tensor,
        settings: OptimizerConfig,
        *,
        weight_decay: float,
    ) -> None:
        """PyTorch's fused kernel, which torch.optim.AdamW(fused=True) calls, on part of a row.

        Where `found_inf` is 1 it changes nothing: the door that loss scaling uses.
        """
        torch._fused_adamw_(
            [self.rows_RP[replica, segment]],
            [grad_RP[replica, segment]],
            [self.exp_avg_RP[replica, segment]],
            [self.exp_avg_sq_RP[replica, segment]],
            [],
            [self.steps_R[replica]],
            lr=lr,
            beta1=settings.beta1,
            beta2=settings.beta2,
            weight_decay=weight_decay,
            eps=settings.eps,
            amsgrad=False,
            maximize=False,
            found_inf=self.frozen_R[replica],
        )

    def state(self) -> list[Tensor]:
        """Every tensor that an update changes, beside the rows."""
        return [self.exp_avg_RP, self.exp_avg_sq_RP, self.steps_R, self.frozen_R]

    def replica_state(self, replica: int) -> dict[str, Tensor]:
        """A replica's moments and step count, copies on the CPU."""
        return {
            "exp_avg": self.exp_avg_RP[replica].cpu().clone(),
            "exp_avg_sq": self.exp_avg_sq_RP[replica].cpu().clone(),
            "step": self.steps_R[replica].cpu().clone(),
        }

    def load_replica(self, replica: int, state: dict[str, Tensor]) -> None:
        """Take over what replica_state returned.

        Raises:
            KeyError, RuntimeError: The state is of another layout.
        """
        self.exp_avg_RP[replica].copy_(state["exp_avg"])
        self.exp_avg_sq_RP[replica].copy_(state["exp_avg_sq"])
        self.steps_R[replica].copy_(state["step"])
        self.frozen_R[replica] = 0.0


def update_rows(
    rows_RP: Tensor,
    grad_RP: Tensor,
    exp_avg_RP: Tensor,
    exp_avg_sq_RP: Tensor,
    settings_4R: Tensor,
    steps_R: Tensor,
    frozen_R: Tensor,
    lr_R: Tensor,
    scale_R: Tensor,
    decayed: int,
) -> None:
    """Update every replica that is not frozen, in place: torch.optim.AdamW's formula.

    Args:
        rows_RP: The parameters.
        grad_RP: Gradients, unclipped.
        exp_avg_RP: First moments.
        exp_avg_sq_RP: Second moments.
        settings_4R: beta1, beta2, eps and weight decay of each replica.
        steps_R: Updates, this one included.
        frozen_R: 1 for replicas that stay as they are.
        lr_R: Learning rates.
        scale_R: What clipping multiplies gradients by.
        decayed: Elements of a row that weight decay reaches.
    """
    beta1_R1, beta2_R1, eps_R1, weight_decay_R1 = settings_4R[:, :, None].unbind(0)
    steps_R1, lr_R1, is_live_R1 = steps_R[:, None], lr_R[:, None], frozen_R[:, None] == 0.0
    grad = grad_RP * scale_R[:, None]
    exp_avg = beta1_R1 * exp_avg_RP + (1.0 - beta1_R1) * grad
    exp_avg_sq = beta2_R1 * exp_avg_sq_RP + (1.0 - beta2_R1) * grad * grad
    size_R1 = lr_R1 / (1.0 - beta1_R1**steps_R1)
    root = exp_avg_sq.sqrt() / (1.0 - beta2_R1**steps_R1).sqrt() + eps_R1
    decays_P = torch.arange(rows_RP.shape[1], device=rows_RP.device) < decayed
    kept = torch.where(decays_P, 1.0 - lr_R1 * weight_decay_R1, 1.0)
    rows = rows_RP * kept - size_R1 * exp_avg / root
    rows_RP.copy_(torch.where(is_live_R1, rows, rows_RP))
    exp_avg_RP.copy_(torch.where(is_live_R1, exp_avg, exp_avg_RP))
    exp_avg_sq_RP.copy_(torch.where(is_live_R1, exp_avg_sq, exp_avg_sq_RP))
