"""The code location: everything Dagster serves, assembled from its rooms."""

import dagster as dg

from aquarat_pipeline.assets.data import data_assets
from aquarat_pipeline.assets.evaluation import evaluation_assets
from aquarat_pipeline.assets.tokenizer import tokenizer_assets
from aquarat_pipeline.assets.training import training_assets
from aquarat_pipeline.checks.artifacts import artifact_checks
from aquarat_pipeline.checks.evaluation import evaluation_checks
from aquarat_pipeline.launching.executor import resuming_executor
from aquarat_pipeline.launching.lines import terminal_logger
from aquarat_pipeline.launching.torchrun import TorchrunPipesClient
from aquarat_pipeline.resources.profile import current_profile
from aquarat_pipeline.resources.store import StoreResource
from aquarat_pipeline.schedules import pipeline, reevaluation, weekly_reevaluation

profile = current_profile()

defs = dg.Definitions(
    assets=[
        *data_assets(profile),
        *tokenizer_assets(profile),
        *training_assets(profile),
        *evaluation_assets(profile),
    ],
    asset_checks=[*artifact_checks(), *evaluation_checks()],
    jobs=[pipeline, reevaluation],
    schedules=[weekly_reevaluation],
    resources={"store": StoreResource.from_environment(), "torchrun": TorchrunPipesClient()},
    executor=resuming_executor,
    loggers={"console": terminal_logger},
)
