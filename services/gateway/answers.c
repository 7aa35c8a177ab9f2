#include "services/gateway/answers.h"

#include <string.h>

#include "common/base/log.h"
#include "common/wire/json_write.h"

static void write_known_details(sp_buf_t *out, const sp_error_t *err)
{
    const char *comma = "";
    sp_buf_addc(out, '{');
    if (err->sqlstate[0] != '\0') {
        sp_buf_addz(out, "\"sqlstate\":");
        sp_json_write_string(out, sp_str(err->sqlstate));
        comma = ",";
    }
    if (err->detail[0] != '\0') {
        sp_buf_printf(out, "%s\"detail\":", comma);
        sp_json_write_string(out, sp_str(err->detail));
    }
    sp_buf_addc(out, '}');
}

void sp_answer_error(sp_exchange_t *x, const sp_error_t *err, const sp_value_t *details,
                     const char *allow)
{
    sp_buf_t out = SP_BUF_INIT;
    sp_buf_printf(&out, "{\"error\":{\"code\":\"%s\",\"message\":", sp_error_name(err->code));
    sp_json_write_string(&out, sp_str(err->text));
    sp_buf_addz(&out, ",\"details\":");
    if (details == NULL || details->kind != SP_VALUE_MAP ||
        sp_wire_value_to_json(details, &out, NULL) != 0) {
        write_known_details(&out, err);
    }
    sp_buf_addz(&out, "}}\n");
    const char *headers[5] = {NULL};
    size_t n = 0;
    if (allow != NULL) {
        headers[n++] = "Allow";
        headers[n++] = allow;
    }
    if (err->retryable) {
        headers[n++] = "Retry-After";
        headers[n++] = "1";
    }
    sp_http_reply(x, sp_error_http(err->code), "application/json", &out, headers);
}

void sp_answer_code(sp_exchange_t *x, int code, const char *text)
{
    sp_error_t err = {0};
    sp_error_set(&err, code, "%s", text);
    sp_answer_error(x, &err, NULL, NULL);
}

void sp_answer_message(sp_exchange_t *x, int status, const sp_schema_t *schema, const void *body)
{
    sp_buf_t out = SP_BUF_INIT;
    sp_error_t err = {0};
    if (sp_wire_encode_json(schema, body, false, &out, &err) != 0) {
        sp_log(SP_LOG_ERROR, "GATEWAY-ENCODE", "req", x->request_id, "message", schema->name,
               "error", err.text, NULL);
        sp_buf_free(&out);
        sp_answer_code(x, SP_E_INTERNAL,
                       "the answer cannot be written; the log has more under the request id");
        return;
    }
    sp_buf_addc(&out, '\n');
    sp_http_reply(x, status, "application/json", &out, NULL);
}
