"""Which runs one job trains: replicas in one stack, and horizons that share a trunk.

Replicas are runs that differ only in seed and optimizer settings, batch size apart: a stack takes
their steps as one set of matmuls. Other schedules could be stacked too, since each replica has its
own multiplier; they are kept apart, so that the runs of a stack differ in numbers alone. Horizons
of one replica share the steps before their cooldowns (schedule.shares_trunk): the longest is
trained, and the others branch off it.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from train.config.experiment import LearningRateRule
from train.errors import ConfigError
from train.plan.planning import PlannedRun
from train.plan.schedule import shares_trunk

Horizons = tuple[PlannedRun, ...]
"""Runs of one replica with a shared trunk, longest first."""

BestStack = Callable[[PlannedRun, int], int]
"""From a run and its number of replicas to the replicas per stack that are fastest."""

BegunAt = Callable[[PlannedRun], int]
"""From a run to the step of its newest checkpoint, or 0."""


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """The runs of one job."""

    replicas: tuple[Horizons, ...]
    """Horizons of each replica, longest first; all replicas have the same ones."""

    @property
    def stacks(self) -> tuple[tuple[PlannedRun, ...], ...]:
        """Runs that step together, by horizon, longest first."""
        return tuple(zip(*self.replicas, strict=True))

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """All runs, longest first."""
        return tuple(run for stack in self.stacks for run in stack)

    @property
    def own_flops(self) -> int:
        """FLOPs of the runs trained one by one: the sum of their exact C."""
        return sum(run.plan.flops_exact for run in self.runs)

    @cached_property
    def shared_flops(self) -> int:
        """FLOPs that the job computes: a shared trunk counts once."""
        return sum(map(_shared_flops, self.replicas))

    def __str__(self) -> str:
        """`4 x 5 horizons` (replicas x horizons), `4 stacked`, `1 run`."""
        horizons = len(self.stacks)
        if horizons == 1:
            return f"{len(self.replicas)} stacked" if len(self.replicas) > 1 else "1 run"
        return f"{len(self.replicas)} x {horizons} horizons"


def _shared_flops(horizons: Sequence[PlannedRun]) -> int:
    longest, *others = horizons
    steps = longest.plan.steps
    steps += sum(run.plan.steps - (run.plan.schedule.fork_step or 0) for run in others)
    return steps * longest.plan.batch_tokens * longest.plan.token_flops.train


def group_runs(
    runs: Iterable[PlannedRun],
    *,
    best_stack: BestStack,
    begun_at: BegunAt = lambda run: 0,
) -> list[RunGroup]:
    """Group runs that share work into jobs; every run is in exactly one.

    Horizons of one trunk stay in one job: a branch needs its trunk in the same process. Only runs
    that resume from the same step are stacked.

    Args:
        runs: Runs to start.
        best_stack: Called for two or more replicas, unless machine.stack gives the number.
        begun_at: Step from which each run resumes.

    Returns:
        Jobs in the order of their first runs.
    """
    families: dict[Hashable, list[PlannedRun]] = {}
    for run in runs:
        families.setdefault(family(run), []).append(run)
    groups = []
    for members in families.values():
        alike: dict[Hashable, list[Horizons]] = {}
        for horizons in _trunks(members):
            key = tuple((run.plan.steps, begun_at(run)) for run in horizons)
            alike.setdefault(key, []).append(horizons)
        for replicas in alike.values():
            limit = _stack_limit(replicas, best_stack)
            groups += [RunGroup(replicas=tuple(part)) for part in _even_parts(replicas, limit)]
    return groups


def family(run: PlannedRun) -> Hashable:
    """Key of runs that may share a job: all but steps, seed and optimizer; with the batch size."""
    config, plan = run.config, run.plan
    runtime = (config.machine, config.tracker, config.paths, config.study, config.restart)
    # these two are not in the shape
    model = (config.model.activation, config.model.rotary_base)
    experiment = (model, config.data, config.eval, config.schedule, plan.batch_tokens)
    return plan.shape, repr(experiment), repr(runtime)


def replica(run: PlannedRun) -> Hashable:
    """Key of one replica: its seed and its optimizer, with the learning rate resolved."""
    own = replace(
        run.config.optimizer, lr=run.plan.lr, lr_multiplier=1.0, lr_rule=LearningRateRule()
    )
    return run.config.seed, repr(own)


def trunk_of(run: PlannedRun, runs: Iterable[PlannedRun]) -> PlannedRun | None:
    """The longest of `runs` whose trunk `run` branches off; None without one."""
    longer = [
        other
        for other in runs
        if other.plan.steps > run.plan.steps
        and family(other) == family(run)
        and replica(other) == replica(run)
        and shares_trunk(run.plan.schedule, other.plan.schedule)
    ]
    return max(longer, key=lambda other: other.plan.steps, default=None)


def refuse_strangers(first: PlannedRun, others: Sequence[PlannedRun]) -> None:
    """Refuse a job whose runs are not of one family.

    Raises:
        ConfigError: Names a run that cannot share the job, and the config groups that differ.
    """
    names = ("model", "data", "eval", "schedule", "machine", "tracker", "paths", "study", "restart")
    for other in others:
        if family(other) == family(first):
            continue
        differing = [
            name for name in names if getattr(other.config, name) != getattr(first.config, name)
        ]
        what = ", ".join(differing) or "optimizer.batch_tokens"
        raise ConfigError(
            f"together: {other.plan.run_id} differs from {first.plan.run_id} in {what}; one job "
            f"trains runs that differ in seed, optimizer (its batch_tokens apart) and budget alone"
        )


def _even_parts(replicas: Sequence[Horizons], most: int) -> list[Sequence[Horizons]]:
    """Cut into the fewest parts of at most `most`, whose lengths differ by at most one."""
    count = -(-len(replicas) // most)
    edges = [len(replicas) * part // count for part in range(count + 1)]
    return [replicas[begin:end] for begin, end in pairwise(edges)]


def _trunks(members: Sequence[PlannedRun]) -> list[Horizons]:
    """Runs of one family by replica and trunk; the horizons of each longest first."""
    trunks: list[list[PlannedRun]] = []
    by_replica: dict[Hashable, list[list[PlannedRun]]] = {}
    is_on = members[0].config.machine.trunks
    for run in sorted(members, key=lambda run: run.plan.steps, reverse=True):
        own = by_replica.setdefault(replica(run), [])
        for trunk in own:
            longest = trunk[0].plan
            is_shorter = run.plan.steps < trunk[-1].plan.steps
            if is_on and is_shorter and shares_trunk(run.plan.schedule, longest.schedule):
                trunk.append(run)
                break
        else:
            own.append([run])
            trunks.append(own[-1])
    return [tuple(trunk) for trunk in trunks]


def _stack_limit(replicas: Sequence[Horizons], best_stack: BestStack) -> int:
    """Most replicas per stack."""
    longest, count = replicas[0][0], len(replicas)
    asked = longest.config.machine.stack
    if asked is not None:
        return asked
    return 1 if count == 1 else max(1, min(count, best_stack(longest, count)))
