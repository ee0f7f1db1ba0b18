/* The HTTP port (libmicrohttpd, its own thread): read-only answers made by a callback. */
#ifndef BATON_HEALTH_HTTP_MHD_H
#define BATON_HEALTH_HTTP_MHD_H

#include "node/base/buf.h"

struct http;
/* Fills body and *content_type (static) for a GET of path; returns the status code, 404 for a path
 * that isn't there. HTTP thread. */
typedef int (*http_answer)(void *ctx, const char *path, struct buf *body,
                           const char **content_type);
/* Binds listen ("host:port"). NULL: err (size n) has one line. */
struct http *http_start(const char *listen, http_answer fn, void *ctx, char *err, size_t n);
void http_stop(struct http *h);
#endif
