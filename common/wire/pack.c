#include "common/wire/pack.h"

#include <msgpack.h>

static int append(void *data, const char *bytes, size_t len)
{
    sp_buf_t *out = data;
    sp_buf_add(out, bytes, len);
    return out->failed ? -1 : 0;
}

static msgpack_packer packer(sp_buf_t *out)
{
    return (msgpack_packer){.data = out, .callback = append};
}

void sp_pack_nil(sp_buf_t *out)
{
    msgpack_packer p = packer(out);
    msgpack_pack_nil(&p);
}

void sp_pack_bool(sp_buf_t *out, bool v)
{
    msgpack_packer p = packer(out);
    if (v) {
        msgpack_pack_true(&p);
    } else {
        msgpack_pack_false(&p);
    }
}

void sp_pack_int(sp_buf_t *out, int64_t v)
{
    msgpack_packer p = packer(out);
    msgpack_pack_int64(&p, v);
}

void sp_pack_float(sp_buf_t *out, double v)
{
    msgpack_packer p = packer(out);
    msgpack_pack_double(&p, v);
}

void sp_pack_str(sp_buf_t *out, sp_str_t v)
{
    msgpack_packer p = packer(out);
    msgpack_pack_str(&p, v.len);
    msgpack_pack_str_body(&p, v.ptr, v.len);
}

void sp_pack_bin(sp_buf_t *out, sp_str_t v)
{
    msgpack_packer p = packer(out);
    msgpack_pack_bin(&p, v.len);
    msgpack_pack_bin_body(&p, v.ptr, v.len);
}

void sp_pack_array(sp_buf_t *out, size_t n)
{
    msgpack_packer p = packer(out);
    msgpack_pack_array(&p, n);
}

void sp_pack_map(sp_buf_t *out, size_t n)
{
    msgpack_packer p = packer(out);
    msgpack_pack_map(&p, n);
}

int sp_pack_end(sp_buf_t *out, size_t before, int rc, sp_error_t *err)
{
    if (rc == 0 && out->failed) {
        rc = sp_error_set(err, out->limit > 0 ? SP_E_TOO_LARGE : SP_E_OUT_OF_MEMORY,
                          "the encoded message does not fit its buffer");
    }
    if (rc != 0 && out->len > before) {
        out->len = before;
        out->data[before] = '\0';
    }
    return rc;
}
