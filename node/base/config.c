/* Texts of the configuration into values, and what is done with a configuration that was read:
 * comparing, freeing. Core: touches memory only. */
#include "node/base/config.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/config_rows.h"

struct unit {
    const char *name;
    uint64_t factor;
};

/* A whole number and one of the units; overflow is no value. */
static bool parse_with_unit(const char *text, const struct unit *units, uint64_t *out)
{
    const char *p = text;
    uint64_t v = 0;
    if (!isdigit((unsigned char)*p))
        return false;
    for (; isdigit((unsigned char)*p); p++) {
        if (v > (UINT64_MAX - 9) / 10)
            return false;
        v = v * 10 + (uint64_t)(*p - '0');
    }
    while (*p == ' ')
        p++;
    for (const struct unit *u = units; u->name; u++) {
        if (strcmp(p, u->name) == 0) {
            if (v > UINT64_MAX / u->factor)
                return false;
            *out = v * u->factor;
            return true;
        }
    }
    return false;
}

bool config_parse_duration(const char *text, uint64_t *ms)
{
    static const struct unit units[] = {
        {"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 3600 * 1000}, {"d", 24 * 3600 * 1000},
        {NULL, 0}};
    return parse_with_unit(text, units, ms);
}

bool config_parse_size(const char *text, uint64_t *bytes)
{
    static const struct unit units[] = {{"", 1},
                                        {"B", 1},
                                        {"KB", 1000},
                                        {"MB", 1000 * 1000},
                                        {"GB", 1000ull * 1000 * 1000},
                                        {"KiB", 1024},
                                        {"MiB", 1024 * 1024},
                                        {"GiB", 1024ull * 1024 * 1024},
                                        {NULL, 0}};
    return parse_with_unit(text, units, bytes);
}

bool config_parse_rate(const char *text, double *per_s)
{
    /* Counted per day, so that every unit is a whole factor. */
    static const struct unit units[] = {
        {"/s", 86400}, {"/m", 1440}, {"/h", 24}, {"/d", 1}, {NULL, 0}};
    uint64_t per_day;
    if (!parse_with_unit(text, units, &per_day))
        return false;
    *per_s = (double)per_day / 86400;
    return true;
}

bool config_network_contains(const struct config_network *nets, unsigned n, const uint8_t addr[16])
{
    for (unsigned i = 0; i < n; i++) {
        unsigned whole = nets[i].bits / 8, rest = nets[i].bits % 8;
        assert(nets[i].bits <= 128);
        uint8_t mask = (uint8_t)(0xff00u >> rest);
        if (memcmp(nets[i].addr, addr, whole) == 0 &&
            (rest == 0 || ((nets[i].addr[whole] ^ addr[whole]) & mask) == 0))
            return true;
    }
    return false;
}

void config_mistakes_free(struct config_mistakes *m)
{
    for (unsigned i = 0; i < m->n; i++)
        free(m->text[i]);
    m->n = 0;
}

size_t setting_item_size(const struct setting *r)
{
    return r->kind == SETTING_STRINGS ? sizeof(char *) : r->item;
}

void *setting_items(const struct setting *r, void *base)
{
    if (r->inplace)
        return setting_field(r, base);
    void *items;
    memcpy(&items, setting_field(r, base), sizeof items);
    return items;
}

void settings_free(const struct setting *rows, void *base)
{
    for (const struct setting *r = rows; r->name; r++) {
        char *items = NULL;
        unsigned n = 0;
        switch (r->kind) {
        case SETTING_STRING:
            free(*(char **)setting_field(r, base));
            break;
        case SETTING_STRINGS:
        case SETTING_TEXTS:
        case SETTING_LIST:
            items = setting_items(r, base);
            n = *setting_count(r, base);
            break;
        case SETTING_NODES:
            for (unsigned i = 0; i < CONFIG_NODES_MAX; i++)
                settings_free(r->rows, (char *)setting_field(r, base) + i * r->item);
            break;
        case SETTING_GROUP:
            settings_free(r->rows, base);
            break;
        case SETTING_VIA:
            free(((struct config_route *)setting_field(r, base))->host);
            break;
        case SETTING_TEXT:
        case SETTING_NUMBER:
        case SETTING_PORT:
            break;
        }
        for (unsigned i = 0; i < n; i++) {
            if (r->kind == SETTING_STRINGS)
                free(((char **)(void *)items)[i]);
            else if (r->kind == SETTING_LIST)
                settings_free(r->rows, items + i * r->item);
        }
        if (!r->inplace)
            free(items);
    }
}

static bool same_string(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool via_equal(const struct config_route *a, const struct config_route *b)
{
    return a->kind == b->kind && a->port == b->port && same_string(a->host, b->host);
}

static bool settings_equal(const struct setting *rows, const void *a, const void *b)
{
    for (const struct setting *r = rows; r->name; r++) {
        if (!setting_equal(r, a, b))
            return false;
    }
    return true;
}

static bool items_equal(const struct setting *r, const void *a, const void *b)
{
    /* The casts drop const only to share the accessors; nothing is written. */
    unsigned n = *setting_count(r, (void *)(uintptr_t)a);
    if (n != *setting_count(r, (void *)(uintptr_t)b))
        return false;
    const char *x = setting_items(r, (void *)(uintptr_t)a),
               *y = setting_items(r, (void *)(uintptr_t)b);
    size_t size = setting_item_size(r);
    for (unsigned i = 0; i < n; i++, x += size, y += size) {
        bool same = r->kind == SETTING_STRINGS ? same_string(*(char *const *)(const void *)x,
                                                             *(char *const *)(const void *)y)
                    : r->kind == SETTING_LIST  ? settings_equal(r->rows, x, y)
                                               : memcmp(x, y, size) == 0;
        if (!same)
            return false;
    }
    return true;
}

bool setting_equal(const struct setting *r, const void *a, const void *b)
{
    const char *x = (const char *)a + r->at, *y = (const char *)b + r->at;
    switch (r->kind) {
    case SETTING_STRING:
        return same_string(*(char *const *)(const void *)x, *(char *const *)(const void *)y);
    case SETTING_TEXT:
        return memcmp(x, y, r->item) == 0;
    case SETTING_VIA:
        return via_equal((const void *)x, (const void *)y);
    case SETTING_NUMBER:
        return memcmp(x, y, sizeof(unsigned)) == 0;
    case SETTING_PORT:
        return memcmp(x, y, sizeof(uint16_t)) == 0;
    case SETTING_STRINGS:
    case SETTING_TEXTS:
    case SETTING_LIST:
        return items_equal(r, a, b);
    case SETTING_GROUP:
        return settings_equal(r->rows, a, b);
    case SETTING_NODES:
        for (unsigned i = 0; i < CONFIG_NODES_MAX; i++, x += r->item, y += r->item) {
            if (!settings_equal(r->rows, x, y))
                return false;
        }
        return true;
    }
    return true;
}

/* Edits (insert, delete, replace, swap of neighbours) between two names. */
static unsigned edit_distance(const char *a, const char *b)
{
    enum { LONGEST = 40 }; /* no known name is longer */
    unsigned d[LONGEST + 1][LONGEST + 1];
    size_t na = strlen(a), nb = strlen(b);
    if (na > LONGEST || nb > LONGEST)
        return LONGEST;
    for (size_t i = 0; i <= na; i++) {
        for (size_t j = 0; j <= nb; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = (unsigned)(i + j);
                continue;
            }
            unsigned cost = tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]);
            unsigned best = d[i - 1][j - 1] + cost;
            if (d[i - 1][j] + 1 < best)
                best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best)
                best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    }
    return d[na][nb];
}

const char *settings_nearest(const struct setting *rows, const char *name)
{
    const char *best = NULL;
    unsigned least = (unsigned)strlen(name) / 3 + 2; /* further away it is another word */
    for (const struct setting *r = rows; r->name; r++) {
        unsigned d = edit_distance(name, r->name);
        if (d < least) {
            least = d;
            best = r->name;
        }
    }
    return best;
}

void config_free(struct config *c)
{
    if (!c)
        return;
    settings_free(config_settings, c);
    free(c->file);
    free(c);
}

void witness_config_free(struct witness_config *c)
{
    if (!c)
        return;
    settings_free(witness_settings, c);
    free(c->file);
    free(c);
}

const char *config_needs_restart(const struct config *old, const struct config *fresh, char *out,
                                 size_t n)
{
    assert(n > 0);
    size_t o = 0;
    out[0] = 0;
    for (const struct setting *r = config_settings; r->name; r++) {
        if (!r->restart || setting_equal(r, old, fresh))
            continue;
        int w = snprintf(out + o, n - o, "%s%s", o ? ", " : "", r->name);
        if (w < 0 || (size_t)w >= n - o) {
            out[o] = 0;
            break;
        }
        o += (size_t)w;
    }
    return out;
}
