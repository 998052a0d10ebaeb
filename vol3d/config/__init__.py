"""The typed configuration and its YAML reader. Imports pydantic, PyYAML and `errors` only."""

from vol3d.config.load import json_schema, load_config, parse_config, read_mapping
from vol3d.config.schema import (
    AugmentConfig,
    ClassConfig,
    Config,
    DataConfig,
    InferenceConfig,
    LabelsConfig,
    LossConfig,
    PreprocessConfig,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
)

__all__ = [
    "AugmentConfig",
    "ClassConfig",
    "Config",
    "DataConfig",
    "InferenceConfig",
    "LabelsConfig",
    "LossConfig",
    "PreprocessConfig",
    "SamplingConfig",
    "TrainingConfig",
    "UNetConfig",
    "json_schema",
    "load_config",
    "parse_config",
    "read_mapping",
]
