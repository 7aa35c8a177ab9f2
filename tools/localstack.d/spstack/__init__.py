"""A private Shardplane stack on loopback: etcd, PostgreSQL clusters and the services, as plain processes in one folder.

`tools/localstack` is the command line; tests and the demo import `spstack.stack.Stack`.
"""
