"""Work on many shards of data: a pure function makes the files of one shard, and no shard is made twice.

`spec.py` says what is wanted, `records.py` finds and writes what is there, and `driver.py` has the rest made by an
executor.
"""
