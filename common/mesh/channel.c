// Channel: a bounded queue under a mutex. Bytes go through, so the threads share nothing that they decode.
#include "common/mesh/channel.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_MESSAGES = 4096, MAX_BYTES = 64 * 1024 * 1024 };

typedef struct item {
    struct item *next;         // younger one
    const sp_schema_t *schema; // static
    size_t len;                // bytes of data
    char data[];               // encoded body
} item_t;

struct sp_channel {
    pthread_mutex_t lock; // for all below
    pthread_cond_t room;  // told when something was taken
    item_t *oldest;       // next to take
    item_t **end;         // where the next one is linked
    size_t n;             // messages inside
    size_t bytes;         // sum of len
    bool closed;          // no more enter
    int fd;               // eventfd
};

sp_channel_t *sp_channel_new(void)
{
    sp_channel_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (self->fd < 0) {
        free(self);
        return NULL;
    }
    self->end = &self->oldest;
    pthread_mutex_init(&self->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&self->room, &attr);
    pthread_condattr_destroy(&attr);
    return self;
}

void sp_channel_destroy(sp_channel_t **self_p)
{
    if (!self_p || !*self_p)
        return;
    sp_channel_t *self = *self_p;
    for (item_t *i = self->oldest, *next; i; i = next) {
        next = i->next;
        free(i);
    }
    close(self->fd);
    pthread_cond_destroy(&self->room);
    pthread_mutex_destroy(&self->lock);
    free(self);
    *self_p = NULL;
}

static void wake(sp_channel_t *self)
{
    uint64_t one = 1;
    while (write(self->fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static void clear_fd(sp_channel_t *self)
{
    uint64_t count;
    while (read(self->fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
}

static item_t *encode(const sp_schema_t *schema, const void *body, sp_error_t *err)
{
    sp_buf_t buf = SP_BUF_INIT;
    item_t *item = NULL;
    if (sp_wire_encode_msgpack(schema, body, &buf, err) == 0) {
        item = malloc(sizeof *item + buf.len);
        if (!item)
            sp_error_set(err, SP_E_OUT_OF_MEMORY, "%s", schema->name);
    }
    if (item) {
        item->next = NULL;
        item->schema = schema;
        item->len = buf.len;
        if (buf.len)
            memcpy(item->data, buf.data, buf.len);
    }
    sp_buf_free(&buf);
    return item;
}

static struct timespec deadline_in(int wait_ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += wait_ms / 1000;
    t.tv_nsec += (long)(wait_ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

static bool full(const sp_channel_t *self, size_t len)
{
    // A single message over the bound still passes when it is alone.
    return self->n >= MAX_MESSAGES || (self->n > 0 && self->bytes + len > MAX_BYTES);
}

int sp_channel_send(sp_channel_t *self, const sp_schema_t *schema, const void *body, int wait_ms,
                    sp_error_t *err)
{
    sp_error_t local = {0};
    item_t *item = encode(schema, body, &local);
    if (!item) {
        if (err)
            *err = local;
        return local.code;
    }
    struct timespec deadline = deadline_in(wait_ms);
    pthread_mutex_lock(&self->lock);
    while (!self->closed && wait_ms > 0 && full(self, item->len))
        if (pthread_cond_timedwait(&self->room, &self->lock, &deadline) == ETIMEDOUT)
            break;
    int rc = self->closed ? SP_E_CANCELLED : full(self, item->len) ? SP_E_RATE_LIMITED : 0;
    if (rc == 0) {
        *self->end = item;
        self->end = &item->next;
        self->n++;
        self->bytes += item->len;
    }
    pthread_mutex_unlock(&self->lock);
    if (rc == 0) {
        wake(self);
        return 0;
    }
    free(item);
    return sp_error_set(err, rc,
                        rc == SP_E_CANCELLED ? "the other side has ended"
                                             : "the other side does not keep up");
}

static item_t *take_item(sp_channel_t *self)
{
    // Cleared before looking: what comes later sets it again.
    clear_fd(self);
    pthread_mutex_lock(&self->lock);
    item_t *item = self->oldest;
    if (item) {
        self->oldest = item->next;
        if (!self->oldest)
            self->end = &self->oldest;
        self->n--;
        self->bytes -= item->len;
        pthread_cond_broadcast(&self->room);
    }
    bool more = self->oldest || self->closed;
    pthread_mutex_unlock(&self->lock);
    if (more)
        wake(self);
    return item;
}

bool sp_channel_take(sp_channel_t *self, sp_arena_t *arena, const sp_schema_t **ret_schema,
                     void **ret_body)
{
    for (item_t *item; (item = take_item(self)) != NULL;) {
        sp_str_t bytes = sp_arena_str(arena, (sp_str_t){item->data, item->len});
        const sp_schema_t *schema = item->schema;
        free(item);
        void *body = sp_arena_alloc(arena, 1, schema->size);
        if (bytes.ptr && body &&
            sp_wire_decode_msgpack(schema, bytes.ptr, bytes.len, arena, body, NULL) == 0) {
            *ret_schema = schema;
            *ret_body = body;
            return true;
        }
    }
    return false;
}

int sp_channel_fd(const sp_channel_t *self)
{
    return self->fd;
}

void sp_channel_close(sp_channel_t *self)
{
    pthread_mutex_lock(&self->lock);
    self->closed = true;
    pthread_cond_broadcast(&self->room);
    pthread_mutex_unlock(&self->lock);
    wake(self);
}

bool sp_channel_closed(sp_channel_t *self)
{
    pthread_mutex_lock(&self->lock);
    bool closed = self->closed;
    pthread_mutex_unlock(&self->lock);
    return closed;
}
