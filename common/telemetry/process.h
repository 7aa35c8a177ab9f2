// This process' own metrics, under the names that Prometheus' client libraries use.
#ifndef SP_TELEMETRY_PROCESS_H
#define SP_TELEMETRY_PROCESS_H

#include "common/base/buf.h"

void sp_process_render(sp_buf_t *out);

#endif
