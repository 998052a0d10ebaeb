"""What a network's outputs mean when objects are told apart: for every thing an inside and a border."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import LabelError, ModelError
from vol3d.volume import LabelTable

DIVISOR = 1000
_LARGEST = 2**32 - 1
_MOST_CLASSES = 1 << 12
_LONGEST_NAME = 1 << 10
_CLASS_KEYS = {"code", "name", "thing"}

Part = Literal["stuff", "inside", "border"]


@dataclass(frozen=True)
class SemanticClass:
    """One class as people speak of it. thing: it comes as separate objects; otherwise it is stuff (sky, background)."""

    code: int
    name: str
    thing: bool


@dataclass(frozen=True)
class Output:
    """One output of the network: a part of the semantic class `code`."""

    code: int
    name: str
    part: Part


@dataclass(frozen=True)
class InstanceScheme:
    """Semantic classes in order, and how label files write them.

    The network learns one output for every stuff class, two for every thing class: inside, then border.
    divisor: label value = class code × divisor + instance number, where stuff has number 0 (panoptic labels). None:
    the value is the instance number and 0 is background (instance labels); the classes are then one stuff class of
    code 0 and one thing class. Raises `LabelError` where the classes make no sense.
    """

    classes: tuple[SemanticClass, ...]
    divisor: int | None = DIVISOR

    def __post_init__(self) -> None:
        codes = [c.code for c in self.classes]
        if len(set(codes)) != len(codes) or not all(0 <= code <= _LARGEST for code in codes):
            raise LabelError(f"expected distinct class codes from 0 to {_LARGEST}, found {codes[:20]}")
        if not self.things or not self.stuff:
            raise LabelError(
                f"expected at least one thing class and one stuff class (where no object is), found "
                f"{len(self.things)} and {len(self.stuff)}"
            )
        if self.divisor is None and (len(codes) != 2 or self.stuff != (0,)):
            raise LabelError(f"instance labels have one stuff class of code 0 and one thing class, found codes {codes}")
        if self.divisor is not None and not 2 <= self.divisor <= _LARGEST:
            raise LabelError(f"expected a divisor from 2 to {_LARGEST}, found {self.divisor}")

    @classmethod
    def for_instances(cls, thing: str = "object", code: int = 1) -> InstanceScheme:
        """Background (code 0) and one kind of object, in files that hold instance numbers."""
        return cls((SemanticClass(0, "background", False), SemanticClass(code, thing, True)), divisor=None)

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        """What every output of the network means."""
        found: list[Output] = []
        for c in self.classes:
            if c.thing:
                found += [Output(c.code, f"{c.name} inside", "inside"), Output(c.code, f"{c.name} border", "border")]
            else:
                found.append(Output(c.code, c.name, "stuff"))
        return tuple(found)

    def __len__(self) -> int:
        """Number of network outputs K."""
        return len(self.outputs)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every network output."""
        return tuple(output.name for output in self.outputs)

    @property
    def codes(self) -> NDArray[np.int64]:
        """Semantic class code of every network output; int64 (K,)."""
        return np.array([output.code for output in self.outputs], dtype=np.int64)

    @property
    def things(self) -> tuple[int, ...]:
        """Codes of the thing classes, in order."""
        return tuple(c.code for c in self.classes if c.thing)

    @property
    def stuff(self) -> tuple[int, ...]:
        """Codes of the stuff classes, in order."""
        return tuple(c.code for c in self.classes if not c.thing)

    def index(self, code: int, part: Part) -> int:
        """Which network output is this part of class `code`. Raises `LabelError` where there is none."""
        for index, output in enumerate(self.outputs):
            if (output.code, output.part) == (code, part):
                return index
        raise LabelError(f"class {code} has no {part!r} output; the outputs are {', '.join(self.names)}")

    def output_table(self) -> LabelTable:
        """The network's outputs as classes 0…K−1 of an ordinary semantic task."""
        return LabelTable.from_codes(list(range(len(self))), names=dict(enumerate(self.names)))

    def meaning(self, values: NDArray[Any], name: str = "labels") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Label values → (class codes, instance numbers), int64, same shape; stuff has number 0.

        Raises `LabelError` on values that are not integers or ≥ 0, classes that are unknown, things without a number
        and stuff with one. Only give it values that somebody annotated.
        """
        if values.dtype.kind not in "biu":
            raise LabelError(f"{name}: expected integer label values, found {values.dtype}")
        whole = values.astype(np.int64)
        if whole.size and whole.min() < 0:
            raise LabelError(f"{name}: expected label values from 0 up, found {whole.min()}")
        if self.divisor is None:
            return np.where(whole > 0, self.things[0], 0), whole
        codes, numbers = np.divmod(whole, self.divisor)
        is_thing = np.isin(codes, self.things)
        for wrong, why in (
            (~is_thing & ~np.isin(codes, self.stuff), "no such class is declared. Declare it, or check the divisor"),
            (is_thing & (numbers == 0), "a thing needs an instance number from 1 up. Number its objects"),
            (~is_thing & (numbers > 0), "stuff has instance number 0. Declare the class a thing, or drop the number"),
        ):
            if wrong.any():
                value = int(whole[wrong].flat[0])
                raise LabelError(
                    f"{name} holds {value}, class {value // self.divisor} with instance {value % self.divisor} "
                    f"(divisor {self.divisor}): {why}."
                )
        return codes, numbers

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        classes = [{"code": c.code, "name": c.name, "thing": c.thing} for c in self.classes]
        return {"classes": classes, "divisor": self.divisor}

    @classmethod
    def from_json(cls, value: object) -> InstanceScheme:
        """The inverse of `to_json`. Raises `ModelError` on anything else."""
        try:
            return cls(*_parsed(value))
        except (TypeError, LabelError) as error:
            raise ModelError(f"expected a scheme of classes and instances, found {str(value)[:200]!r}") from error


def _parsed(value: object) -> tuple[tuple[SemanticClass, ...], int | None]:
    """The fields of a scheme, of exactly the types that `to_json` writes; TypeError otherwise."""
    if type(value) is not dict or set(value) != {"classes", "divisor"}:
        raise TypeError
    classes, divisor = value["classes"], value["divisor"]
    if type(classes) is not list or len(classes) > _MOST_CLASSES or type(divisor) not in (int, type(None)):
        raise TypeError
    return tuple(_class(entry) for entry in classes), divisor


def _class(entry: object) -> SemanticClass:
    if type(entry) is not dict or set(entry) != _CLASS_KEYS:
        raise TypeError
    code, name, thing = entry["code"], entry["name"], entry["thing"]
    if type(code) is not int or type(name) is not str or type(thing) is not bool or len(name) > _LONGEST_NAME:
        raise TypeError
    return SemanticClass(code, name, thing)
