"""Jobs and when they run by themselves."""

import dagster as dg

from aquarat_pipeline.assets.evaluation import EVAL_REPORTS

pipeline = dg.define_asset_job("pipeline", dg.AssetSelection.all(), description="The whole chain, from data to report.")

reevaluation = dg.define_asset_job(
    "reevaluation",
    dg.AssetSelection.assets(*EVAL_REPORTS, "pipeline_report"),
    description="Evaluates the latest checkpoints again; trains nothing.",
)

weekly_reevaluation = dg.ScheduleDefinition(
    name="weekly_reevaluation",
    job=reevaluation,
    cron_schedule="0 5 * * 1",
    execution_timezone="UTC",
    description="Mondays at 05:00 UTC. Off until it is switched on in the UI.",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
