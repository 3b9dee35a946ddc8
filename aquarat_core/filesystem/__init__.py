"""`aquarat://`: the artifacts of a store as a read-only file system for fsspec, and so for pandas, pyarrow, duckdb, ...

    aquarat://                                        the assets that have an artifact, and the experiments
    aquarat://rl_eval_report/questions.parquet        a file of the asset's latest artifact
        aquarat://wide/rl_eval_report/questions.parquet   the same file in the experiment `wide`
        aquarat://5f0c2a91/questions.parquet              a file of the artifact whose manifest hash starts with
        5f0c2a91
    aquarat://rl_checkpoint/.records/metrics.jsonl    a record of an artifact

fsspec finds `AquaratFileSystem` through an entry point, so readers only need `import fsspec`.
"""

from aquarat_core.filesystem.errors import FolderError, NoSuchPathError, ReadOnlyError, UnreadableError
from aquarat_core.filesystem.filesystem import AquaratFileSystem, ArtifactFile

__all__ = [
    "AquaratFileSystem",
    "ArtifactFile",
    "FolderError",
    "NoSuchPathError",
    "ReadOnlyError",
    "UnreadableError",
]
