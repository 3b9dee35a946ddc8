"""The one figure by which Dagster and the demo's table show an artifact."""

from typing import Any

import pytest

from aquarat_core.evaluation.headline import headline


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ({"rl_mcnemar_p": 0.0314}, "RL against SFT: p = 0.031"),
        ({"rl_mcnemar_p": 0.0}, "RL against SFT: p < 1e-300"),
        ({"rl_mcnemar_p": None, "bytes_per_token": 3.456}, "3.46 bytes per token"),
        ({"val_bpb": 1.2345, "val_loss": 3.0}, "1.234 bits per byte on validation text"),
        ({"arc_train": 1000, "gsm8k_train": 234}, "1,234 conversations to train on"),
        (
            {"arc_train": 1000, "pages_train": 2345, "pages_train_bytes": 99},
            "1,000 conversations and 2,345 documents to train on",
        ),
        ({"pages_train": 2345, "pages_train_bytes": 99}, "2,345 documents to train on"),
        ({}, ""),
    ],
)
def test_the_headline_of_an_artifact(metrics: dict[str, Any], text: str) -> None:
    assert headline(metrics) == text
