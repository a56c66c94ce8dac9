"""Digests: the identity of modules and tensors, to key results and to prove that nothing was changed."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def tensor_digest(*tensors: Tensor) -> str:
    """SHA-256 over dtype, shape and bytes.

    >>> tensor_digest(torch.zeros(2)) == tensor_digest(torch.zeros(2, 1))
    False
    """
    sha = hashlib.sha256()
    for tensor in tensors:
        value = tensor.detach().cpu().contiguous()
        sha.update(f"{value.dtype}{tuple(value.shape)}".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def weights_digest(module: object) -> str:
    """SHA-256 over the names and values of all parameters and buffers: what the function is made of.

    Anything without weights (a plain callable) is known by its qualified name only.
    """
    if not isinstance(module, torch.nn.Module):
        name = getattr(module, "__qualname__", type(module).__qualname__)
        return hashlib.sha256(f"callable {name}".encode()).hexdigest()
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    sha = hashlib.sha256(type(module).__name__.encode())
    for name in sorted(state):
        sha.update(f"{name}:{tensor_digest(state[name])}".encode())
    return sha.hexdigest()


def state_digest(module: object) -> str:
    """As :func:`weights_digest`, and over modes, gradient flags, devices and accumulated gradients too: equal before and
    after a question is the proof that the user's module was not touched."""
    if not isinstance(module, torch.nn.Module):
        return weights_digest(module)
    sha = hashlib.sha256(weights_digest(module).encode())
    for name, child in module.named_modules():
        sha.update(f"{name}:{child.training}".encode())
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        sha.update(f"{name}:{value.requires_grad}:{value.device}:{id(value)}".encode())
        if value.grad is not None:
            sha.update(tensor_digest(value.grad).encode())
    return sha.hexdigest()


def text_digest(facts: Mapping[str, object] | str) -> str:
    """SHA-256 of a plain description, keys in sorted order."""
    import json

    text = facts if isinstance(facts, str) else json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
