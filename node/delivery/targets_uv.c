/* The next hops that delivery knows, each with what waits for it. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/delivery/delivery_private_uv.h"

static size_t bucket_of(const struct delivery *d, const char *key)
{
    uint64_t h = 1469598103934665603u; /* FNV-1a */
    for (; *key; key++)
        h = (h ^ (uint8_t)*key) * 1099511628211u;
    return (size_t)(h % d->n_buckets);
}

struct config_destination target_limits(struct delivery *d, const struct config_route *r,
                                        struct slice domain)
{
    struct config_destination fallback = {.connections = 20, .messages_per_connection = 100};
    return route_limits(d->config->destinations, d->config->n_destinations, r, domain, fallback);
}

static struct target *target_new(struct delivery *d, const char *key, const struct config_route *r,
                                 struct slice domain)
{
    struct target *t = xcalloc(1, sizeof *t);
    t->d = d;
    snprintf(t->key, sizeof t->key, "%s", key);
    t->kind = r ? r->kind : ROUTE_MX;
    if (t->kind == ROUTE_HOST) {
        snprintf(t->host, sizeof t->host, "%s", r->host);
        t->port = r->port;
    }
    struct config_destination limits = target_limits(d, r, domain);
    destination_init(&t->core, &limits, delivery_now(d));
    size_t b = bucket_of(d, key);
    t->next_in_bucket = d->bucket[b];
    d->bucket[b] = t;
    t->next = d->targets;
    if (d->targets)
        d->targets->prev = t;
    d->targets = t;
    d->n_targets++;
    t->idle_since_ms = delivery_now(d);
    return t;
}

struct target *target_get(struct delivery *d, struct slice domain)
{
    char key[ROUTE_KEY_MAX];
    const struct config_route *r = route_find(d->config->routes, d->config->n_routes, domain);
    if (!route_key(r, domain, key))
        return NULL;
    for (struct target *t = d->bucket[bucket_of(d, key)]; t; t = t->next_in_bucket)
        if (strcmp(t->key, key) == 0)
            return t;
    return d->n_targets < TARGETS_MAX ? target_new(d, key, r, domain) : NULL;
}

void target_unresolve(struct target *t)
{
    if (!t->resolving)
        return;
    hops_cancel(t->resolving);
    t->resolving = NULL;
    t->d->n_resolving--;
}

void target_free(struct target *t)
{
    struct delivery *d = t->d;
    assert(!t->links && !t->waiting && !t->want_scan);
    struct job *j;
    while ((j = target_pop(t)))
        job_free(j);
    target_unresolve(t);
    free(t->hop);
    struct target **p = &d->bucket[bucket_of(d, t->key)];
    while (*p != t)
        p = &(*p)->next_in_bucket;
    *p = t->next_in_bucket;
    if (t->prev)
        t->prev->next = t->next;
    else
        d->targets = t->next;
    if (t->next)
        t->next->prev = t->prev;
    d->n_targets--;
    free(t);
}

void target_push(struct target *t, struct job *j, bool front)
{
    if (front) {
        j->next = t->head;
        t->head = j;
        if (!t->tail)
            t->tail = j;
    } else {
        j->next = NULL;
        if (t->tail)
            t->tail->next = j;
        else
            t->head = j;
        t->tail = j;
    }
    t->n_jobs++;
    t->n_rcpts += j->n;
}

struct job *target_pop(struct target *t)
{
    struct job *j = t->head;
    if (!j)
        return NULL;
    t->head = j->next;
    if (!t->head)
        t->tail = NULL;
    t->n_jobs--;
    t->n_rcpts -= j->n;
    j->next = NULL;
    return j;
}

void target_wait(struct target *t)
{
    struct delivery *d = t->d;
    if (t->waiting)
        return;
    t->waiting = true;
    t->next_waiting = NULL;
    if (d->waiting_last)
        d->waiting_last->next_waiting = t;
    else
        d->waiting = t;
    d->waiting_last = t;
    delivery_tick_soon(d);
}

void letter_unref(struct letter *l)
{
    assert(l->refs);
    if (--l->refs)
        return;
    assert(l->d->bytes >= l->bytes);
    l->d->bytes -= l->bytes;
    if (l->fresh)
        queued_free(l->fresh);
    buf_free(&l->memory);
    free(l);
}

void job_free(struct job *j)
{
    letter_unref(j->letter);
    free(j);
}
