"""The asset graph, grouped by domain. Each asset is one stage of `aquarat_core.stages`."""
