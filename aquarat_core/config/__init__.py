"""One typed, range-checked config per stage; a profile fills all of them.

A profile is a YAML file whose top-level keys are the stages of the chain. `AQUARAT_PROFILE` names one of the
built-in profiles or gives the path of a file; `extends:` starts from another profile and changes single fields.
Unknown fields, values out of range and contradictory fields raise `ConfigError` before anything starts.
"""

from aquarat_core.config.core import CoreConfig, EvalBundleConfig
from aquarat_core.config.data import AquaDatasetConfig, ChatDatasetsConfig, ChatSource, PretrainTextConfig
from aquarat_core.config.evaluation import EvalConfig
from aquarat_core.config.fields import (
    ConfigError,
    NonNegativeInt,
    Positive,
    PositiveInt,
    StrictModel,
    UnitInterval,
    same_config,
    with_current_names,
)
from aquarat_core.config.model import SPLIT_PATTERN, ModelConfig, TokenizerConfig
from aquarat_core.config.profile import (
    DEFAULT_PROFILE,
    PROFILES_DIR,
    Profile,
    load_profile,
    override,
    profile_names,
)
from aquarat_core.config.rl import (
    CurriculumConfig,
    DistillationConfig,
    ObjectiveConfig,
    RewardConfig,
    RLConfig,
    RLOptimConfig,
    RLTask,
)
from aquarat_core.config.task_use import standing_alone
from aquarat_core.config.tasks import TaskConfig, TaskDefinition
from aquarat_core.config.training import (
    ChatTrainConfig,
    CheckpointConfig,
    LaunchConfig,
    MidConfig,
    MixtureEntry,
    OptimConfig,
    PretrainConfig,
    SamplesConfig,
    TrainConfig,
    WandbConfig,
)
from aquarat_core.config.validation import validate

__all__ = [
    "DEFAULT_PROFILE",
    "PROFILES_DIR",
    "SPLIT_PATTERN",
    "AquaDatasetConfig",
    "ChatDatasetsConfig",
    "ChatSource",
    "ChatTrainConfig",
    "CheckpointConfig",
    "ConfigError",
    "CoreConfig",
    "CurriculumConfig",
    "DistillationConfig",
    "EvalBundleConfig",
    "EvalConfig",
    "LaunchConfig",
    "MidConfig",
    "MixtureEntry",
    "ModelConfig",
    "NonNegativeInt",
    "ObjectiveConfig",
    "OptimConfig",
    "Positive",
    "PositiveInt",
    "PretrainConfig",
    "PretrainTextConfig",
    "Profile",
    "RLConfig",
    "RLOptimConfig",
    "RLTask",
    "RewardConfig",
    "SamplesConfig",
    "StrictModel",
    "TaskConfig",
    "TaskDefinition",
    "TokenizerConfig",
    "TrainConfig",
    "UnitInterval",
    "WandbConfig",
    "load_profile",
    "override",
    "profile_names",
    "same_config",
    "standing_alone",
    "validate",
    "with_current_names",
]
