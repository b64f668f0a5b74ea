"""The transformer written out for one window at a time: slow, in float64, with nothing folded."""

import math

import torch

from train.config.experiment import Norm, Positions

EPS = 1e-6


def plain_loss(shape, weights, tokens_BT, targets_BT, *, rotary_base=10_000.0):
    """Mean surprise of the targets under one replica's weights; a scalar."""
    surprises = []
    for tokens_T, targets_T in zip(tokens_BT, targets_BT, strict=True):
        logits_TV = plain_logits(shape, weights, tokens_T, rotary_base=rotary_base)
        for logits_V, target in zip(logits_TV, targets_T.tolist(), strict=True):
            surprises.append(logits_V.exp().sum().log() - logits_V[target])
    return torch.stack(surprises).mean()


def plain_logits(shape, weights, tokens_T, *, rotary_base):
    x_TD = weights["embedding.weight"][tokens_T]
    if shape.positions is Positions.learned:
        x_TD = x_TD + weights["positions.weight"][: len(tokens_T)]
    for i in range(shape.n_layers):
        block = {
            name.removeprefix(f"blocks.{i}."): value
            for name, value in weights.items()
            if name.startswith(f"blocks.{i}.")
        }
        normed = norm(shape, x_TD, block["attention_norm.gain"])
        x_TD = x_TD + attention(shape, block, normed, rotary_base)
        normed = norm(shape, x_TD, block["feed_forward_norm.gain"])
        x_TD = x_TD + feed_forward(shape, block, normed)
    head = weights["embedding.weight" if shape.tie_head else "head.weight"]
    return norm(shape, x_TD, weights["final_norm.gain"]) @ head.T


def norm(shape, x, gain):
    if shape.norm is Norm.layer:
        x = x - x.mean(-1, keepdim=True)
    return rms_norm(x, gain)


def rms_norm(x, gain):
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + EPS) * gain


def attention(shape, block, x_TD, rotary_base):
    parts = (x_TD @ block["attention.qkv.weight"].T).split(shape.d_model, dim=1)
    q, k, v = (part.view(-1, shape.n_heads, shape.head_dim) for part in parts)
    if shape.qk_norm:
        q = rms_norm(q, block["attention.q_norm.gain"])
        k = rms_norm(k, block["attention.k_norm.gain"])
    if shape.positions is Positions.rotary:
        q, k = rotate(q, rotary_base), rotate(k, rotary_base)
    rows = []
    for t in range(len(x_TD)):
        scores_HS = torch.einsum("hk,shk->hs", q[t], k[: t + 1]) / math.sqrt(shape.head_dim)
        share_HS = scores_HS.exp() / scores_HS.exp().sum(1, keepdim=True)
        rows.append(torch.einsum("hs,shk->hk", share_HS, v[: t + 1]).flatten())
    return torch.stack(rows) @ block["attention.out.weight"].T


def rotate(x_THK, base):
    """Turn each pair (k, k + K/2) of position t by t base**(-2k/K), as a complex number."""
    half = x_THK.shape[-1] // 2
    pairs = torch.complex(x_THK[..., :half], x_THK[..., half:])
    rows = [
        torch.stack([row[:, k] * turn(t, base ** (-k / half)) for k in range(half)], dim=1)
        for t, row in enumerate(pairs)
    ]
    turned = torch.stack(rows)
    return torch.cat((turned.real, turned.imag), dim=-1)


def turn(position, frequency):
    return complex(math.cos(position * frequency), math.sin(position * frequency))


def feed_forward(shape, block, x_TD):
    hidden = x_TD @ block["feed_forward.up.weight"].T
    if shape.gated:
        gate, value = hidden[:, : shape.d_ff], hidden[:, shape.d_ff :]
        hidden = gate / (1 + torch.exp(-gate)) * value
    else:
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return hidden @ block["feed_forward.down.weight"].T
