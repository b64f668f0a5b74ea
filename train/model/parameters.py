"""Parameters of a model: names, shapes, place in one flat row, and initial values.

All replicas live in one float32 matrix of R rows, one replica per row, so that a gradient norm, a
cast or an update is one operation. Matrices come first, because weight decay applies to them and
not to the gains of norms. Names are those of a checkpoint's model.pt.

Shapes: R replicas, P elements of a row.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from train.config.experiment import Positions
from train.plan.shape import ModelShape

ALIGNMENT = 64
"""Each parameter starts at a multiple of this many elements: 128 bytes in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One tensor of a model and its place in the row of its replica."""

    name: str
    size: tuple[int, ...]
    start: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.size)


@dataclass(frozen=True)
class Layout:
    """The parameters of a shape in one row of `width` elements."""

    parameters: tuple[Parameter, ...]
    decayed: int
    """Elements that weight decay applies to: the matrices, which come first."""
    width: int
    """Elements of a row, padding included; padding stays zero."""

    def views(self, rows_RP: Tensor) -> dict[str, Tensor]:
        """Views of each parameter in (R, width) rows: (R, *size), or `size` when R is 1."""
        n_replicas = rows_RP.shape[0]
        lead = () if n_replicas == 1 else (n_replicas,)
        return {
            p.name: rows_RP[:, p.start : p.start + p.numel].view(*lead, *p.size)
            for p in self.parameters
        }

    def pack(self, tensors: Mapping[str, Tensor], row_P: Tensor) -> None:
        """Copy the named tensors of a replica into its row.

        Raises:
            ValueError: Names or sizes differ from the layout.
        """
        if tensors.keys() != self._named.keys():
            odd = sorted(tensors.keys() ^ self._named.keys())
            raise ValueError(f"parameters are not those of the model: {', '.join(odd[:4])}")
        for name, tensor in tensors.items():
            parameter = self._named[name]
            if tuple(tensor.shape) != parameter.size:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not {parameter.size}")
            row_P[parameter.start : parameter.start + parameter.numel].copy_(tensor.flatten())

    def unpack(self, row_P: Tensor) -> dict[str, Tensor]:
        """The row of a replica as named tensors, copies."""
        return {name: view.clone() for name, view in self.views(row_P[None]).items()}

    @cached_property
    def _named(self) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.parameters}


def layout_of(shape: ModelShape) -> Layout:
    """Lay out the parameters of train.model.transformer.Transformer for `shape`."""
    placed, start = [], 0
    matrices, gains = list(_matrices(shape)), list(_gains(shape))
    for name, size in (*matrices, *gains):
        placed.append(Parameter(name=name, size=size, start=start))
        start += -(-math.prod(size) // ALIGNMENT) * ALIGNMENT
    decayed = placed[len(matrices)].start
    return Layout(parameters=tuple(placed), decayed=decayed, width=start)


def _matrices(shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, d_ff = shape.d_model, shape.d_ff
    yield "embedding.weight", (shape.vocab_size, width)
    for i in range(shape.n_layers):
        yield f"blocks.{i}.attention.qkv.weight", (3 * width, width)
        yield f"blocks.{i}.attention.out.weight", (width, width)
        yield f"blocks.{i}.feed_forward.up.weight", ((2 if shape.gated else 1) * d_ff, width)
        yield f"blocks.{i}.feed_forward.down.weight", (width, d_ff)
    if not shape.tie_head:
        yield "head.weight", (shape.vocab_size, width)
    if shape.positions is Positions.learned:
        yield "positions.weight", (shape.seq_len, width)


def _gains(shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    for i in range(shape.n_layers):
        yield f"blocks.{i}.attention_norm.gain", (shape.d_model,)
        if shape.qk_norm:
            yield f"blocks.{i}.attention.q_norm.gain", (shape.head_dim,)
            yield f"blocks.{i}.attention.k_norm.gain", (shape.head_dim,)
        yield f"blocks.{i}.feed_forward_norm.gain", (shape.d_model,)
    yield "final_norm.gain", (shape.d_model,)


def initial_values(shape: ModelShape, *, seed: int) -> dict[str, Tensor]:
    """Draw the weights of a replica from `seed`, on the CPU, so that all devices start equal.

    Standard deviations: 1 / sqrt(fan_in) for the matrices of blocks, divided by sqrt(2 n_layers)
    for those that write to the residual stream (Radford et al. 2019); 1 / sqrt(d_model) for the
    embedding and learned positions. The head starts at zero, so that the first loss is ln(V); a
    tied head is the embedding. Gains are one.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = (2 * shape.n_layers) ** -0.5
    values = {}
    for name, size in _matrices(shape):
        if name == "head.weight":
            values[name] = torch.zeros(size)
            continue
        fan_in = shape.d_ff if name.endswith("down.weight") else shape.d_model
        is_residual = name.endswith(("out.weight", "down.weight"))
        std = fan_in**-0.5 * (depth if is_residual else 1.0)
        values[name] = torch.empty(size).normal_(0.0, std, generator=generator)
    return values | {name: torch.ones(size) for name, size in _gains(shape)}
