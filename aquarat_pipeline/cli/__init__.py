"""The subcommands of `aquarat` that need Dagster; they use the instance in DAGSTER_HOME."""
