/* Fuzzes paths, MAIL and RCPT parameters and the header scanner. What the path parser takes is a
 * slice of its input, holds no control characters, and reads the same a second time. */
#include <stdio.h>
#include <stdlib.h>

#include "node/smtp/address.h"
#include "node/smtp/header.h"
#include "node/smtp/params.h"

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

static void path(struct slice all, bool reverse)
{
    struct smtp_path p, again;
    struct slice in = all;
    if (!smtp_path_parse(&in, reverse, &p))
        return;
    must(in.p + in.n == all.p + all.n, "moves forward within its input");
    for (size_t i = 0; i < p.address.n; i++)
        must(p.address.p[i] >= 32 && p.address.p[i] != 127, "control character in an address");
    struct buf text;
    buf_init(&text, 2048);
    must(buf_append_str(&text, "<") && buf_append_slice(&text, p.address) &&
             buf_append_str(&text, ">"),
         "an address has a bounded length");
    in = buf_slice(&text);
    must(smtp_path_parse(&in, reverse, &again) && in.n == 0, "reads again");
    must(slice_eq(again.address, p.address) && slice_eq(again.domain, p.domain), "reads the same");
    buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice in = slice_of(data, size);
    struct mail_params m;
    struct rcpt_params r;
    struct header_scan whole, pieces;
    path(in, false);
    path(in, true);
    (void)mail_params_parse(in, &m);
    (void)rcpt_params_parse(in, &r);
    header_begin(&whole);
    header_begin(&pieces);
    header_feed(&whole, in);
    for (size_t i = 0; i < size; i++)
        header_feed(&pieces, slice_of(data + i, 1));
    must(memcmp(&whole, &pieces, sizeof whole) == 0, "a header reads the same in pieces");
    return 0;
}
