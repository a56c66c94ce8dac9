"""Multi-head attention written so that the examples keep an axis of their own.

``nn.MultiheadAttention`` merges examples and heads into one axis, and inside ``nn.TransformerEncoderLayer`` one fused operation does all at
once: neither says what belongs to which example. The graph is therefore taken from a copy whose attention layers compute the same function
by plain projections; that the copy agrees with the module is tested on the examples when it is taken.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@contextmanager
def spelled(module: nn.Module) -> Iterator[nn.Module]:
    """The module (a copy, which is changed) with attention layers in plain projections, while no fused operation replaces them.

    >>> layer = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    >>> x = torch.ones(2, 3, 4)
    >>> before = layer(x, x, x)[0]
    >>> with spelled(layer) as plain:
    ...     bool(torch.allclose(plain(x, x, x)[0], before, atol=1e-6))
    True
    """
    for child in module.modules():
        if type(child) is nn.MultiheadAttention and _is_plain(child):
            object.__setattr__(child, "forward", partial(attend, child))
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield module
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _is_plain(layer: nn.MultiheadAttention) -> bool:
    return layer._qkv_same_embed_dim and layer.bias_k is None and not layer.add_zero_attn


def attend(
    layer: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``nn.MultiheadAttention.forward`` in evaluation mode, for (N, n, width), or (n, N, width) where the layer says so."""
    if key_padding_mask is not None or query.dim() != 3:
        return type(layer).forward(
            layer, query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
        )
    flip = (lambda v: v) if layer.batch_first else (lambda v: v.transpose(0, 1))
    parts = _projections(layer, flip(query), flip(key), flip(value), query is key and key is value)
    q, k, v = (p.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for p in parts)
    if attn_mask is not None and attn_mask.dim() == 3:  # one for every head of every example
        attn_mask = attn_mask.reshape(-1, layer.num_heads, *attn_mask.shape[1:])
    mask = ~attn_mask if attn_mask is not None and attn_mask.dtype == torch.bool else attn_mask
    weights = None
    if need_weights:
        scores = (q / sqrt(layer.head_dim)) @ k.transpose(-2, -1)
        if attn_mask is not None:
            scores = scores + torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else scores + mask  # type: ignore[union-attr]
        weights = scores.softmax(-1)
        mixed = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, mask)
    return flip(layer.out_proj(mixed.transpose(1, 2).flatten(2))), weights


def _projections(
    layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, same: bool
) -> tuple[Tensor, ...]:
    """Query, key and value. The weight is used whole, so that it stays one parameter of one layer."""
    whole = lambda x: F.linear(x, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
    if same:
        return whole(query)
    return whole(query)[0], whole(key)[1], whole(value)[2]
