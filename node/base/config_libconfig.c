/* Reads configuration files with libconfig and fills struct config by the tables of
 * config_rows.c. Mistakes are collected, each as "FILE:LINE: text"; only libconfig's own
 * parser stops at its first.
 *
 * libconfig 1.5 is given a file only after it was looked through here, because it
 *  - exits the process when it is made to read a directory (also by @include),
 *  - takes an unclosed comment for the rest of the file,
 *  - turns integers beyond 32 bits into something else,
 * and it passes names over that nobody asks for. */
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <libconfig.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/base/config_rows.h"

enum {
    FILE_MAX = 1 << 20, /* bytes; no sensible configuration is longer */
    INCLUDE_DEPTH = 8,  /* libconfig ends at 10 */
};

struct config_reading {
    const char *file;
    config_t cfg;
    struct config_mistakes *mistakes;
};

static void mistake_at(struct config_reading *r, const char *file, unsigned line, const char *fmt,
                       va_list ap)
{
    struct config_mistakes *m = r->mistakes;
    if (m->n >= CONFIG_MISTAKES_MAX)
        return;
    char text[600], *whole;
    vsnprintf(text, sizeof text, fmt, ap);
    if (asprintf(&whole, "%s:%u: %s", file ? file : r->file, line ? line : 1, text) >= 0)
        m->text[m->n++] = whole;
}

static void __attribute__((format(printf, 4, 5)))
mistake_line(struct config_reading *r, const char *file, unsigned line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    mistake_at(r, file, line, fmt, ap);
    va_end(ap);
}

static void __attribute__((format(printf, 3, 4)))
mistake(struct config_reading *r, const config_setting_t *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    mistake_at(r, s->file, s->line, fmt, ap);
    va_end(ap);
}

void config_mistake(struct config_reading *r, const char *path, const char *fmt, ...)
{
    char at[200];
    snprintf(at, sizeof at, "%s", path);
    config_setting_t *s = NULL;
    while (at[0] && !(s = config_lookup(&r->cfg, at))) {
        char *dot = strrchr(at, '.');
        *(dot ? dot : at) = 0;
    }
    va_list ap;
    va_start(ap, fmt);
    mistake_at(r, s ? s->file : NULL, s ? s->line : 1, fmt, ap);
    va_end(ap);
}

bool config_given(struct config_reading *r, const char *path)
{
    return config_lookup(&r->cfg, path) != NULL;
}

/* --- before libconfig sees it --- */

static bool scan_file(struct config_reading *r, const char *file, const char *from, unsigned line,
                      unsigned depth);

/* p: behind `@include "`. */
static void scan_include(struct config_reading *r, const char *file, unsigned line, const char *p,
                         unsigned depth)
{
    char path[512];
    size_t n = strcspn(p, "\"\n");
    if (p[n] != '"' || n >= sizeof path || memchr(p, '\\', n)) {
        mistake_line(r, file, line, "@include needs the path of a file in quotes");
        return;
    }
    memcpy(path, p, n);
    path[n] = 0;
    if (path[0] != '/')
        mistake_line(r, file, line,
                     "@include \"%s\": give the absolute path, so that it doesn't depend on where "
                     "the program was started",
                     path);
    else if (depth >= INCLUDE_DEPTH)
        mistake_line(r, file, line, "@include \"%s\": included more than %d files deep", path,
                     INCLUDE_DEPTH);
    else
        scan_file(r, path, file, line, depth + 1);
}

/* p: at a digit that starts a token. Returns its end. */
static const char *scan_number(struct config_reading *r, const char *file, unsigned line,
                               const char *p)
{
    const char *start = p;
    bool hex = p[0] == '0' && (p[1] == 'x' || p[1] == 'X');
    errno = 0;
    char *end;
    unsigned long long v = strtoull(p, &end, hex ? 16 : 10);
    p = end;
    bool whole = *p != '.' && *p != 'e' && *p != 'E';
    while (isalnum((unsigned char)*p) || *p == '.')
        p++;
    if (whole && (errno == ERANGE || v > INT32_MAX))
        mistake_line(r, file, line,
                     "%.*s is too large for a plain number; sizes and durations are strings with a "
                     "unit, like \"64MiB\" or \"5d\"",
                     (int)(p - start), start);
    return p;
}

static void scan_text(struct config_reading *r, const char *file, const char *p, unsigned depth)
{
    unsigned line = 1, opened = 0;
    bool line_start = true;
    while (*p) {
        if (line_start) {
            const char *q = p + strspn(p, " \t");
            line_start = false;
            if (strncmp(q, "@include", 8) == 0 && q[8 + strspn(q + 8, " \t")] == '"')
                scan_include(r, file, line, q + 9 + strspn(q + 8, " \t"), depth);
        }
        if (*p == '\n') {
            line++;
            line_start = true;
            p++;
        } else if (*p == '#' || (p[0] == '/' && p[1] == '/')) {
            p += strcspn(p, "\n");
        } else if (p[0] == '/' && p[1] == '*') {
            opened = line;
            for (p += 2; *p && !(p[0] == '*' && p[1] == '/'); p++)
                line += *p == '\n';
            if (!*p) {
                mistake_line(r, file, opened, "this comment is never closed; end it with */");
                return;
            }
            p += 2;
        } else if (*p == '"') {
            opened = line;
            for (p++; *p && *p != '"'; p++) {
                if (*p == '\\' && p[1])
                    p++;
                line += *p == '\n';
            }
            if (!*p) {
                mistake_line(r, file, opened, "this string is never closed; end it with \"");
                return;
            }
            p++;
        } else if (isdigit((unsigned char)*p)) {
            p = scan_number(r, file, line, p);
        } else if (isalpha((unsigned char)*p) || *p == '_' || *p == '*') {
            p++;
            while (isalnum((unsigned char)*p) || *p == '_' || *p == '-' || *p == '*')
                p++;
        } else {
            p++;
        }
    }
}

/* from, line: the @include that named the file; NULL for the main file. */
static bool scan_file(struct config_reading *r, const char *file, const char *from, unsigned line,
                      unsigned depth)
{
    struct stat st;
    const char *where = from ? from : file;
    if (stat(file, &st) != 0) {
        mistake_line(r, where, line, "%s: %s", file, strerror(errno));
        return false;
    }
    if (!S_ISREG(st.st_mode)) {
        mistake_line(r, where, line, "%s is not a regular file", file);
        return false;
    }
    if (st.st_size > FILE_MAX) {
        mistake_line(r, where, line, "%s is larger than %d bytes", file, FILE_MAX);
        return false;
    }
    FILE *f = fopen(file, "re");
    char *text = xmalloc(FILE_MAX + 1);
    size_t n = f ? fread(text, 1, FILE_MAX, f) : 0;
    bool ok = f && !ferror(f);
    if (!ok)
        mistake_line(r, where, line, "%s: %s", file, strerror(errno));
    if (f)
        fclose(f);
    text[n] = 0;
    if (ok && strlen(text) != n) {
        mistake_line(r, where, line, "%s holds a NUL byte: not a text file", file);
        ok = false;
    }
    if (ok)
        scan_text(r, file, text, depth);
    free(text);
    return ok;
}

/* --- values by the rows --- */

static void read_rows(struct config_reading *r, const struct setting *rows, config_setting_t *group,
                      void *base, const char *name);

static bool take_text(struct config_reading *r, const struct setting *row, void *field,
                      const config_setting_t *s, const char *name, const char *text)
{
    char why[120] = "";
    if (!row->set || row->set(row, field, text, why, sizeof why))
        return true;
    mistake(r, s, "%s: \"%.100s\" %s; write %s", name, text, why, row->help);
    return false;
}

/* NULL: not a string, said so. */
static const char *string_of(struct config_reading *r, const struct setting *row,
                             const config_setting_t *s, const char *name)
{
    const char *text = config_setting_get_string(s);
    if (text)
        return text;
    if (config_setting_type(s) == CONFIG_TYPE_INT && row->kind != SETTING_STRING &&
        row->kind != SETTING_VIA)
        mistake(r, s, "%s = %d has no unit; write %s", name, config_setting_get_int(s), row->help);
    else
        mistake(r, s, "%s must be a string in quotes; write %s", name, row->help);
    return NULL;
}

static void read_number(struct config_reading *r, const struct setting *row,
                        const config_setting_t *s, void *field)
{
    if (config_setting_type(s) != CONFIG_TYPE_INT) {
        mistake(r, s, "%s must be %s without quotes, from %llu to %llu", row->name, row->help,
                (unsigned long long)row->min, (unsigned long long)row->max);
        return;
    }
    int v = config_setting_get_int(s);
    if (v < 0 || (uint64_t)v < row->min || (uint64_t)v > row->max) {
        mistake(r, s, "%s = %d is out of range; it must be from %llu to %llu", row->name, v,
                (unsigned long long)row->min, (unsigned long long)row->max);
        return;
    }
    if (row->kind == SETTING_PORT)
        *(uint16_t *)field = (uint16_t)v;
    else
        *(unsigned *)field = (unsigned)v;
}

/* Room for n items, zeroed; sets the count. */
static char *make_items(const struct setting *row, void *base, unsigned n)
{
    char *items =
        row->inplace ? setting_field(row, base) : xcalloc(n ? n : 1, setting_item_size(row));
    if (!row->inplace)
        memcpy(setting_field(row, base), &items, sizeof items);
    *setting_count(row, base) = n;
    return items;
}

static void read_items(struct config_reading *r, const struct setting *row, config_setting_t *s,
                       void *base)
{
    bool aggregate = config_setting_is_list(s) || config_setting_is_array(s);
    if (!aggregate ||
        (row->kind == SETTING_LIST && config_setting_is_array(s) && config_setting_length(s) > 0)) {
        mistake(r, s, "%s must be %s", row->name, row->help);
        return;
    }
    unsigned n = (unsigned)config_setting_length(s);
    if (n > row->max) {
        mistake(r, s, "%s has %u entries; at most %llu are possible", row->name, n,
                (unsigned long long)row->max);
        return;
    }
    char *item = make_items(row, base, n);
    for (unsigned i = 0; i < n; i++, item += setting_item_size(row)) {
        config_setting_t *e = config_setting_get_elem(s, i);
        if (row->kind == SETTING_LIST) {
            if (config_setting_is_group(e))
                read_rows(r, row->rows, e, item, row->name);
            else
                mistake(r, e, "an entry of %s must be a group: { ... }", row->name);
            continue;
        }
        const char *text = string_of(r, row, e, row->name);
        bool strings = row->kind == SETTING_STRINGS;
        if (text && take_text(r, row, strings ? NULL : item, e, row->name, text) && strings)
            *(char **)(void *)item = xstrdup(text);
    }
}

static void default_items(const struct setting *row, void *base)
{
    char *words = xstrdup(row->def), *save = NULL, why[120];
    unsigned n = 1;
    for (const char *p = words; *p; p++)
        n += *p == ' ';
    char *item = make_items(row, base, n);
    for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        bool ok = row->set(row, item, w, why, sizeof why);
        assert(ok);
        (void)ok;
        item += setting_item_size(row);
    }
    free(words);
}

static void read_nodes(struct config_reading *r, const struct setting *row, config_setting_t *s,
                       struct config_node *nodes, unsigned *count)
{
    static const char *const names[CONFIG_NODES_MAX] = {"a", "b"};
    if (!config_setting_is_group(s)) {
        mistake(r, s, "nodes must be a group; write %s", row->help);
        return;
    }
    for (unsigned i = 0; i < (unsigned)config_setting_length(s); i++) {
        config_setting_t *e = config_setting_get_elem(s, i);
        if (strcmp(e->name, "a") != 0 && strcmp(e->name, "b") != 0)
            mistake(r, e, "nodes.%s: the nodes are called a and b; rename it", e->name);
    }
    for (unsigned i = 0; i < CONFIG_NODES_MAX; i++) {
        config_setting_t *e = config_setting_get_member(s, names[i]);
        if (!e)
            continue;
        struct config_node *node = &nodes[(*count)++];
        node->name = names[i][0];
        if (config_setting_is_group(e))
            read_rows(r, row->rows, e, node, names[i]);
        else
            mistake(r, e, "nodes.%s must be a group: { addresses = [ \"10.0.0.1\" ]; }", names[i]);
    }
    if (*count == 0)
        mistake(r, s, "no node is named in nodes; write %s", row->help);
}

static void read_default(const struct setting *row, void *base)
{
    char why[120];
    bool ok = true;
    if (row->kind == SETTING_GROUP) {
        for (const struct setting *sub = row->rows; sub->name; sub++)
            read_default(sub, base);
        return;
    }
    if (!row->def)
        return;
    if (row->kind == SETTING_STRING)
        *(char **)setting_field(row, base) = xstrdup(row->def);
    else if (row->kind == SETTING_NUMBER)
        *(unsigned *)setting_field(row, base) = (unsigned)strtoul(row->def, NULL, 10);
    else if (row->kind == SETTING_PORT)
        *(uint16_t *)setting_field(row, base) = (uint16_t)strtoul(row->def, NULL, 10);
    else if (row->kind == SETTING_TEXTS)
        default_items(row, base);
    else
        ok = row->set(row, setting_field(row, base), row->def, why, sizeof why);
    assert(ok);
    (void)ok;
}

static void read_setting(struct config_reading *r, const struct setting *row, config_setting_t *s,
                         void *base)
{
    void *field = setting_field(row, base);
    const char *text = NULL;
    switch (row->kind) {
    case SETTING_STRING:
        text = string_of(r, row, s, row->name);
        if (text && take_text(r, row, NULL, s, row->name, text))
            *(char **)field = xstrdup(text);
        break;
    case SETTING_TEXT:
    case SETTING_VIA:
        text = string_of(r, row, s, row->name);
        if (text)
            take_text(r, row, field, s, row->name, text);
        break;
    case SETTING_NUMBER:
    case SETTING_PORT:
        read_number(r, row, s, field);
        break;
    case SETTING_STRINGS:
    case SETTING_TEXTS:
    case SETTING_LIST:
        read_items(r, row, s, base);
        break;
    case SETTING_GROUP:
        if (config_setting_is_group(s))
            read_rows(r, row->rows, s, base, row->name);
        else
            mistake(r, s, "%s must be %s", row->name, row->help);
        break;
    case SETTING_NODES:
        read_nodes(r, row, s, field, setting_count(row, base));
        break;
    }
}

static void check_names(struct config_reading *r, const struct setting *rows,
                        config_setting_t *group, const char *name)
{
    for (unsigned i = 0; i < (unsigned)config_setting_length(group); i++) {
        config_setting_t *s = config_setting_get_elem(group, i);
        const struct setting *row = rows;
        while (row->name && strcmp(row->name, s->name) != 0)
            row++;
        if (row->name)
            continue;
        const char *near = settings_nearest(rows, s->name);
        char in[80] = "";
        if (name)
            snprintf(in, sizeof in, " in %s", name);
        if (near)
            mistake(r, s, "unknown setting \"%s\"%s; did you mean \"%s\"?", s->name, in, near);
        else
            mistake(r, s, "unknown setting \"%s\"%s; remove it", s->name, in);
    }
}

/* name: the group's, NULL at the top. */
static void read_rows(struct config_reading *r, const struct setting *rows, config_setting_t *group,
                      void *base, const char *name)
{
    check_names(r, rows, group, name);
    for (const struct setting *row = rows; row->name; row++) {
        config_setting_t *s = config_setting_get_member(group, row->name);
        /* A value that turns out wrong leaves the default, so that no check trips over it again. */
        if (s &&
            (row->kind == SETTING_TEXT || row->kind == SETTING_NUMBER || row->kind == SETTING_PORT))
            read_default(row, base);
        if (s)
            read_setting(r, row, s, base);
        else if (row->required)
            mistake(r, group, "%s%s%s is missing; write %s", name ? name : "", name ? "." : "",
                    row->name, row->help);
        else
            read_default(row, base);
    }
}

/* Reads file into base. False: it can't be parsed, base was not touched. */
static bool read_file(struct config_reading *r, const struct setting *rows, void *base)
{
    unsigned before = r->mistakes->n;
    config_init(&r->cfg);
    if (!scan_file(r, r->file, NULL, 1, 0) || r->mistakes->n > before)
        return false;
    if (config_read_file(&r->cfg, r->file) != CONFIG_TRUE) {
        const char *text = config_error_text(&r->cfg);
        mistake_line(r, config_error_file(&r->cfg), (unsigned)config_error_line(&r->cfg),
                     "%s; look for a missing value, quote or bracket here or on the line before",
                     text ? text : "syntax error");
        return false;
    }
    read_rows(r, rows, config_root_setting(&r->cfg), base, NULL);
    return true;
}

/* What has a default that isn't one text. */
static void fill_lists(struct config *c)
{
    if (c->n_routes == 0) {
        free(c->routes);
        c->routes = xcalloc(1, sizeof *c->routes);
        c->routes[0] = (struct config_route){.domain = xstrdup("*"), .kind = ROUTE_MX};
        c->n_routes = 1;
    }
    bool all = false;
    for (unsigned i = 0; i < c->n_destinations; i++)
        all |= c->destinations[i].domain && strcmp(c->destinations[i].domain, "*") == 0;
    if (!all) {
        c->destinations =
            xrealloc(c->destinations, (c->n_destinations + 1) * sizeof *c->destinations);
        c->destinations[c->n_destinations++] = (struct config_destination){
            .domain = xstrdup("*"), .connections = 20, .messages_per_connection = 100};
    }
    if (!c->hostname) {
        char name[256] = "localhost";
        gethostname(name, sizeof name - 1);
        c->hostname = xstrdup(name);
    }
}

struct config *config_load(const char *file, struct config_mistakes *m)
{
    struct config_reading r = {.file = file, .mistakes = m};
    struct config *c = xcalloc(1, sizeof *c);
    unsigned before = m->n;
    c->file = xstrdup(file);
    c->arbiter.type = ARBITER_NONE;
    if (read_file(&r, config_settings, c)) {
        fill_lists(c);
        config_check(&r, c);
    }
    config_destroy(&r.cfg);
    if (m->n == before)
        return c;
    config_free(c);
    return NULL;
}

struct witness_config *witness_config_load(const char *file, struct config_mistakes *m)
{
    struct config_reading r = {.file = file, .mistakes = m};
    struct witness_config *c = xcalloc(1, sizeof *c);
    unsigned before = m->n;
    c->file = xstrdup(file);
    if (read_file(&r, witness_settings, c))
        witness_config_check(&r, c);
    config_destroy(&r.cfg);
    if (m->n == before)
        return c;
    witness_config_free(c);
    return NULL;
}
