"""The typed configuration. Every value that may be left to the data and the device is None until it is planned.

Unknown keys are refused. Lengths are in voxels or mm, angles in degrees, times in seconds, as the names say.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from vol3d.config.networks import NetworkChoice, NetworkKind, read_network
from vol3d.config.section import Count, Fraction, Positive, Section, Sizes

Axis = Literal["x", "y", "z"]
Task = Literal["semantic", "regression", "instances", "panoptic"]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class DataConfig(Section):
    """Which files to train on: images and labels in the same order."""

    images: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    weights: tuple[str, ...] = Field((), description="optional per-voxel loss weights, one file per image")
    channel: int | None = Field(None, ge=0, description="take this channel of a multi-channel image")
    nan: float | None = Field(None, description="replace NaN and Inf in images by this value instead of refusing")
    xform: Literal["sform", "qform"] | None = Field(None, description="which one to trust where a NIfTI's two disagree")
    by_box: bool | None = Field(
        None,
        description="read and normalise of every scan what a patch needs, from disk where it is an HDF5 file, and do "
        "not hold it; None: where a channel of all scans takes more than 2 GB and than an eighth of the free memory",
    )


class ClassConfig(Section):
    """One class: its code in the label files and its name."""

    code: Annotated[int, Field(ge=0)]
    name: str


class LabelsConfig(Section):
    """What the codes mean. At most one of `annotated_slices` and `dense`; `unlabeled` goes with either.

    `one_of` and `not_painted` are for voxels whose class is not known for certain, for task semantic.
    """

    unlabeled: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="codes that mean: nobody annotated this voxel"
    )
    annotated_slices: dict[Axis, Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]] | None = None
    dense: bool = Field(False, description="every voxel is annotated; 0 is background")
    classes: tuple[ClassConfig, ...] = Field((), description="left empty, the codes that occur are the classes")
    one_of: dict[Annotated[int, Field(ge=0)], tuple[Annotated[int, Field(ge=0)], ...]] = Field(
        {}, description="code → class codes: a voxel of this code is of one of these classes, not known which"
    )
    not_painted: dict[Annotated[str, Field(min_length=1)], tuple[Annotated[int, Field(ge=0)], ...]] = Field(
        {},
        description="label file (name or glob) → codes of classes that nobody painted there: its background, the "
        "smallest code of a class, means background or one of these",
    )

    @field_validator("unlabeled", mode="before")
    @classmethod
    def _one_code(cls, value: object) -> object:
        codes = value if isinstance(value, (list, tuple)) else (value,)
        if any(isinstance(code, bool) for code in codes):
            raise ValueError(
                "expected codes such as 255, or [] for none (YAML takes yes, no, on and off for truth values)"
            )
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _one_way(self) -> LabelsConfig:
        if self.dense and self.annotated_slices:
            raise ValueError("give `dense` or `annotated_slices`, not both")
        return self

    @model_validator(mode="after")
    def _choices(self) -> LabelsConfig:
        classes = {c.code for c in self.classes}
        for code, members in self.one_of.items():
            if len(set(members)) < 2:
                raise ValueError(f"`one_of` {code}: expected two or more class codes, found {list(members)}")
            if code in classes or code in self.unlabeled:
                raise ValueError(f"code {code} is given both in `one_of` and as a class or unlabeled; choose one")
            strange = sorted(set(members) & (self.one_of.keys() | set(self.unlabeled)))
            if strange:
                raise ValueError(f"`one_of` {code}: code {strange[0]} is no class")
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

    deformation_voxels: NotNegative = Field(4.0, description="σ of the vectors, finest voxels")
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

    @model_validator(mode="after")
    def _rising(self) -> AugmentConfig:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"`scale`: expected the smaller number first, found {list(self.scale)}")
        return self


class SamplingConfig(Section):
    """What a training batch is cut from."""

    patch_size: Sizes | None = Field(None, description="the network's input, voxels along X, Y, Z")
    batch_size: Count | None = None
    workers: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="processes that cut patches, 0: this one; None: the same, but a GPU cuts large patches itself, or "
        "up to eight processes where the volumes do not fit into it",
    )
    planes: tuple[Axis, ...] | None = Field(
        None,
        description="2-D networks: go slice by slice across these axes; None: across the coarsest, else across those "
        "that slices are painted across, else all",
    )


Reduction = Annotated[int, Field(ge=1, le=64)]


def _yes_or_no(value: object) -> object:
    """YAML takes yes and no for truth values."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


class PixelClassifierConfig(Section):
    """A quick classifier of voxels by their surroundings. It gives the first preview.

    Its class probabilities and the network's are combined, by a weight that held-out labels choose.
    """

    use: Annotated[Literal["auto", "yes", "no"], BeforeValidator(_yes_or_no)] = Field(
        "auto",
        description="auto: beside networks that are planned",
    )
    steps: Count | None = Field(
        None,
        description="of its optimisation, fewer where few voxels are labeled; None: ten per second or iteration, up "
        "to 700",
    )
    reduction: tuple[Reduction, Reduction, Reduction] | None = Field(
        None,
        description="along R, A and S, of how many voxels of a scan it looks at the mean; None: 1, and so many in "
        "large scans that all voxels take about a quarter of the time (of ten minutes, where iterations are given)",
    )


class LossConfig(Section):
    """What is minimised over labeled voxels: a sum of terms with these weights; 0 leaves a term out.

    `regression` and `huber_delta` are for `task: regression`, all other terms for classes.
    """

    class_weights: Literal["none", "sqrt", "inverse"] | tuple[NotNegative, ...] = "sqrt"
    cross_entropy: NotNegative = 1.0
    focal: NotNegative = 0.0
    focal_gamma: NotNegative = 2.0
    dice: NotNegative = Field(0.0, description="soft Dice")
    iou: NotNegative = Field(0.0, description="soft IoU")
    lovasz: NotNegative = Field(0.0, description="Lovász-softmax")
    ms_ssim: NotNegative = Field(0.0, description="multi-scale structural similarity")
    border: NotNegative = Field(
        0.0, description="w0 of the U-Net's weight map, which favours gaps between objects; 10 in the paper"
    )
    border_sigma_mm: Positive | None = Field(None, description="σ of that map; None: five voxels")
    border_classes: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None,
        description="codes of the objects that gaps lie between; None: all but background, or but the smallest code",
    )
    regression: Literal["mae", "mse", "huber"] = "mae"
    huber_delta: Positive = Field(1.0, description="where Huber's loss turns linear, in standard deviations")
    deep_supervision: tuple[NotNegative, ...] | None = Field(
        None, description="weights of a network's outputs, the final one first; None: all the same"
    )

    @model_validator(mode="after")
    def _some_term(self) -> LossConfig:
        if not any((self.cross_entropy, self.focal, self.dice, self.iou, self.lovasz, self.ms_ssim)):
            raise ValueError("at least one term needs a weight above 0")
        if not isinstance(self.class_weights, str) and not any(self.class_weights):
            raise ValueError("at least one of `class_weights` must be above 0")
        if self.deep_supervision is not None and not (self.deep_supervision and self.deep_supervision[0]):
            raise ValueError("the first of the weights of `deep_supervision`, of the final output, must be above 0")
        return self


class ObjectRules(Section):
    """How objects are made of what a network answers. Lengths in mm, volumes in mm³; 0 switches a rule off."""

    smoothing_mm: NotNegative | None = Field(None, description="σ that smooths probabilities; None: finest spacing")
    seed_threshold: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.6, description="objects start where the probability of being inside is above this"
    )
    split: bool = Field(True, description="split insides with several bulges, against borders that leak")
    split_depth_mm: NotNegative | None = Field(None, description="how deep a neck must be; None: finest spacing")
    distance_weight: NotNegative = Field(0.0, description="how much depth counts beside probability where objects meet")
    min_volume_mm3: NotNegative | None = Field(None, description="smaller objects are given up; None: 20 voxels")
    hole_volume_mm3: NotNegative | None = Field(None, description="holes up to this are filled; None: 20 voxels")


class InstancesConfig(ObjectRules):
    """How objects are learned and told apart, for `task: instances` and `task: panoptic`.

    A label file of `panoptic` holds class code × divisor + object number.
    """

    border_mm: Positive | None = Field(None, description="depth of the border that is learned; None: one voxel")
    divisor: Annotated[int, Field(ge=2)] = 1000
    things: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, description="codes of countable classes; None: those with numbered objects"
    )


class TrainingConfig(Section):
    """How the network is optimised. Either `iterations` or `time_budget_s`; neither: the plan's default."""

    iterations: Count | None = None
    time_budget_s: Positive | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 2e-3
    momentum: Fraction = 0.99
    weight_decay: NotNegative = 1e-2
    warmup_fraction: Fraction = 0.05
    decay_power: NotNegative = 0.9
    gradient_clip: Positive | None = 5.0
    accumulate: Count = 1
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: bool = False
    device: str = "auto"
    devices: Count = Field(1, description="processes of distributed data parallel training")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    hold_out_every: Annotated[int, Field(ge=0)] = Field(4, description="every n-th annotated slice validates; 0: none")
    refit: bool = True
    refit_fraction: Fraction = Field(0.25, description="last part of the schedule, which sees held-out labels too")
    validations: Annotated[int, Field(ge=0)] = Field(5, description="how often to validate before the refit")
    checkpoint_minutes: Positive = 5.0
    batch_statistics: Literal["frozen", "running", "reestimate", "current"] = Field(
        "reestimate",
        description="BatchNorm at test time: as frozen halfway through training (in short runs measured again after "
        "it), as averaged in training, measured again after it, or the tile's own",
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
    task: Task = "semantic"
    network: Annotated[
        NetworkChoice | None, BeforeValidator(read_network, json_schema_input_type=NetworkChoice | NetworkKind | None)
    ] = Field(default=None, description="a kind or a whole description; None: planned from the data and the device")
    pixel_classifier: PixelClassifierConfig = PixelClassifierConfig()
    loss: LossConfig = LossConfig()
    instances: InstancesConfig = InstancesConfig()
    training: TrainingConfig = TrainingConfig()
    inference: InferenceConfig = InferenceConfig()

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Config:
        """Refuse what the task has no use for: it would be ignored."""
        objects = self.task in {"instances", "panoptic"}
        if not objects and self.instances != InstancesConfig():
            raise ValueError(f"`instances` is for tasks instances and panoptic, found task {self.task}")
        if self.task == "instances" and (self.instances.things is not None or self.labels.classes):
            raise ValueError("`instances.things` and `labels.classes` are for task panoptic; found task instances")
        if objects and self.loss.border_classes is not None:
            raise ValueError(
                f"`loss.border_classes` is for task semantic: the objects of {self.task} are in its labels"
            )
        plain = LossConfig(
            regression=self.loss.regression,
            huber_delta=self.loss.huber_delta,
            deep_supervision=self.loss.deep_supervision,
        )
        if self.task == "regression" and (self.loss != plain or self.labels.classes):
            raise ValueError("task regression has `loss.regression`, no classes and none of their loss terms")
        unused = self.loss.regression != "mae" or self.loss.huber_delta != 1
        if self.task != "regression" and unused:
            raise ValueError(f"`loss.regression` and `huber_delta` are for task regression, found task {self.task}")
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")
