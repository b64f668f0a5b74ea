"""The tensors of state dicts: what they weigh, and copies without what they merely view."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def tensor_bytes(*values: Any) -> int:  # noqa: ANN401
    """Bytes of all distinct tensors in nested state dicts, tied ones counted once."""
    return sum(storage.nbytes() for storage in _storages(values).values())


def compact(value: Any, copies: dict[Any, Tensor] | None = None) -> Any:  # noqa: ANN401
    """Copy tensors that view a larger storage: torch.save writes the whole of what they view.

    Tensors that are tied, views of the very same numbers, stay so.
    """
    copies = {} if copies is None else copies
    if isinstance(value, Tensor):
        if value.untyped_storage().nbytes() == value.numel() * value.element_size():
            return value
        view = (value.data_ptr(), value.dtype, value.shape, value.stride())
        return copies.setdefault(view, value.clone())
    if isinstance(value, Mapping):
        return {key: compact(item, copies) for key, item in value.items()}
    if isinstance(value, list):
        return [compact(item, copies) for item in value]
    return value


def _storages(value: Any) -> dict[int, Any]:  # noqa: ANN401
    """Storages of the tensors in nested containers, by address."""
    if isinstance(value, Tensor):
        return {value.untyped_storage().data_ptr(): value.untyped_storage()}
    if isinstance(value, Mapping):
        value = list(value.values())
    found: dict[int, Any] = {}
    if isinstance(value, list | tuple):
        for item in value:
            found |= _storages(item)
    return found
