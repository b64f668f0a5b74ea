"""The engine: R replicas of one shape, trained step by step on one device. R is often 1.

`Engine.advance` takes steps, and `Engine._step` is the step: gather each replica's windows, forward
and backward over micro-batches, all-reduce the gradient, clip, update. A step reads its windows and
learning rates from tables on the device, at the row of a counter there, and writes its losses to
such a table, so that it never synchronises with the host and can be replayed as a CUDA graph
(cuda_graph.py). The host fills the tables before some steps and reads the losses after them.

Shapes: S steps, R replicas, B batch, T time, P parameters of a replica.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.config.experiment import OptimizerConfig
from train.distributed import World
from train.engine.batches import Windows
from train.engine.compile import compile_model
from train.engine.compute_policy import ComputePolicy
from train.engine.cuda_graph import STEPS_A_REPLAY, GraphedStep
from train.engine.device import ComputeDevice
from train.engine.memory import half_micro_batch
from train.engine.optimizer import AdamW
from train.engine.peak_flops import PeakFlops, peak_flops
from train.errors import DeviceMemoryError, is_out_of_memory
from train.model.attention import KERNELS
from train.model.parameters import initial_values, layout_of
from train.model.transformer import shared_model
from train.plan.schedule import Schedule
from train.plan.shape import ModelShape

TABLE_STEPS = 64
"""Rows of the tables: the most steps that are queued at once."""

RUN_AHEAD_SECONDS = 2.0
"""Most work queued on a device before the host waits for it and can honour a stop signal (ours):
schedulers give half a minute between the signal and the kill."""


@dataclass(frozen=True, kw_only=True)
class Replica:
    """What may differ between the replicas of a stack."""

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
    """Losses and gradient norms of consecutive steps."""

    losses_SR: list[list[float]]
    """Mean loss in nats per token, a row a step, a column a replica."""
    grad_norms_SR: list[list[float]]
    """Global gradient norms before clipping."""

    def __len__(self) -> int:
        """Steps taken."""
        return len(self.losses_SR)


class Engine:
    """Weights, moments and the step of R replicas."""

    def __init__(
        self,
        shape: ModelShape,
        replicas: Sequence[Replica],
        compute: ComputeDevice,
        batches: Windows,
        policy: ComputePolicy,
        *,
        rotary_base: float = 10_000.0,
        may_graph: bool = True,
        world: World | None = None,
    ) -> None:
        """Initialise the replicas at step 0, each from its own seed.

        Args:
            shape: Shape of the model.
            replicas: The runs of the stack.
            compute: Device.
            batches: Windows of these replicas.
            policy: Dtype, attention kernel, compilation and micro-batch.
            rotary_base: Base of the rotary frequencies.
            may_graph: Whether a CUDA device replays the step as a graph.
            world: Ranks that share every batch of these replicas; None is a world of one.
        """
        self.shape, self.replicas, self.compute = shape, tuple(replicas), compute
        self.batches, self.policy = batches, policy
        self.world = world or World()
        self.step = 0
        """Updates applied."""
        self.waiting_for_data: Callable[[], contextlib.AbstractContextManager[Any]] = (
            contextlib.nullcontext
        )
        """Context entered while the host gathers windows, for a clock."""
        n_replicas, device = len(self.replicas), compute.device
        self.layout = layout_of(shape)
        self.rows_RP = torch.zeros(n_replicas, self.layout.width, device=device)
        for row_P, replica in zip(self.rows_RP, self.replicas, strict=True):
            self.layout.pack(initial_values(shape, seed=replica.seed), row_P)
        self.optimizer = AdamW(
            self.rows_RP,
            self.layout,
            [replica.optimizer for replica in self.replicas],
            at_once=policy.compiled and compute.is_cuda and n_replicas > 1,
        )
        self.model = shared_model(
            shape,
            device=device,
            dtype=policy.torch_dtype,
            attention=KERNELS[policy.attention],
            rotary_base=rotary_base,
        )
        self.weights = {
            name: view.detach().requires_grad_()
            for name, view in self.layout.views(self.rows_RP).items()
        }
        self._losses = compile_model(self.model) if policy.compiled else self.model.losses
        self._leaves = list(self.weights.values())
        self._grad_RP = torch.zeros_like(self.rows_RP)
        self._grads = list(self.layout.views(self._grad_RP).values())
        self._make_tables()
        self._graph = GraphedStep(self.state()) if compute.is_cuda and may_graph else None

    def _make_tables(self) -> None:
        """Make the tables: a row for each of the next steps."""
        n_replicas, device = len(self.replicas), self.compute.device
        self._row = torch.zeros(1, dtype=torch.int64, device=device)
        self._rows_S1 = torch.arange(TABLE_STEPS, device=device)[:, None]
        self._lr_SR = torch.zeros(TABLE_STEPS, n_replicas, device=device)
        self._losses_SR = torch.zeros(TABLE_STEPS, n_replicas, device=device)
        self._norms_SR = torch.zeros(TABLE_STEPS, n_replicas, device=device)
        starts = (TABLE_STEPS, n_replicas, self.batches.batch_seqs)
        self._starts_SRB = torch.zeros(starts, dtype=torch.int64, device=device)
        self._windows_RBT = self.batches.empty()
        # few steps are queued until it is known how long they take
        self._most_queued = STEPS_A_REPLAY

    @property
    def n_replicas(self) -> int:
        """R."""
        return len(self.replicas)

    @cached_property
    def peak(self) -> PeakFlops:
        """Peak FLOP/s of the device, measured when it is first asked for."""
        return peak_flops(self.compute, self.policy.torch_dtype)

    def warm_up(self) -> None:
        """Compile and capture before the first step; weights and moments stay as they are."""
        if self._graph is not None:
            self._graph.warm_up(self._step)
        elif self.policy.compiled:
            part = self._micro_batches(self._windows_RBT)[0]
            loss_R = self._losses(self.weights, part[..., :-1], part[..., 1:])
            torch.autograd.grad(loss_R, self._leaves, torch.ones_like(loss_R))

    def advance(self, n_steps: int, *, should_stop: Callable[[], bool] = lambda: False) -> Segment:
        """Take up to `n_steps` steps; fewer, but at least one, once `should_stop` returns true.

        A replica whose loss or gradient is not finite keeps the weights from before that step, in
        all later steps too; the segment shows where, and the other replicas go on.
        """
        losses: list[list[float]] = []
        norms: list[list[float]] = []
        # ranks must ask should_stop after the same steps, whether their steps are graphs or not
        asks_every = STEPS_A_REPLAY if self._graph is not None else 1
        while n_steps > len(losses) and not (losses and should_stop()):
            began, taken = time.perf_counter(), 0
            n_queued = min(self._most_queued, n_steps - len(losses))
            starts_SRB = self._fill_tables(n_queued)
            while taken < n_queued and not (taken and taken % asks_every == 0 and should_stop()):
                if not self.batches.is_resident:
                    with self.waiting_for_data():
                        self.batches.gather(starts_SRB[taken], self._windows_RBT)
                if self._graph is None:
                    self._step()
                    taken += 1
                else:
                    most = n_queued - taken if self.batches.is_resident else 1
                    taken += self._graph.replay(self._step, most)
            self.step += taken
            losses += self._losses_SR[:taken].double().tolist()
            norms += self._norms_SR[:taken].double().tolist()
            if self.world.size == 1:  # of several ranks each would measure another time
                seconds = (time.perf_counter() - began) / taken
                self._most_queued = min(TABLE_STEPS, max(1, int(RUN_AHEAD_SECONDS / seconds)))
        return Segment(losses_SR=losses, grad_norms_SR=norms)

    def _fill_tables(self, n_steps: int) -> NDArray[np.int64]:
        """Write the next steps' learning rates and windows; return the starts, (S, R, B)."""
        steps = range(self.step, self.step + n_steps)
        rates = [[replica.lr_at(step) for replica in self.replicas] for step in steps]
        self._lr_SR[:n_steps] = torch.tensor(rates)
        with self.waiting_for_data():
            starts_SRB = self.batches.starts(self.step, n_steps)
            if self.batches.is_resident:
                self._starts_SRB[:n_steps] = torch.from_numpy(starts_SRB)
        self._row.zero_()
        return starts_SRB

    def _step(self) -> None:
        """One step, from tables to tables, without synchronising with the host.

        Micro-batches and the ranks' parts of a batch have equal sizes, so the mean of their means
        is the batch's mean. Over ranks this is what DistributedDataParallel computes (Li et al.
        2020, arXiv:2006.15704); its buckets gather gradients that lie apart, and here they are one
        matrix, reduced once after the last micro-batch.
        """
        windows_RBT = self._windows_RBT
        if self.batches.is_resident:
            starts_RB = self._starts_SRB.index_select(0, self._row)[0]
            windows_RBT = self.batches.resident_windows(starts_RB)
        parts = self._micro_batches(windows_RBT)
        weight = 1 / (len(parts) * self.world.size)
        weight_R = torch.full((self.n_replicas,), weight, device=self.compute.device)
        mean_R = torch.zeros_like(weight_R)
        for number, part in enumerate(parts):
            loss_R = self._losses(self.weights, part[..., :-1], part[..., 1:])
            grads = torch.autograd.grad(loss_R, self._leaves, weight_R)
            if number == 0:
                torch._foreach_copy_(self._grads, grads)
            else:
                torch._foreach_add_(self._grads, grads)
            mean_R += loss_R.detach() * weight_R
        self.world.all_reduce(self._grad_RP)
        self.world.all_reduce(mean_R)
        lr_R = self._lr_SR.index_select(0, self._row)[0]
        norm_R = self.optimizer.update(self._grad_RP, mean_R, lr_R)
        # a mask, because index_copy_ synchronises with the host in deterministic mode
        is_row_S1 = self._rows_S1 == self._row
        torch.where(is_row_S1, mean_R, self._losses_SR, out=self._losses_SR)
        torch.where(is_row_S1, norm_R, self._norms_SR, out=self._norms_SR)
        self._row += 1

    def _micro_batches(self, windows_RBT: Tensor) -> tuple[Tensor, ...]:
        return windows_RBT.chunk(self.batches.batch_seqs // self.policy.micro_batch_seqs, dim=1)

    @torch.no_grad()
    def losses_on(self, windows_BT: Tensor) -> Tensor:
        """Mean loss of each replica on the same windows, (R,), by the model that is not compiled.

        Replicas go one by one: so many windows fill a device without a stack, which would only
        multiply the memory, and the windows per pass must not depend on it.

        Args:
            windows_BT: Shape (B, T + 1), on the device.
        """
        windows_RBT = windows_BT[None]
        tokens_RBT, targets_RBT = windows_RBT[..., :-1], windows_RBT[..., 1:]
        each = [self.layout.views(row_P[None]) for row_P in self.rows_RP]
        return torch.cat([self.model.losses(one, tokens_RBT, targets_RBT) for one in each])

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        """Wrap steps and evaluations, which all ranks take at once.

        Raises:
            DeviceMemoryError: There are several ranks and one ran out of memory: a micro-batch that
                is halved on one rank alone would not match the others, so the user halves it.
            InfrastructureError: Another rank failed.
        """
        with self.world.collective():
            try:
                yield
            except (RuntimeError, MemoryError) as error:
                if self.world.size > 1 and is_out_of_memory(error):
                    raise self.too_little_memory() from None
                raise

    def too_little_memory(self) -> DeviceMemoryError:
        """The error of several ranks that cannot halve the micro-batch by themselves."""
        now = self.policy.micro_batch_seqs
        half = half_micro_batch(now, batch_seqs=self.batches.batch_seqs)
        remedy = (
            f"the same command continues with machine.micro_batch_seqs={half}, the batch unchanged"
            if half is not None
            else "use a smaller model or data.seq_len, or devices with more memory"
        )
        return DeviceMemoryError(f"{now} windows at a time do not fit the memory; {remedy}")

    def replica_state(self, replica: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A replica's weights by name and its optimizer's state, copies on the CPU."""
        row_P = self.rows_RP[replica].cpu()
        return self.layout.unpack(row_P), self.optimizer.replica_state(replica)

    def load_replica(
        self, replica: int, model: dict[str, Tensor], optimizer: dict[str, Tensor]
    ) -> None:
        """Load what replica_state returned, be it of a run alone or of any stack.

        Raises:
            ValueError, KeyError, RuntimeError: It is of another shape.
        """
        self.layout.pack(model, self.rows_RP[replica])
        self.optimizer.load_replica(replica, optimizer)

    def state(self) -> list[Tensor]:
        """Every tensor that a step changes and a later one reads."""
        return [self.rows_RP, self._row, *self.optimizer.state()]
