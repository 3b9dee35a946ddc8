"""Models in the form of Hugging Face transformers, written and read back.

A model without options is transformers' own NanoChat class. Any other is released with the two files of `remote/`,
which define its class. Both are read back, and so is a NanoChat model of anyone else; code in a folder is never run.
"""

from aquarat_core.exchange.huggingface.reading import read_huggingface
from aquarat_core.exchange.huggingface.writing import Written, write_huggingface

__all__ = ["Written", "read_huggingface", "write_huggingface"]
