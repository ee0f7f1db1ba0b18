/* See batonctl.h: aligned columns. */
#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>

#include "node/control/batonctl.h"
#include "node/control/text.h"

struct table {
    unsigned columns, n;
    char align[16];
    char **cell; /* row by row */
};

struct table *table_new(unsigned columns, const char *align)
{
    struct table *t = xcalloc(1, sizeof *t);
    assert(columns && columns <= sizeof t->align && strlen(align) >= columns);
    t->columns = columns;
    memcpy(t->align, align, columns);
    return t;
}

void table_cell(struct table *t, const char *fmt, ...)
{
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    t->cell = xrealloc(t->cell, (t->n + 1) * sizeof *t->cell);
    t->cell[t->n++] = xstrdup(text);
}

/* Columns on a terminal: continuation bytes of UTF-8 take none. */
static unsigned width(const char *s)
{
    unsigned w = 0;
    for (; *s; s++)
        w += ((unsigned char)*s & 0xC0) != 0x80;
    return w;
}

void put_text(FILE *f, const char *s)
{
    for (; *s; s++)
        fputc((unsigned char)*s < ' ' || *s == 0x7F ? '?' : *s, f);
}

void table_print(struct table *t, FILE *f)
{
    unsigned w[sizeof t->align] = {0};
    for (unsigned i = 0; i < t->n; i++)
        if (width(t->cell[i]) > w[i % t->columns])
            w[i % t->columns] = width(t->cell[i]);
    for (unsigned i = 0; i < t->n; i++) {
        unsigned col = i % t->columns, pad = w[col] - width(t->cell[i]);
        bool right = t->align[col] == 'r', last = col + 1 == t->columns;
        if (col)
            fputs("  ", f);
        if (right)
            fprintf(f, "%*s", (int)pad, "");
        put_text(f, t->cell[i]);
        if (!right && !last)
            fprintf(f, "%*s", (int)pad, "");
        if (last)
            fputc('\n', f);
        free(t->cell[i]);
    }
    free(t->cell);
    free(t);
}

/* Keys that end in "_s" are seconds, shown as people write durations. */
static bool is_seconds(const char *key)
{
    size_t n = strlen(key);
    return n > 2 && strcmp(key + n - 2, "_s") == 0 && !(n > 6 && !strcmp(key + n - 6, "_per_s"));
}

static void json_cell(struct table *t, const char *key, const json_t *v)
{
    char d[32];
    if (json_is_string(v))
        table_cell(t, "%s", *json_string_value(v) ? json_string_value(v) : "-");
    else if (json_is_number(v) && is_seconds(key))
        table_cell(t, "%s",
                   json_number_value(v) > 0
                       ? text_duration(d, (int64_t)(json_number_value(v) * 1000))
                       : "-");
    else if (json_is_integer(v))
        table_cell(t, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v))
        table_cell(t, "%.1f", json_real_value(v));
    else if (json_is_boolean(v))
        table_cell(t, "%s", json_is_true(v) ? "yes" : "no");
    else
        table_cell(t, "-");
}

void table_print_json(const json_t *array, FILE *f)
{
    enum { COLUMNS = 12 };
    const char *key[COLUMNS];
    char align[COLUMNS + 1] = "";
    unsigned n = 0;
    json_t *first = json_array_get(array, 0);
    for (void *it = json_object_iter(first); it && n < COLUMNS;
         it = json_object_iter_next(first, it)) {
        const json_t *v = json_object_iter_value(it);
        if (json_is_object(v) || json_is_array(v))
            continue;
        key[n] = json_object_iter_key(it);
        align[n++] = json_is_number(v) ? 'r' : 'l';
    }
    if (!n)
        return;
    struct table *t = table_new(n, align);
    for (unsigned i = 0; i < n; i++) {
        char head[64];
        size_t n_head = strlen(key[i]) - (is_seconds(key[i]) ? 2 : 0);
        snprintf(head, sizeof head, "%.*s", (int)n_head, key[i]);
        for (char *c = head; *c; c++)
            *c = *c >= 'a' && *c <= 'z' ? (char)(*c - 32) : *c == '_' ? ' ' : *c;
        table_cell(t, "%s", head);
    }
    size_t row;
    json_t *o;
    json_array_foreach(array, row, o)
    {
        for (unsigned i = 0; i < n; i++)
            json_cell(t, key[i], json_object_get(o, key[i]));
    }
    table_print(t, f);
}
