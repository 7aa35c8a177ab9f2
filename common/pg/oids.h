// Oids of PostgreSQL's own types (src/include/catalog/pg_type.dat); they never change.
#ifndef SP_PG_OIDS_H
#define SP_PG_OIDS_H

enum {
    SP_OID_BOOL = 16,
    SP_OID_BYTEA = 17,
    SP_OID_INT8 = 20,
    SP_OID_INT2 = 21,
    SP_OID_INT4 = 23,
    SP_OID_OID = 26,
    SP_OID_FLOAT4 = 700,
    SP_OID_FLOAT8 = 701,
    SP_OID_TIMESTAMP = 1114,
    SP_OID_TIMESTAMPTZ = 1184,
    SP_OID_NUMERIC = 1700,
    SP_OID_UUID = 2950
};

#endif
