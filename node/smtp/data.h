/* The text of a message as it comes over DATA and BDAT (RFC 5321 4.5.2, 2.3.8; RFC 3030 2): finds
 * the end, takes the stuffed dots out, refuses whatever isn't strict CRLF. Core.
 *
 * Only CR LF "." CR LF ends DATA. A bare CR, a bare LF or a NUL spoils the message (`bad`), is
 * never a line's end, and reading goes on to the true end, so that sender and receiver can't come
 * to differ about where the next command begins (SMTP smuggling). */
#ifndef BATON_SMTP_DATA_H
#define BATON_SMTP_DATA_H

#include "node/base/buf.h"

enum data_state { DATA_LINE_START, DATA_IN_LINE, DATA_CR, DATA_DOT, DATA_DOT_CR };

struct data_decoder {
    enum data_state state;
    bool stuffed; /* DATA; BDAT has no dots */
    bool bad;     /* bare CR, bare LF or NUL was seen */
    bool ended;   /* DATA: the final dot was read */
};

typedef void (*data_emit)(void *ctx, struct slice bytes); /* borrowed until it returns */

void data_begin(struct data_decoder *d, bool stuffed);
/* Decodes; emits the message's bytes in large runs, none once bad. Returns how many bytes were
 * used: all of them unless the end of DATA was found. */
size_t data_decode(struct data_decoder *d, struct slice in, data_emit emit, void *ctx);
/* BDAT LAST: nothing more comes. Gives the last line its CRLF if the client left it out. */
void data_finish(struct data_decoder *d, data_emit emit, void *ctx);
#endif
