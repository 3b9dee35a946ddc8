"""The subcommands of `aquarat` that need Dagster: they work on the instance of DAGSTER_HOME."""
