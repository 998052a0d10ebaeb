"""Classes that are a left and a right one: a network that learned them must see nothing mirrored."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vol3d.errors import ConfigError

_SIDES = {
    *("left", "right", "linke", "linker", "linkes", "rechte", "rechter", "rechtes"),
    *("gauche", "droit", "droite", "izquierdo", "izquierda", "derecho", "derecha"),
}
_MIRRORED = {"l": "r", "lh": "rh", "lt": "rt", "sin": "dex", "sinister": "dexter", "links": "rechts"}


def tell_sides(names: Sequence[str]) -> bool:
    """Whether class names tell left from right: by these words, or two names differ in nothing but l and r or the like.

    Words are parted by anything but letters, and by capitals: `LeftLung`; `lung_l`, `lung_r`; `ctx-lh-x`, `ctx-rh-x`.
    """
    words = [tuple(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)) for name in names]
    if any(_SIDES & {*parts} for parts in words):
        return True
    mirrored = [tuple(_MIRRORED.get(word, word) for word in parts) for parts in words]
    return any(other != parts and other in words for parts, other in zip(words, mirrored, strict=True))


def require_no_sides(names: Sequence[str]) -> None:
    """Raise `ConfigError` where flips are asked for of a model whose classes tell left from right."""
    if tell_sides(names):
        raise ConfigError(
            "the classes of this model tell left from right: averaging over flips would mix the two sides. Leave --tta "
            "out."
        )
