"""What a model was made for, as it is kept with the model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, JsonValue, model_validator

from vol3d.config.schema import ObjectRules, Task
from vol3d.config.section import Positive, Section

AxisNumber = Annotated[int, Field(ge=0, le=2)]


class TaskSpec(Section):
    """What becomes of a network's outputs.

    planes: of a 2-D network, the axes (0, 1, 2 for X, Y, Z in closest RAS) across which it goes slice by slice;
    several are averaged. scheme, rules: of `instances` and `panoptic`, what the outputs mean and how objects are made
    of them. mean, sd: of `regression`; a value is output × sd + mean.
    """

    kind: Task = "semantic"
    planes: tuple[AxisNumber, ...] = ()
    scheme: dict[str, JsonValue] | None = None
    rules: ObjectRules | None = None
    mean: float = Field(0.0, allow_inf_nan=False)
    sd: Annotated[Positive, Field(allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _objects_described(self) -> TaskSpec:
        if (self.kind in {"instances", "panoptic"}) != (self.scheme is not None and self.rules is not None):
            raise ValueError("`scheme` and `rules` go with tasks that tell objects apart, and only with those")
        if len(set(self.planes)) != len(self.planes):
            raise ValueError("`planes` names an axis twice")
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")
