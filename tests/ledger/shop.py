"""Three related tables. What a row holds is a function of its table, id and version, so that a dump can be judged."""
import hashlib

import psycopg2

# Names of the columns that the ledger knows; everything else in a table is ballast.
TABLES = (
    {"schema": "public", "table": "customers", "pk": "id", "key": "id"},
    {"schema": "public", "table": "orders", "pk": "id", "key": "customer_id"},
    {"schema": "public", "table": "order_items", "pk": "id", "key": "customer_id"},
)

# STORAGE EXTERNAL: a blob of 2.5 KB always goes out of line, so that an UPDATE that keeps it sends "unchanged TOAST".
DDL = """
CREATE TABLE customers (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    profile jsonb NOT NULL,
    seq bigint NOT NULL DEFAULT 0,
    note text NOT NULL DEFAULT '',
    blob text
);
CREATE TABLE orders (
    id bigint PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers ON DELETE CASCADE,
    placed timestamptz NOT NULL DEFAULT '2026-01-01 00:00:00+00',
    total numeric(12, 2) NOT NULL DEFAULT 0,
    seq bigint NOT NULL DEFAULT 0,
    note text NOT NULL DEFAULT '',
    blob text
);
CREATE TABLE order_items (
    id bigint PRIMARY KEY,
    order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
    customer_id bigint NOT NULL,
    product text NOT NULL DEFAULT '',
    quantity integer NOT NULL DEFAULT 1,
    seq bigint NOT NULL DEFAULT 0,
    note text NOT NULL DEFAULT '',
    blob text
);
CREATE INDEX orders_customer ON orders (customer_id);
CREATE INDEX order_items_order ON order_items (order_id);
ALTER TABLE customers ALTER blob SET STORAGE EXTERNAL;
ALTER TABLE orders ALTER blob SET STORAGE EXTERNAL;
ALTER TABLE order_items ALTER blob SET STORAGE EXTERNAL;
"""

LOAD = """
INSERT INTO customers (id, name, profile, blob)
SELECT i, 'customer ' || i,
       jsonb_build_object('city', 'city ' || i % 997, 'tags', jsonb_build_array(i % 7, i % 11), 'vip', i % 50 = 0),
       CASE WHEN i % 100 = 0 THEN repeat(md5(i::text), 80) END
FROM generate_series(1, {customers}) AS i;
INSERT INTO orders (id, customer_id, placed, total)
SELECT i, (i - 1) % {customers} + 1, '2026-01-01 00:00:00+00'::timestamptz + i * interval '1 minute', i % 10000 / 100.0
FROM generate_series(1, {orders}) AS i;
INSERT INTO order_items (id, order_id, customer_id, product, quantity)
SELECT i, (i - 1) % {orders} + 1, ((i - 1) % {orders}) % {customers} + 1, 'product ' || i % 2000, i % 9 + 1
FROM generate_series(1, {items}) AS i;
"""


def load(dsn, customers, orders, items):
    """Makes and fills the tables as their owner; returns (rows, bytes of the tables without indexes)."""
    if orders % customers or items % orders:
        raise ValueError("orders must be a multiple of customers, and items of orders: the key of an item is computed")
    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(DDL)
            cursor.execute(LOAD.format(customers=int(customers), orders=int(orders), items=int(items)))
            cursor.execute("VACUUM (ANALYZE) customers, orders, order_items")
            cursor.execute("SELECT sum(pg_table_size(c)) "
                           "FROM unnest(ARRAY['customers', 'orders', 'order_items']::regclass[]) AS c")
            return customers + orders + items, int(cursor.fetchone()[0])
    finally:
        connection.close()


def base_order_key(order_id, customers):
    """The customer of a loaded order."""
    return (order_id - 1) % customers + 1


def note_of(table, pk, seq):
    return f"{table}:{pk}:{seq}"


def blob_of(pk, seq):
    """2,560 bytes that do not compress, as version `seq` of row `pk` writes them."""
    out, block = [], f"{pk}:{seq}".encode()
    for _ in range(40):
        block = hashlib.sha256(block).digest()
        out.append(block.hex())
    return "".join(out)


_blob_md5 = {}


def blob_md5(pk, seq):
    found = _blob_md5.get((pk, seq))
    if found is None:
        found = _blob_md5[pk, seq] = hashlib.md5(blob_of(pk, seq).encode()).hexdigest()
    return found
