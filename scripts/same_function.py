"""Whether our model and the reference compute one function: same weights, same tokens, float32."""

from collections.abc import Mapping

import torch
from reference_step import ReferenceModel
from torch import Tensor

from train.model.attention import fused_attention
from train.model.parameters import initial_values
from train.model.transformer import Transformer
from train.plan.shape import ModelShape

WINDOWS = 4

TOLERANCE = 1e-5
"""Nats per token; both sum a few thousand float32 losses, in different orders."""


@torch.no_grad()
def losses(shape: ModelShape, *, seed: int) -> tuple[float, float]:
    """Our loss and the reference's, of the same random weights on the same random tokens.

    The gains are drawn around one, as at their first values, all one, a missing one would not show.
    """
    weights = initial_values(shape, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in weights.items():
        if name.endswith(".gain"):
            weight.add_(torch.empty_like(weight).normal_(std=0.3, generator=generator))
    windows = (WINDOWS, shape.seq_len + 1)
    tokens_BT = torch.randint(shape.vocab_size, windows, generator=generator)
    inputs_BT, targets_BT = tokens_BT[:, :-1], tokens_BT[:, 1:]
    reference = ReferenceModel(shape)
    load(reference, weights)
    ours = Transformer(
        shape, device=torch.device("cpu"), dtype=torch.float32, attention=fused_attention
    )
    own = ours.losses(weights, inputs_BT[None], targets_BT[None])
    return float(own), float(reference(inputs_BT, targets_BT))


def load(reference: ReferenceModel, weights: Mapping[str, Tensor]) -> None:
    """Copy our weights over.

    Raises:
        RuntimeError: A name or a size differs.
    """
    named = {reference_name(name): weight for name, weight in weights.items()}
    reference.load_state_dict(named | {"head.weight": named["embedding.weight"]})


def reference_name(name: str) -> str:
    """What the reference calls a weight of ours."""
    for ours, theirs in ((".attention.", "."), (".feed_forward.", "."), (".gain", ".weight")):
        name = name.replace(ours, theirs)
    return name
