/* See reply.h. A bare LF ends a line here: some servers send it, and what a server says about a
 * message can't smuggle anything. */
#include "node/delivery/reply.h"

#include <assert.h>
#include <stdio.h>

void reply_reset(struct reply_parser *p)
{
    p->line_n = p->raw_n = 0;
    p->lines = 0;
    p->code = 0;
    p->done = false;
}

void reply_set(struct reply *r, uint16_t code, const char *enhanced, const char *text)
{
    r->code = code;
    snprintf(r->enhanced, sizeof r->enhanced, "%s", enhanced);
    size_t n = strlen(text);
    r->text_n = (uint16_t)(n < REPLY_TEXT_MAX ? n : REPLY_TEXT_MAX);
    memcpy(r->text, text, r->text_n);
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Length of "x.y.z" of the reply's own class at the start of s, 0 if there is none. */
static size_t enhanced_length(const char *s, size_t n, uint16_t code)
{
    if (n < 5 || s[0] != (char)('0' + code / 100) || s[1] != '.')
        return 0;
    size_t i = 2;
    for (int part = 0; part < 2; part++) {
        size_t from = i;
        while (i < n && digit(s[i]))
            i++;
        if (i == from || i - from > 3)
            return 0;
        if (part == 0 && (i >= n || s[i++] != '.'))
            return 0;
    }
    return i == n || s[i] == ' ' || s[i] == '\n' ? i : 0;
}

static void finish(struct reply_parser *p, struct reply *out)
{
    *out = (struct reply){.code = p->code};
    const char *s = p->raw, *end = p->raw + p->raw_n;
    while (s < end) {
        const char *eol = memchr(s, '\n', (size_t)(end - s));
        if (!eol)
            eol = end;
        size_t e = enhanced_length(s, (size_t)(eol - s), p->code);
        if (e) {
            if (!out->enhanced[0])
                memcpy(out->enhanced, s, e);
            s += e;
            while (s < eol && *s == ' ')
                s++;
        }
        if (out->text_n && s < eol && out->text_n < REPLY_TEXT_MAX)
            out->text[out->text_n++] = ' ';
        for (; s < eol && out->text_n < REPLY_TEXT_MAX; s++) {
            unsigned char c = (unsigned char)*s;
            out->text[out->text_n++] = c < 0x20 ? ' ' : c > 0x7e ? '?' : (char)c;
        }
        s = eol + 1;
    }
}

static enum reply_status take_line(struct reply_parser *p, struct reply *out)
{
    size_t n = p->line_n;
    const char *s = (const char *)p->line;
    p->line_n = 0;
    if (n && s[n - 1] == '\r')
        n--;
    if (n < 3 || s[0] < '2' || s[0] > '5' || !digit(s[1]) || !digit(s[2]) ||
        (n > 3 && s[3] != ' ' && s[3] != '-'))
        return REPLY_BAD;
    uint16_t code = (uint16_t)((s[0] - '0') * 100 + (s[1] - '0') * 10 + (s[2] - '0'));
    if (p->lines && code != p->code)
        return REPLY_BAD;
    p->code = code;
    if (++p->lines > REPLY_LINES_MAX)
        return REPLY_BAD;
    size_t text = n > 4 ? n - 4 : 0;
    if (p->raw_n + text + 1 <= REPLY_RAW_MAX) {
        memcpy(p->raw + p->raw_n, s + 4, text);
        p->raw_n += text;
        p->raw[p->raw_n++] = '\n';
    }
    if (n > 3 && s[3] == '-')
        return REPLY_MORE;
    finish(p, out);
    return REPLY_DONE;
}

enum reply_status reply_feed(struct reply_parser *p, struct slice in, size_t *used,
                             struct reply *out)
{
    if (p->done)
        reply_reset(p);
    for (size_t i = 0; i < in.n; i++) {
        if (in.p[i] != '\n') {
            if (p->line_n == REPLY_LINE_MAX || in.p[i] == 0) {
                *used = i;
                return REPLY_BAD;
            }
            p->line[p->line_n++] = in.p[i];
            continue;
        }
        enum reply_status st = take_line(p, out);
        if (st != REPLY_MORE) {
            assert(st == REPLY_BAD || out->code == p->code);
            p->done = true;
            *used = i + 1;
            return st;
        }
    }
    *used = in.n;
    return REPLY_MORE;
}
