"""The typed configuration. Every value that may be left to the data and the device is None until it is planned.

Unknown keys are refused. Lengths are in voxels or mm, angles in degrees, times in seconds, as the names say.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Sizes = Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)]
Axis = Literal["x", "y", "z"]


class Section(BaseModel):
    """Base of every part of the configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class DataConfig(Section):
    """Which files to train on: images and labels in the same order."""

    images: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    weights: tuple[str, ...] = Field((), description="optional per-voxel loss weights, one file per image")
    channel: int | None = Field(None, ge=0, description="take this channel of a multi-channel image")
    nan: float | None = Field(None, description="replace NaN and Inf in images by this value instead of refusing")
    xform: Literal["sform", "qform"] | None = Field(None, description="which one to trust where a NIfTI's two disagree")


class ClassConfig(Section):
    """One class: its code in the label files and its name."""

    code: Annotated[int, Field(ge=0)]
    name: str


class LabelsConfig(Section):
    """What the codes mean. At most one of `annotated_slices` and `dense`; `unlabeled` goes with either."""

    unlabeled: tuple[int, ...] = Field((), description="codes that mean: nobody annotated this voxel")
    annotated_slices: dict[Axis, tuple[Annotated[int, Field(ge=0)], ...]] | None = None
    dense: bool = Field(False, description="every voxel is annotated; 0 is background")
    classes: tuple[ClassConfig, ...] = Field((), description="left empty, the codes that occur are the classes")

    @field_validator("unlabeled", mode="before")
    @classmethod
    def _one_code(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _one_way(self) -> LabelsConfig:
        if self.dense and self.annotated_slices:
            raise ValueError("give `dense` or `annotated_slices`, not both")
        return self


class PreprocessConfig(Section):
    """What happens to a scan before the network sees it, and is undone on the prediction."""

    spacing_mm: tuple[Positive, Positive, Positive] | None = Field(None, description="resample to this; None keeps it")
    normalization: Literal["zscore", "percentile", "window", "none"] = "zscore"
    percentiles: tuple[float, float] = (0.5, 99.5)
    window: tuple[float, float] | None = Field(None, description="intensities mapped to 0 and 1, for `window`")

    @model_validator(mode="after")
    def _window_given(self) -> PreprocessConfig:
        if (self.normalization == "window") != (self.window is not None):
            raise ValueError("`window: [low, high]` goes with `normalization: window`, and only with it")
        return self


class AugmentConfig(Section):
    """Random spatial and gray-value changes of a patch. A probability of 0 switches a part off."""

    deformation_voxels: Annotated[float, Field(ge=0)] = Field(4.0, description="σ of the vectors, finest voxels")
    control_spacing_voxels: Positive = 32.0
    deformation_probability: Fraction = 1.0
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 30.0
    scale: tuple[Positive, Positive] = (0.9, 1.1)
    spatial_probability: Fraction = Field(0.3, description="rotation, scaling and deformation together")
    flip_probability: Fraction | None = Field(
        None, description="for each axis; None: 0.5, or 0 where class names tell left from right"
    )
    gamma_probability: Fraction = 0.1
    noise_probability: Fraction = 0.0
    blur_probability: Fraction = 0.0
    bias_field_probability: Fraction = 0.0


class SamplingConfig(Section):
    """What a training batch is cut from."""

    patch_size: Sizes | None = Field(None, description="the network's input, voxels along X, Y, Z")
    batch_size: Count | None = None
    workers: Annotated[int, Field(ge=0)] = 0


class UNetConfig(Section):
    """A U-Net, level by level from fine to coarse.

    encoder: output channels of the convolutions of every level. kernels, pooling: per level (pooling between
    levels), sizes along the axes; left empty they are 3 and 2. `up_channels`: what an up-convolution does to the
    channels: keep (3D U-Net) or halve (U-Net).
    """

    kind: Literal["unet"] = "unet"
    dimensions: Literal[2, 3] = 3
    encoder: Annotated[tuple[tuple[Count, ...], ...], Field(min_length=1)] = (
        (32, 64),
        (64, 128),
        (128, 256),
        (256, 512),
    )
    kernels: tuple[Sizes, ...] = ()
    pooling: tuple[Sizes, ...] = ()
    padding: Literal["valid", "same"] = "same"
    normalization: Literal["none", "batch", "instance", "group"] = "batch"
    up: Literal["transposed", "interpolate"] = "transposed"
    up_channels: Literal["keep", "halve"] = "keep"
    up_bias: bool = False

    @model_validator(mode="after")
    def _levels_agree(self) -> UNetConfig:
        levels = len(self.encoder)
        for name, entries, wanted in (("kernels", self.kernels, levels), ("pooling", self.pooling, levels - 1)):
            if entries and len(entries) != wanted:
                raise ValueError(f"`{name}` needs {wanted} entries for {levels} levels, found {len(entries)}")
            if any(len(entry) != self.dimensions for entry in entries):
                raise ValueError(f"every entry of `{name}` needs {self.dimensions} sizes, one per axis")
        if any(size % 2 == 0 for kernel in self.kernels for size in kernel):
            raise ValueError("kernel sizes must be odd")
        return self


class LossConfig(Section):
    """Weighted softmax cross-entropy over labeled voxels, optionally with soft Dice."""

    class_weights: Literal["none", "sqrt", "inverse"] | tuple[Annotated[float, Field(ge=0)], ...] = "sqrt"
    dice: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of soft Dice beside cross-entropy (1)")


class TrainingConfig(Section):
    """How the network is optimised. Either `iterations` or `time_budget_s`; neither: the plan's default."""

    iterations: Count | None = None
    time_budget_s: Positive | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 2e-3
    momentum: Fraction = 0.99
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    warmup_fraction: Fraction = 0.05
    decay_power: Annotated[float, Field(ge=0)] = 0.9
    gradient_clip: Positive | None = 5.0
    accumulate: Count = 1
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: bool = False
    device: str = "auto"
    devices: Count = Field(1, description="processes of distributed data parallel training")
    seed: Annotated[int, Field(ge=0)] = 0
    hold_out_every: Annotated[int, Field(ge=0)] = Field(4, description="every n-th annotated slice validates; 0: none")
    refit: bool = True
    refit_fraction: Fraction = Field(0.25, description="last part of the schedule, which sees held-out labels too")
    validations: Annotated[int, Field(ge=0)] = Field(5, description="how often to validate before the refit")
    checkpoint_minutes: Positive = 5.0
    batch_statistics: Literal["running", "reestimate", "current"] = Field(
        "reestimate",
        description="BatchNorm at test time: as averaged in training, measured again after it, or the tile's own",
    )

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if self.iterations is not None and self.time_budget_s is not None:
            raise ValueError("give `iterations` or `time_budget_s`, not both")
        return self


class InferenceConfig(Section):
    """How volumes are tiled for validation and preview. None leaves it to the memory at hand."""

    tile: Sizes | None = None
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.25, description="same-padded networks: shared part of a tile"
    )
    max_memory_gb: Positive | None = None


class Config(Section):
    """A whole run. A run is a function of (config, data, seed)."""

    data: DataConfig = DataConfig()
    labels: LabelsConfig = LabelsConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    augment: AugmentConfig = AugmentConfig()
    sampling: SamplingConfig = SamplingConfig()
    network: UNetConfig | None = Field(None, description="None: planned from the data and the device")
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    inference: InferenceConfig = InferenceConfig()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")
