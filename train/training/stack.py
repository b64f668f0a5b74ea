"""A stack: runs that one engine trains in lockstep, and those that ride along to their fork step.

Riders are shorter runs that share the trunk of one of the stack. Up to their own cooldown they are
that run, step for step, so what it does is written to their folders too; at their fork step they
get a checkpoint, from which a later stack goes on as from any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from train.distributed import World, this_world
from train.engine.batches import Batches
from train.engine.compile import can_compile
from train.engine.compute_policy import Arithmetic, choose_arithmetic
from train.engine.device import ComputeDevice, select_device
from train.engine.engine import Engine, Segment
from train.engine.evaluate import Evaluation
from train.engine.peak_flops import PeakFlops, peak_flops
from train.errors import WindTunnelError
from train.run_folder.accounting import RunClock, RunCost, TimeKind
from train.signals import StopRequest
from train.storage.records import sound_rows
from train.training.lockstep import Lockstep, build_engine, tell_build
from train.training.run_state import Run


@dataclass(kw_only=True)
class Stack:
    """What the loop holds between steps."""

    engine: Engine
    runs: list[Run]
    """Those that train here, by replica; of equal steps."""
    riders: list[Run]
    """Those that leave at their fork step."""
    lockstep: Lockstep
    """What is done on every rank of the world."""
    peak: PeakFlops
    clock: RunClock
    active: list[Run] = field(default_factory=list)
    """Runs and riders that are still under way."""
    ended: list[WindTunnelError] = field(default_factory=list)
    """Ends of those that came to one of their own."""

    @property
    def steps(self) -> int:
        """The horizon, in steps."""
        return self.runs[0].plan.steps

    @property
    def batch_tokens(self) -> int:
        """Tokens of a step, of one replica."""
        return self.runs[0].plan.batch_tokens

    @property
    def world(self) -> World:
        """The processes that train it."""
        return self.engine.world

    def warm_up(self) -> None:
        """Compile ahead of the first step, on every rank; see Engine.warm_up."""
        self.world.tell("warm_up")
        self.lockstep.warm_up()

    def advance(self, n_steps: int, stop: StopRequest) -> Segment:
        """Take up to `n_steps` steps, on every rank; see Lockstep.advance."""
        self.world.tell("advance", n_steps=n_steps)
        return self.lockstep.advance(n_steps, stop)

    def evaluate(self) -> list[Evaluation]:
        """The validation loss of each replica, by every rank."""
        self.world.tell("evaluate")
        return self.lockstep.evaluate()

    def leave(self, run: Run, error: WindTunnelError) -> None:
        """A run comes to an end of its own; the others go on."""
        self.active.remove(run)
        self.ended.append(error.with_traceback(None))  # whose frames would keep this stack's memory
        self.clock.share(max(1, sum(run in self.active for run in self.runs)))

    def cost(self, run: Run) -> RunCost:
        """What a run has cost so far; for a trunk pays the run whose it is, no rider."""
        step_flops = run.plan.token_flops.train * run.plan.batch_tokens
        return RunCost(
            flops=run.step * step_flops,
            flops_charged=(run.step - (run.fork_step or 0)) * step_flops,
            seconds=run.seconds,
            spent=run.spent if run in self.riders else self.clock.spent(run.spent),
            stack=len(self.runs),
            devices=self.world.size / self.engine.compute.sharers,
            peak_flops=self.peak.measured,
            peak_datasheet=self.peak.datasheet,
            forked_from=run.forked_from,
            fork_step=run.fork_step,
        )


def build_stack(
    runs: Sequence[Run],
    riders: Sequence[Run],
    clock: RunClock,
    *,
    most_micro_batch_seqs: int | None = None,
) -> Stack:
    """Build the engine and put the weights where the checkpoints left them, or at their start.

    Args:
        runs: The stack's, in the order of its replicas, opened, and going on from one step.
        riders: Opened runs that share a trunk with one of them.
        clock: The job's.
        most_micro_batch_seqs: Windows per forward pass that are known to fit, after a larger number
            did not; null when nothing is known.

    Raises:
        ConfigError: The device is not there.
    """
    first, world = runs[0], this_world()
    compute = select_device(first.config.machine)
    batches = Batches(
        first.dataset,
        compute,
        seeds=[run.config.seed for run in runs],
        batch_seqs=first.plan.batch_tokens // first.config.data.seq_len,
        seq_len=first.config.data.seq_len,
        world=world,
    )
    arithmetic = _arithmetic(runs, compute, batches, most_micro_batch_seqs)
    tell_build(world, runs, arithmetic, step=first.step)
    world.use(compute)
    with world.lockstep():
        engine = build_engine(runs, compute, batches, arithmetic, world)
        _take_checkpoints(engine, runs)
        engine.step = first.step
        lockstep = Lockstep(
            engine=engine,
            validation=batches.validation(first.config.eval.tokens, max_seqs=arithmetic.eval_seqs),
            bytes_per_token=first.dataset.bytes_per_token("validation"),
        )
        lockstep.equalise()
    engine.waiting_for_data = lambda: clock.spending(TimeKind.data)
    places = {run.run_id: run.replica for run in runs}
    for rider in riders:
        rider.replica = places[str(rider.forked_from)]
    return Stack(
        engine=engine,
        runs=list(runs),
        riders=list(riders),
        lockstep=lockstep,
        peak=peak_flops(compute, arithmetic.torch_dtype),
        clock=clock,
        active=[*runs, *riders],
    )


def _take_checkpoints(engine: Engine, runs: Sequence[Run]) -> None:
    """Give each run its replica, where its checkpoint left it."""
    for place, run in enumerate(runs):
        run.replica = place
        if run.checkpoint is not None:
            engine.load_replica(place, run.checkpoint.model, run.checkpoint.optimizer)
            run.checkpoint = None  # its tensors are not needed twice


def _arithmetic(
    runs: Sequence[Run],
    compute: ComputeDevice,
    batches: Batches,
    most_micro_batch_seqs: int | None,
) -> Arithmetic:
    """What the run began with, unless the config or a full memory says otherwise."""
    first = runs[0]
    if most_micro_batch_seqs is None:
        begun = _recorded(first, compute)
        if begun is not None and begun.allows(first.config.machine, batches.batch_seqs):
            is_possible = not begun.compiled or can_compile(compute)
            return begun if is_possible else replace(begun, compiled=False)
    return choose_arithmetic(
        first.plan.shape,
        first.config.machine,
        compute,
        n_replicas=len(runs),
        batch_seqs=batches.batch_seqs,
        flops=sum(run.plan.flops_exact for run in runs),
        most_micro_batch_seqs=most_micro_batch_seqs,
    )


def _recorded(run: Run, compute: ComputeDevice) -> Arithmetic | None:
    """The arithmetic of the checkpoint, or before the first of the last start, on this device.

    Another device computes in its own way: its memory and its instructions are others.
    """
    if run.checkpoint is not None:
        state = run.checkpoint.state
        is_same_device = state.get("device") == compute.name
        return Arithmetic.from_facts(state.get("arithmetic")) if is_same_device else None
    for row in reversed(list(sound_rows(run.folder.attempts))):
        if row.get("event") == "start":
            is_same_device = row.get("device") == compute.name
            return Arithmetic.from_facts(row.get("arithmetic")) if is_same_device else None
    return None
