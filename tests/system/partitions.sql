-- The ledger's shop with partitioned tables. Items move between partitions whenever their version passes a bound; their key is neither in
-- the primary key nor what they are partitioned by; foreign keys come from a partitioned table and lead to one.
ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey;
ALTER TABLE customers RENAME TO customers_plain;
CREATE TABLE customers (LIKE customers_plain INCLUDING DEFAULTS INCLUDING STORAGE, PRIMARY KEY (id)) PARTITION BY HASH (id);
CREATE TABLE customers_even PARTITION OF customers FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE customers_odd PARTITION OF customers FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY HASH (id);
CREATE TABLE customers_odd_1 PARTITION OF customers_odd FOR VALUES WITH (MODULUS 4, REMAINDER 1);
CREATE TABLE customers_odd_3 PARTITION OF customers_odd FOR VALUES WITH (MODULUS 4, REMAINDER 3);
INSERT INTO customers SELECT * FROM customers_plain;
DROP TABLE customers_plain;
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers ON DELETE CASCADE;

ALTER TABLE order_items RENAME TO items_plain;
ALTER INDEX order_items_order RENAME TO items_plain_order;
CREATE TABLE order_items (LIKE items_plain INCLUDING DEFAULTS INCLUDING STORAGE, PRIMARY KEY (id, seq, quantity)) PARTITION BY RANGE (seq);
-- Made by itself and attached: other places of the columns, and one that was dropped.
CREATE TABLE items_loaded (seq bigint NOT NULL DEFAULT 0, gone text, blob text, note text NOT NULL DEFAULT '', id bigint NOT NULL,
    quantity integer NOT NULL DEFAULT 1, product text NOT NULL DEFAULT '', customer_id bigint NOT NULL, order_id bigint NOT NULL);
ALTER TABLE items_loaded DROP COLUMN gone;
ALTER TABLE items_loaded ALTER blob SET STORAGE EXTERNAL;
ALTER TABLE order_items ATTACH PARTITION items_loaded FOR VALUES FROM (MINVALUE) TO (1);
CREATE TABLE items_young PARTITION OF order_items FOR VALUES FROM (1) TO (40) PARTITION BY LIST (quantity);
CREATE TABLE items_young_one PARTITION OF items_young FOR VALUES IN (1);
CREATE TABLE items_young_more PARTITION OF items_young DEFAULT;
CREATE TABLE items_old PARTITION OF order_items FOR VALUES FROM (40) TO (120);
CREATE TABLE items_rest PARTITION OF order_items DEFAULT;
CREATE INDEX order_items_order ON order_items (order_id);
INSERT INTO order_items SELECT * FROM items_plain;
DROP TABLE items_plain;
ALTER TABLE order_items ADD CONSTRAINT item_of FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE;
COMMENT ON CONSTRAINT item_of ON order_items IS 'a foreign key of a partitioned table';
ANALYZE;
