"""What the demo and the system tests share: the REST client, the shop on a stack, and ledger writers as processes."""
