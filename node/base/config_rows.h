/* The settings as rows: what each is called, how its text becomes a value, where the value lives
 * in struct config, its default, its range, and what to tell somebody who got it wrong. Reading,
 * freeing and comparing configurations all walk these tables. Internal to node/base/config*. */
#ifndef BATON_BASE_CONFIG_ROWS_H
#define BATON_BASE_CONFIG_ROWS_H

#include "node/base/config.h"

enum setting_kind {
    SETTING_STRING,  /* char *, owned */
    SETTING_TEXT,    /* a string in the file that `set` turns into a value (duration, size, word) */
    SETTING_NUMBER,  /* unsigned */
    SETTING_PORT,    /* uint16_t */
    SETTING_STRINGS, /* char ** (or char *[max] when inplace) and a count */
    SETTING_TEXTS,   /* items of `item` bytes, each made by `set`, and a count */
    SETTING_GROUP,   /* `rows` within the same struct */
    SETTING_LIST,    /* groups: items of `item` bytes described by `rows`, and a count */
    SETTING_NODES,   /* the two nodes, by name */
    SETTING_VIA,     /* a route's next hop: kind, host and port of struct config_route (at 0) */
};

struct setting;
/* Value from text; false: why (size n) says what is wrong with it. For SETTING_STRING and
 * SETTING_STRINGS field is NULL: it only checks. */
typedef bool setting_set(const struct setting *r, void *field, const char *text, char *why,
                         size_t n);

struct setting {
    const char *name;
    enum setting_kind kind;
    size_t at;       /* offset of the field */
    size_t count_at; /* offset of its count (unsigned) */
    const char
        *def; /* as it would be in the file (SETTING_TEXTS, SETTING_STRINGS: words); NULL: unset */
    uint64_t min, max;
    const char *help; /* what to write; ends a mistake's line */
    setting_set *set;
    const char *const *words; /* SETTING_TEXT with set_word: NULL-terminated, value is the index */
    const struct setting *rows;
    size_t item;
    bool required, inplace;
    bool restart; /* top level: a change needs a restart */
};

/* Durations, sizes, rates, words (the index in r->words; item 1: a bool), the node's letter,
 * networks, next hops; and checks. */
setting_set value_set_duration, value_set_seconds, value_set_size, value_set_rate, value_set_word,
    value_set_node, value_check_ip, value_check_endpoint, value_check_host, value_check_domain,
    value_check_word, value_check_path, value_check_url, value_set_network, value_set_via,
    value_check_level;

extern const struct setting config_settings[], witness_settings[], config_node_rows[];

static inline void *setting_field(const struct setting *r, void *base)
{
    return (char *)base + r->at;
}
static inline unsigned *setting_count(const struct setting *r, void *base)
{
    return (unsigned *)(void *)((char *)base + r->count_at);
}
/* Items of a SETTING_STRINGS, SETTING_TEXTS or SETTING_LIST. */
void *setting_items(const struct setting *r, void *base);
size_t setting_item_size(const struct setting *r);
/* Frees what the rows own in base, not base itself. */
void settings_free(const struct setting *rows, void *base);
bool setting_equal(const struct setting *r, const void *a, const void *b);
/* The known name nearest to a wrong one, or NULL when none is near. */
const char *settings_nearest(const struct setting *rows, const char *name);

/* What is being read, for the checks that look at more than one setting. */
struct config_reading;
/* Adds "FILE:LINE: text"; path names the setting ("health.lease", "listeners.[0].tls"); where it
 * isn't in the file the line is that of the nearest group that is. */
void config_mistake(struct config_reading *r, const char *path, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Is path written in the file (or is its value a default)? */
bool config_given(struct config_reading *r, const char *path);

/* Relations between settings, and the files and users they name. */
void config_check(struct config_reading *r, struct config *c);
void witness_config_check(struct config_reading *r, struct witness_config *c);
/* Key file: exists, mode 0600, holds a key. user: whom we run as after the start, or NULL. */
void config_check_key(struct config_reading *r, const char *path, const char *file,
                      const char *user);
#endif
