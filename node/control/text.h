/* Small pieces of text that events, status and batonctl share: JSON strings, times, durations and
 * sizes for people. Core: memory only. */
#ifndef BATON_CONTROL_TEXT_H
#define BATON_CONTROL_TEXT_H

#include "node/base/buf.h"

/* Appends s as a JSON string (RFC 8259) with its quotes. Bytes that aren't UTF-8 become U+FFFD, one
 * a bad byte: what a stranger sent must never make a line that a parser refuses. */
bool text_json_string(struct buf *out, struct slice s);
/* The same without quotes and escapes: s made into valid UTF-8 without NUL. */
bool text_utf8(struct buf *out, struct slice s);
/* Appends s for HTML text and attribute values; valid UTF-8 as above. */
bool text_html(struct buf *out, const char *s);

/* RFC 3339 in UTC with ms; out has at least 32 bytes. Returns out. Times before 1970 give 1970. */
char *text_rfc3339(char *out, int64_t wall_ms);
/* "now", "850 ms", "12.3 s", "4m 05s", "3h 20m", "2d 4h"; out has at least 32 bytes. Returns out.
 */
char *text_duration(char *out, int64_t ms);
/* "512 B", "1.2 KiB", "50 MiB"; out has at least 32 bytes. Returns out. */
char *text_size(char *out, uint64_t bytes);
/* Message id as operators write it: 16 lower-case hex digits; out has at least 17 bytes. */
char *text_id(char *out, uint64_t id);
/* Up to 16 hex digits -> id; false: not an id (0 isn't one). */
bool text_parse_id(const char *s, uint64_t *id);
#endif
