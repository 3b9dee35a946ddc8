"""Checkpoints of nanochat (github.com/karpathy/nanochat), in and out.

A checkpoint is `model_000650.pt`, a dict of tensors, and `meta_000650.json`, whose `model_config` describes the model.
What the model computes has changed while the names of the files stayed the same: `forms.py` finds out which form the
tensors have, `reading.py` reads them, and `writing.py` writes them.
"""

from aquarat_core.exchange.nanochat.reading import load_nanochat, read_nanochat, saved_steps
from aquarat_core.exchange.nanochat.writing import write_nanochat

__all__ = ["load_nanochat", "read_nanochat", "saved_steps", "write_nanochat"]
