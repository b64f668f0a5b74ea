"""How many windows go through the model at once: as many as fit, a divisor of the batch."""

from train.device import ComputeDevice
from train.shape import ModelShape

ACTIVATION_SHARE = 0.4
"""Share of the job's memory that a micro-batch's activations may take."""


def half_micro_batch(micro_batch_seqs: int, *, batch_seqs: int) -> int | None:
    """Windows per forward pass after `micro_batch_seqs` did not fit; None below one window.

    The largest divisor of the batch that is at most half.
    """
    smaller = [d for d in range(1, micro_batch_seqs // 2 + 1) if batch_seqs % d == 0]
    return max(smaller, default=None)


def choose_micro_batch(
    shape: ModelShape,
    compute: ComputeDevice,
    *,
    n_replicas: int,
    batch_seqs: int,
    asked: int | None,
    is_plain: bool,
) -> int:
    """Windows of a replica per forward pass: as asked, else the largest divisor that fits.

    Args:
        shape: The model's.
        compute: The device, of whose memory ACTIVATION_SHARE is planned with.
        n_replicas: Runs in the stack, which go through together.
        batch_seqs: Windows of a replica per step.
        asked: machine.micro_batch_seqs.
        is_plain: Whether attention keeps its scores.
    """
    if asked is not None:
        return asked
    one = n_replicas * activation_bytes(shape, seqs=1, is_plain=is_plain)
    fits = ACTIVATION_SHARE * compute.memory_budget() / one
    divisors = [d for d in range(1, batch_seqs + 1) if batch_seqs % d == 0]
    return max((d for d in divisors if d <= fits), default=1)


def activation_bytes(shape: ModelShape, *, seqs: int, is_plain: bool = False) -> int:
    """Bytes kept for the backward pass of `seqs` windows, an upper estimate (ours).

    Per token and layer about 16 values of width d_model and 3 of d_ff (5 when gated), with plain
    attention two rows of scores a head, and per token the logits in the compute type, in float32
    and their gradient; four bytes each. The tests hold it against what autograd keeps.
    """
    per_layer = 16 * shape.d_model + (5 if shape.gated else 3) * shape.d_ff
    if is_plain:
        per_layer += 2 * shape.n_heads * shape.seq_len
    per_token = shape.n_layers * per_layer + 3 * shape.vocab_size
    return 4 * seqs * shape.seq_len * per_token
