"""Files with the weights of a trained encoder: safetensors only, since nothing in them is ever executed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vol3d.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


def read_encoder_weights(path: str | Path) -> dict[str, Tensor]:
    """Name → CPU tensor of a safetensors file. Raises `ModelError` on every other file; a pickle is never opened."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    try:
        with path.open("rb") as file:
            first = file.read(9)
        if first.startswith((b"\x80", b"PK\x03\x04")):
            raise ModelError(
                f"{path} is a pickle or an archive (PyTorch's .pt?), which could run code when opened: refused. "
                "Save its tensors with safetensors.torch.save_file and name that file in encoder_weights."
            )
        if first[8:] != b"{":
            raise ModelError(f"{path} is not a safetensors file; encoder_weights must name one.")
        tensors: dict[str, Tensor] = load_file(path, device="cpu")
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}. Name a safetensors file in encoder_weights."
        ) from error
    except SafetensorError as error:
        raise ModelError(f"{path} is truncated or corrupt ({' '.join(str(error).split())[:100]}).") from error
    if not tensors:
        raise ModelError(f"{path} holds no tensors; encoder_weights must name a file that does.")
    return tensors
