/* See http_mhd.h. One thread inside libmicrohttpd serves all connections with epoll; only GET and
 * HEAD are answered, a body that comes with them is never read, so nothing here can change
 * anything. */
#include "health/http_mhd.h"

#include <assert.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node/base/log.h"

enum {
    HTTP_CONNECTIONS = 64,             /* balancers, a scraper, some people; not the internet */
    HTTP_CONNECTIONS_PER_ADDRESS = 32, /* all may come from one proxy; half is left to others */
    HTTP_TIMEOUT_S = 10,               /* of an idle connection */
    HTTP_MEMORY_BYTES = 16 << 10,      /* a connection's: request line and headers */
    HTTP_BODY_BYTES = 1 << 20,         /* an answer's: the page is some 30 KiB */
};

struct http {
    struct MHD_Daemon *daemon;
    http_answer fn;
    void *ctx;
};

static enum MHD_Result respond(struct MHD_Connection *c, unsigned code, struct buf *body,
                               const char *type)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(
        body->len, body->len ? body->data : (uint8_t[1]){0}, MHD_RESPMEM_MUST_COPY);
    if (!r)
        return MHD_NO; /* closes the connection */
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(r, "X-Frame-Options", "DENY");
    /* The page carries its own style and script and asks nobody else for anything. */
    MHD_add_response_header(r, "Content-Security-Policy",
                            "default-src 'none'; style-src 'unsafe-inline'; script-src "
                            "'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; "
                            "form-action 'none'; frame-ancestors 'none'");
    if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(c, code, r);
    MHD_destroy_response(r);
    return result;
}

static enum MHD_Result answer(void *cls, struct MHD_Connection *c, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_size, void **state)
{
    static char seen;
    struct http *h = cls;
    struct buf body;
    buf_init(&body, HTTP_BODY_BYTES);
    const char *type = "text/plain; charset=utf-8";
    unsigned code;
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
        /* Answered at the first call, before any body: the connection is closed after it. */
        buf_append_str(&body, "nothing here can be changed: GET and HEAD only\n");
        code = MHD_HTTP_METHOD_NOT_ALLOWED;
    } else if (*state != &seen) {
        /* First call: headers only. libmicrohttpd calls again when the request is complete. */
        *state = &seen;
        return MHD_YES;
    } else if (*upload_size) {
        *upload_size = 0; /* dropped */
        return MHD_YES;
    } else {
        int got = h->fn(h->ctx, url, &body, &type);
        assert(got >= 100 && got < 600);
        code = (unsigned)got;
        if (code == MHD_HTTP_NOT_FOUND && !body.len)
            buf_append_str(&body, "not found\n");
    }
    enum MHD_Result result = respond(c, code, &body, type);
    buf_free(&body);
    return result;
}

static void complain(void *ctx, const char *fmt, va_list ap)
{
    char text[300], quoted[400];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int n = vsnprintf(text, sizeof text, fmt, ap);
#pragma GCC diagnostic pop
    size_t len = n < 0 ? 0 : strnlen(text, sizeof text);
    while (len && text[len - 1] == '\n')
        len--;
    log_debug("http.library", "text=%s", log_quote(quoted, sizeof quoted, slice_of(text, len)));
}

/* "host:port", "[v6]:port" -> a bound, listening socket; -1: err. */
static int listen_on(const char *text, char *err, size_t n)
{
    char host[256];
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof host) {
        snprintf(err, n, "http.listen \"%s\": write it as \"address:port\"", text);
        return -1;
    }
    size_t len = (size_t)(colon - text);
    bool bracket = len >= 2 && text[0] == '[' && text[len - 1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(bracket ? len - 2 : len), text + bracket);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *found = NULL;
    int rc = getaddrinfo(*host ? host : NULL, colon + 1, &hints, &found);
    if (rc != 0) {
        snprintf(err, n, "http.listen \"%s\": %s", text, gai_strerror(rc));
        return -1;
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) < 0 ||
        listen(fd, HTTP_CONNECTIONS) < 0) {
        int error = errno;
        snprintf(err, n, "http.listen \"%s\": %s%s", text, strerror(error),
                 error == EADDRINUSE ? "; another process has this port: `ss -ltnp` tells which"
                                     : "");
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

struct http *http_start(const char *listen, http_answer fn, void *ctx, char *err, size_t n)
{
    int fd = listen_on(listen, err, n);
    if (fd < 0)
        return NULL;
    struct http *h = xcalloc(1, sizeof *h);
    h->fn = fn;
    h->ctx = ctx;
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ERROR_LOG, 0, NULL, NULL, answer, h,
        MHD_OPTION_EXTERNAL_LOGGER, complain, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_CONNECTIONS, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        (unsigned)HTTP_CONNECTIONS_PER_ADDRESS, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)HTTP_TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_MEMORY_BYTES,
        MHD_OPTION_END);
    if (!h->daemon) {
        snprintf(err, n, "http.listen \"%s\": libmicrohttpd does not start", listen);
        close(fd);
        free(h);
        return NULL;
    }
    return h;
}

void http_stop(struct http *h)
{
    if (!h)
        return;
    MHD_stop_daemon(h->daemon); /* joins the thread and closes the listening socket */
    free(h);
}
