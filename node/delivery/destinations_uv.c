/* `destination list`: next hops with what the store holds for them and how they are used. See
 * delivery_uv.h. */
#include <jansson.h>
#include <stdlib.h>

#include "node/delivery/delivery_private_uv.h"

/* The entry of a next hop, made when it isn't there. */
static json_t *entry(json_t *all, const char *key)
{
    json_t *o = json_object_get(all, key);
    if (o)
        return o;
    o = json_pack("{s:s,s:i,s:b,s:i,s:i,s:i,s:f,s:f,s:s}", "destination", key, "queued", 0,
                  "paused", 0, "in_memory", 0, "connections", 0, "window", 0, "rate_per_s", 0.0,
                  "backoff_s", 0.0, "why", "");
    if (o)
        json_object_set_new(all, key, o);
    return o; /* NULL: a name that is no UTF-8 */
}

static void set_paused(json_t *o, const char *why)
{
    json_object_set_new(o, "paused", json_true());
    json_object_set_new(o, "why", json_string(why));
}

static void add_queued(struct delivery *d, json_t *all, const json_t *row)
{
    const char *domain = json_string_value(json_object_get(row, "domain"));
    char key[ROUTE_KEY_MAX];
    if (!domain)
        return;
    const struct config_route *r =
        route_find(d->config->routes, d->config->n_routes, slice_str(domain));
    if (!route_key(r, slice_str(domain), key))
        return;
    bool paused = json_is_true(json_object_get(row, "paused"));
    json_int_t n = json_integer_value(json_object_get(row, "recipients"));
    json_t *o = entry(all, paused ? domain : key); /* one domain of a smarthost by itself */
    if (!o)
        return;
    n += json_integer_value(json_object_get(o, "queued"));
    json_object_set_new(o, "queued", json_integer(n));
    if (paused)
        set_paused(o, "paused by an operator");
}

static void add_target(json_t *all, const struct target *t, uint64_t now)
{
    const struct destination *c = &t->core;
    bool off = destination_backing_off(c, now);
    json_t *o = entry(all, t->key);
    if (!o)
        return;
    json_object_set_new(o, "in_memory", json_integer((json_int_t)t->n_rcpts));
    json_object_set_new(o, "connections", json_integer((json_int_t)c->open));
    json_object_set_new(o, "window", json_integer((json_int_t)c->window));
    json_object_set_new(o, "rate_per_s", json_real(c->rate_per_s));
    json_object_set_new(o, "backoff_s",
                        json_real(off ? (double)(c->backoff_until_ms - now) / 1000 : 0));
    if (pauses_has(&t->d->pauses, OPSTATE_DESTINATION, slice_str(t->key)))
        set_paused(o, "paused by an operator");
    else if (off)
        json_object_set_new(o, "why", json_string(c->why));
}

void delivery_destinations(struct delivery *d, const char *queued, struct buf *out)
{
    json_t *all = json_object(), *rows = json_loads(queued, 0, NULL), *row, *list = json_array();
    const char *key;
    size_t i;
    json_array_foreach(rows, i, row) add_queued(d, all, row);
    for (const struct target *t = d->targets; t; t = t->next)
        add_target(all, t, delivery_now(d));
    json_object_foreach(all, key, row) json_array_append(list, row);
    char *text = json_dumps(list, JSON_COMPACT | JSON_REAL_PRECISION(6));
    if (!text || !buf_append_str(out, text))
        (void)buf_append_str(out, "[]");
    free(text);
    json_decref(list);
    json_decref(rows);
    json_decref(all);
}
