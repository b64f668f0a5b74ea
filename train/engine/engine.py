"""The engine: R replicas of one shape, trained in lockstep on one device. R is often 1.

A step gathers each replica's windows, runs the model forward and backward over micro-batches, clips
and updates, all without a word to the host: which windows, which learning rate and where the losses
go is read from tables on the device, at the row that a counter there points to. `advance` fills the
tables for some steps, takes the steps, and reads the losses once. On CUDA the same step is captured
as a graph and replayed (graphed.py).
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.config.experiment import OptimizerConfig
from train.distributed import World
from train.engine.batches import Windows
from train.engine.compile import compile_model
from train.engine.compute_policy import Arithmetic
from train.engine.cuda_graph import STEPS_A_REPLAY, GraphedStep
from train.engine.device import ComputeDevice
from train.engine.optimizer import AdamW
from train.model.attention import KERNELS
from train.model.parameters import initial_values, layout_of
from train.model.transformer import shared_model
from train.plan.schedule import Schedule
from train.plan.shape import ModelShape

TABLE_STEPS = 64
"""Steps for which the tables hold rows; longer segments are taken in parts."""

RUN_AHEAD_SECONDS = 2.0
"""Work that is queued on a device before the host waits for it, and can grant a stop (ours): a
scheduler gives half a minute."""


@dataclass(frozen=True, kw_only=True)
class Replica:
    """What may differ between the runs of a stack."""

    seed: int
    """Of the weights and the data order."""
    lr: float
    """Peak learning rate."""
    schedule: Schedule
    optimizer: OptimizerConfig

    def lr_at(self, step: int) -> float:
        """Learning rate of the update that follows `step` updates."""
        return self.lr * self.schedule.multiplier(step)


@dataclass(frozen=True)
class Segment:
    """What some consecutive steps came to."""

    losses_SR: list[list[float]]
    """Mean loss in nats per token, a row a step, a column a replica."""
    grad_norms_SR: list[list[float]]
    """Global gradient norms before clipping."""

    def __len__(self) -> int:
        """Steps taken."""
        return len(self.losses_SR)


class Engine:
    """Weights, moments and the step of a stack of replicas."""

    def __init__(
        self,
        shape: ModelShape,
        replicas: Sequence[Replica],
        compute: ComputeDevice,
        batches: Windows,
        arithmetic: Arithmetic,
        *,
        rotary_base: float = 10_000.0,
        may_graph: bool = True,
        world: World | None = None,
    ) -> None:
        """Build the replicas at step 0, each from its own seed.

        Args:
            shape: The model's.
            replicas: The runs of the stack.
            compute: Where it computes.
            batches: The data of these replicas.
            arithmetic: How it computes.
            rotary_base: Base of the rotary frequencies.
            may_graph: Whether a CUDA device replays the step as a graph.
            world: The processes that train these replicas together, each with its share of every
                batch; alone when not given.
        """
        self.shape, self.replicas, self.compute = shape, tuple(replicas), compute
        self.batches, self.arithmetic = batches, arithmetic
        self.world = world or World()
        self.step = 0
        """Updates applied."""
        self.waiting_for_data: Callable[[], contextlib.AbstractContextManager[Any]] = (
            contextlib.nullcontext
        )
        """Entered while the host gathers windows; a clock's."""
        n_replicas, device = len(self.replicas), compute.device
        self.layout = layout_of(shape)
        self.rows_RP = torch.zeros(n_replicas, self.layout.width, device=device)
        for row_P, replica in zip(self.rows_RP, self.replicas, strict=True):
            self.layout.pack(initial_values(shape, seed=replica.seed), row_P)
        self.optimizer = AdamW(
            self.rows_RP,
            self.layout,
            [replica.optimizer for replica in self.replicas],
            at_once=arithmetic.compiled and compute.is_cuda and n_replicas > 1,
        )
        self.model = shared_model(
            shape,
            device=device,
            dtype=arithmetic.torch_dtype,
            attention=KERNELS[arithmetic.attention],
            rotary_base=rotary_base,
        )
        self.weights = {
            name: view.detach().requires_grad_()
            for name, view in self.layout.views(self.rows_RP).items()
        }
        self._losses = compile_model(self.model) if arithmetic.compiled else self.model.losses
        self._leaves = list(self.weights.values())
        self._grad_RP = torch.zeros_like(self.rows_RP)
        self._grads = list(self.layout.views(self._grad_RP).values())
        self._make_tables()
        self._graph = GraphedStep(self.state()) if compute.is_cuda and may_graph else None

    def _make_tables(self) -> None:
        """A row for each of the next steps: learning rates, windows, and what came of them."""
        n_replicas, device = len(self.replicas), self.compute.device
        self._row = torch.zeros(1, dtype=torch.int64, device=device)
        self._rows_S1 = torch.arange(TABLE_STEPS, device=device)[:, None]
        self._lr_SR = torch.zeros(TABLE_STEPS, n_replicas, device=device)
        self._losses_SR = torch.zeros(TABLE_STEPS, n_replicas, device=device)
        self._norms_SR = torch.zeros(TABLE_STEPS, n_replicas, device=device)
        starts = (TABLE_STEPS, n_replicas, self.batches.batch_seqs)
        self._starts_SRB = torch.zeros(starts, dtype=torch.int64, device=device)
        self._windows_RBT = self.batches.empty()
        self._most_ahead = STEPS_A_REPLAY
        """Steps to queue at once: few until it is known how long they take."""

    @property
    def n_replicas(self) -> int:
        """Runs in the stack."""
        return len(self.replicas)

    def warm_up(self) -> None:
        """Do what the first step would take long for, compiling above all; nothing changes."""
        if self._graph is not None:
            self._graph.warm_up(self._step)
        elif self.arithmetic.compiled:
            self._accumulate(self._windows_RBT)

    def advance(self, n_steps: int, *, should_stop: Callable[[], bool] = lambda: False) -> Segment:
        """Take up to `n_steps` steps; fewer, at least one, when asked to stop in between.

        A replica whose loss or gradient is not finite stays as it was before that step, in all
        later ones too; the segment shows where, and its neighbours go on.
        """
        losses: list[list[float]] = []
        norms: list[list[float]] = []
        while n_steps > len(losses) and not (losses and should_stop()):
            most = min(self._most_ahead, n_steps - len(losses))
            began = time.perf_counter()
            taken = self._advance_part(most, should_stop)
            losses += self._losses_SR[:taken].double().tolist()
            norms += self._norms_SR[:taken].double().tolist()
            if self.world.size == 1:  # ranks must look up after the same steps
                a_step = (time.perf_counter() - began) / taken
                self._most_ahead = min(TABLE_STEPS, max(1, int(RUN_AHEAD_SECONDS / a_step)))
        return Segment(losses_SR=losses, grad_norms_SR=norms)

    def _advance_part(self, n_steps: int, should_stop: Callable[[], bool]) -> int:
        """Fill the tables, take at most `n_steps` steps, and return how many."""
        steps = range(self.step, self.step + n_steps)
        rates = [[replica.lr_at(step) for replica in self.replicas] for step in steps]
        self._lr_SR[:n_steps] = torch.tensor(rates)
        with self.waiting_for_data():
            starts_SRB = self.batches.starts(self.step, n_steps)
            if self.batches.is_resident:
                self._starts_SRB[:n_steps] = torch.from_numpy(starts_SRB)
        self._row.zero_()
        # ranks ask each other: all after the same steps, whether their steps are graphs or not
        asks_every = STEPS_A_REPLAY if self._graph is not None else 1
        taken = 0
        while taken < n_steps and not (taken and taken % asks_every == 0 and should_stop()):
            if self._graph is not None and self.batches.is_resident:
                taken += self._graph.replay(self._step, n_steps - taken)
                continue
            if not self.batches.is_resident:
                with self.waiting_for_data():
                    self.batches.gather(starts_SRB[taken], self._windows_RBT)
            if self._graph is not None:
                self._graph.replay(self._step, 1)
            else:
                self._step()
            taken += 1
        self.step += taken
        return taken

    def _step(self) -> None:
        """One step, from tables to tables; nothing in it depends on a value the host would read."""
        windows_RBT = self._windows_RBT
        if self.batches.is_resident:
            starts_RB = self._starts_SRB.index_select(0, self._row)[0]
            windows_RBT = self.batches.resident_windows(starts_RB)
        loss_R = self._accumulate(windows_RBT)
        lr_R = self._lr_SR.index_select(0, self._row)[0]
        norm_R = self.optimizer.update(self._grad_RP, loss_R, lr_R)
        is_row_S1 = self._rows_S1 == self._row  # index_copy_ asks the host in deterministic mode
        torch.where(is_row_S1, loss_R, self._losses_SR, out=self._losses_SR)
        torch.where(is_row_S1, norm_R, self._norms_SR, out=self._norms_SR)
        self._row += 1

    def _accumulate(self, windows_RBT: Tensor) -> Tensor:
        """Put the batch's mean gradient into the rows; return the mean losses, (R,).

        Micro-batches and ranks' shares have equal sizes, so the mean of their means is the batch's
        mean. Over ranks it is what DistributedDataParallel computes (Li et al. 2020,
        arXiv:2006.15704), whose buckets gather gradients that lie apart; here all of them are one
        matrix, which needs no bucket. It goes out once, after the last micro-batch.
        """
        n_parts = self.batches.batch_seqs // self.arithmetic.micro_batch_seqs
        parts = windows_RBT.chunk(n_parts, dim=1)
        share = 1 / (len(parts) * self.world.size)
        share_R = torch.full((self.n_replicas,), share, device=self.compute.device)
        total_R = torch.zeros_like(share_R)
        for number, part in enumerate(parts):
            loss_R = self._losses(self.weights, part[..., :-1], part[..., 1:])
            grads = torch.autograd.grad(loss_R, self._leaves, share_R)
            if number == 0:
                torch._foreach_copy_(self._grads, grads)
            else:
                torch._foreach_add_(self._grads, grads)
            total_R += loss_R.detach() * share_R
        self.world.sum(self._grad_RP)
        self.world.sum(total_R)
        return total_R

    @torch.no_grad()
    def losses_on(self, windows_BT: Tensor) -> Tensor:
        """Each replica's mean loss on the same windows, (R,); by the model as it is, not compiled.

        Replicas go one by one: so many windows fill a device without a stack, which would only
        multiply the memory, and how many of them go at once must not depend on it.

        Args:
            windows_BT: Shape (B, T + 1), on the device.
        """
        windows_RBT = windows_BT[None]
        tokens_RBT, targets_RBT = windows_RBT[..., :-1], windows_RBT[..., 1:]
        each = [self.layout.views(row_P[None]) for row_P in self.rows_RP]
        return torch.cat([self.model.losses(one, tokens_RBT, targets_RBT) for one in each])

    def replica_state(self, replica: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A replica's weights by name and its optimiser's state, copies on the CPU."""
        row_P = self.rows_RP[replica].cpu()
        return self.layout.unpack(row_P), self.optimizer.replica_state(replica)

    def load_replica(
        self, replica: int, model: dict[str, Tensor], optimizer: dict[str, Tensor]
    ) -> None:
        """Take over what replica_state returned, of a run alone or of any stack.

        Raises:
            ValueError, KeyError, RuntimeError: It is of another shape.
        """
        self.layout.pack(model, self.rows_RP[replica])
        self.optimizer.load_replica(replica, optimizer)

    def state(self) -> list[Tensor]:
        """Every tensor that a step changes and a later one reads."""
        return [self.rows_RP, self._row, *self.optimizer.state()]
