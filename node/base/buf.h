/* Byte slices and growable, capped byte buffers. Core: touches memory only. */
#ifndef BATON_BASE_BUF_H
#define BATON_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Borrowed bytes; never NUL-terminated, never owned. p may be NULL when n is 0. */
struct slice {
    const uint8_t *p;
    size_t n;
};

#define SLICE_LIT(lit) ((struct slice){(const uint8_t *)(lit), sizeof(lit) - 1})

static inline struct slice slice_of(const void *p, size_t n)
{
    return (struct slice){p, n};
}
static inline struct slice slice_str(const char *s)
{
    return (struct slice){(const uint8_t *)s, s ? strlen(s) : 0};
}
bool slice_eq(struct slice a, struct slice b);
/* ASCII case-insensitive comparison, as RFC 5321 has it for verbs and domains. */
bool slice_ieq(struct slice a, struct slice b);
bool slice_istarts(struct slice s, struct slice prefix);
/* malloc'ed, NUL-terminated copy; the caller frees it. Aborts on exhausted memory. */
char *slice_dup(struct slice s);

/* Owned bytes. max is a cap in bytes: an append beyond it fails and changes nothing. */
struct buf {
    uint8_t *data;
    size_t len, cap, max;
};

void buf_init(struct buf *b, size_t max);
void buf_free(struct buf *b);
/* Makes room for n more bytes. False: the cap would be exceeded. */
bool buf_reserve(struct buf *b, size_t n);
/* Here, as most appends find room, and are many for each message. */
static inline bool buf_append(struct buf *b, const void *p, size_t n)
{
    if (n > b->cap - b->len && !buf_reserve(b, n))
        return false;
    if (n)
        memcpy(b->data + b->len, p, n);
    b->len += n;
    return true;
}
static inline bool buf_append_slice(struct buf *b, struct slice s)
{
    return buf_append(b, s.p, s.n);
}
static inline bool buf_append_str(struct buf *b, const char *s)
{
    return buf_append(b, s, strlen(s));
}
/* In decimal digits; for what runs once a message, where printf would show in a profile. */
bool buf_append_u64(struct buf *b, uint64_t value);
bool buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Drops n bytes from the front. */
void buf_consume(struct buf *b, size_t n);
/* Forgets the content, keeps the memory. */
void buf_clear(struct buf *b);
static inline struct slice buf_slice(const struct buf *b)
{
    return (struct slice){b->data, b->len};
}

/* malloc and friends that abort with a clear line on exhausted memory: nothing here can go on then.
 */
void *xmalloc(size_t n);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t n);
char *xstrdup(const char *s);
#endif
