"""The ledger: writers that record what they meant and what they were told, and a checker that compares it with the shards.

It proves invariant I1: no acknowledged write is lost, duplicated, stale or misplaced, and nothing appears that nobody wrote.

    shop        the tables, their content as a function of (row, version), and the loader
    oplog       the log: one intent and one outcome an operation, flushed before the operation is sent
    executors   how a transaction is run: through a router, or directly against one shard with a stale ring
    writer      the mix of operations; `python3 -m ledger.writer SPEC.json` runs some writers as a process
    checker     what the shards should hold, what they do hold, and the defects
    prober      the proof of I2: asks every shard, while all this goes on, which keys it would accept
"""
