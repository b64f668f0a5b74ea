"""AdamW for R replicas, each with its own hyperparameters; replicas that diverge are frozen.

Weight decay is decoupled (Loshchilov & Hutter 2019, arXiv:1711.05101) and applies to matrices only.
From the first step at which its loss or gradient is not finite, nothing of a replica changes. No
update synchronises with the host.

Shapes: R replicas, P parameters of a replica.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from train.config.experiment import OptimizerConfig
from train.model.parameters import Layout


class AdamW:
    """One optimizer of R replicas whose parameters are the rows of one matrix."""

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
            rows_RP: Parameters, updated in place.
            layout: Place of each parameter in a row.
            settings: Hyperparameters of each replica.
            at_once: Whether one compiled kernel updates all replicas. PyTorch's fused kernel takes
                one learning rate, so a stack needs two launches per replica, and each launch fills
                only part of a GPU when the model is small.
        """
        device = rows_RP.device
        self.rows_RP, self.settings = rows_RP, settings
        self.exp_avg_RP = torch.zeros_like(rows_RP)
        self.exp_avg_sq_RP = torch.zeros_like(rows_RP)
        self.steps_R = torch.zeros(len(settings), device=device)
        self.frozen_R = torch.zeros(len(settings), device=device)
        """1 from the first step on at which the replica was not finite."""
        self._clip_R = torch.tensor([s.grad_clip for s in settings], device=device)
        names = ("beta1", "beta2", "eps", "weight_decay")
        values = [[getattr(s, name) for s in settings] for name in names]
        self._settings_4R = torch.tensor(values, device=device)
        self._update_rows = torch.compile(update_rows, dynamic=False) if at_once else None
        self._segments = ((0, layout.decayed, True), (layout.decayed, layout.width, False))

    @torch.no_grad()
    def update(self, grad_RP: Tensor, loss_R: Tensor, lr_R: Tensor) -> Tensor:
        """Clip gradients, and update every replica that has been finite so far.

        Args:
            grad_RP: Gradients; scaled in place.
            loss_R: Losses of the step.
            lr_R: Learning rates of this update, float32, on the device.

        Returns:
            Global gradient norms before clipping, (R,).
        """
        norm_R: Tensor = torch.linalg.vector_norm(grad_RP, dim=1)
        is_bad_R = ~(torch.isfinite(loss_R) & torch.isfinite(norm_R))
        self.frozen_R.copy_(torch.maximum(self.frozen_R, is_bad_R.to(torch.float32)))
        scale_R = (self._clip_R / (norm_R + 1e-6)).clamp(max=1.0)
        # padding must stay zero, and NaN * 0 is NaN
        scale_R = scale_R.nan_to_num(0.0)
        self.steps_R += 1.0 - self.frozen_R
        if self._update_rows is not None:
            moments = self.exp_avg_RP, self.exp_avg_sq_RP
            per_replica = self._settings_4R, self.steps_R, self.frozen_R, lr_R, scale_R
            decayed = self._segments[0][1]
            self._update_rows(self.rows_RP, grad_RP, *moments, *per_replica, decayed)
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
        """Update part of a row by the kernel of torch.optim.AdamW(fused=True).

        found_inf=1 skips the update, as GradScaler does.
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
        """Every tensor that an update changes, except the parameters."""
        return [self.exp_avg_RP, self.exp_avg_sq_RP, self.steps_R, self.frozen_R]

    def replica_state(self, replica: int) -> dict[str, Tensor]:
        """Return a replica's moments and step count, copies on the CPU."""
        return {
            "exp_avg": self.exp_avg_RP[replica].cpu().clone(),
            "exp_avg_sq": self.exp_avg_sq_RP[replica].cpu().clone(),
            "step": self.steps_R[replica].cpu().clone(),
        }

    def load_replica(self, replica: int, state: dict[str, Tensor]) -> None:
        """Load what replica_state returned, and unfreeze the replica.

        Raises:
            KeyError, RuntimeError: The state has another layout.
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
    """Update every replica that is not frozen, in place, by the formula of torch.optim.AdamW.

    Args:
        rows_RP: Parameters.
        grad_RP: Gradients before clipping.
        exp_avg_RP: First moments.
        exp_avg_sq_RP: Second moments.
        settings_4R: beta1, beta2, eps and weight decay of each replica.
        steps_R: Updates, this one included.
        frozen_R: 1 for frozen replicas.
        lr_R: Learning rates.
        scale_R: Clipping's factor of the gradients.
        decayed: Elements of a row that weight decay applies to.
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
