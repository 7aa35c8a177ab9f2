#include "services/gateway/http_listen.h"

#include <errno.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int sp_http_listen(const char *address, int *ret_fd, sp_error_t *err)
{
    char host[256];
    const char *colon = strrchr(address, ':');
    size_t len = colon != NULL ? (size_t)(colon - address) : 0;
    if (colon == NULL || len >= sizeof(host)) {
        return sp_error_set(err, SP_E_CONFIG, "http_listen: '%s' is not host:port", address);
    }
    // [::1]:8081
    bool bracket = len >= 2 && address[0] == '[' && address[len - 1] == ']';
    memcpy(host, address + bracket, len - 2 * bracket);
    host[len - 2 * bracket] = '\0';
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *found = NULL;
    int rc = getaddrinfo(host[0] != '\0' && strcmp(host, "*") != 0 ? host : NULL, colon + 1, &hints,
                         &found);
    if (rc != 0) {
        return sp_error_set(err, SP_E_CONFIG, "http_listen: '%s': %s", address, gai_strerror(rc));
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 256) != 0) {
        sp_error_set(err, SP_E_IO, "http_listen: cannot listen on %s: %s", address,
                     strerror(errno));
        freeaddrinfo(found);
        if (fd >= 0) {
            close(fd);
        }
        return SP_E_IO;
    }
    freeaddrinfo(found);
    *ret_fd = fd;
    return 0;
}

void sp_http_name(int fd, char *out, size_t size)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    char host[128] = "?", port[16] = "0";
    if (getsockname(fd, (struct sockaddr *)&address, &length) == 0) {
        getnameinfo((struct sockaddr *)&address, length, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV);
    }
    bool v6 = strchr(host, ':') != NULL;
    snprintf(out, size, v6 ? "http://[%s]:%s" : "http://%s:%s", host, port);
}
