/* Reverse and forward paths (RFC 5321 4.1.2, address literals 4.1.3, UTF-8 by RFC 6531 3.3). Core:
 * slices in, slices of the same bytes out. */
#ifndef BATON_SMTP_ADDRESS_H
#define BATON_SMTP_ADDRESS_H

#include "node/base/buf.h"

enum {
    /* RFC 5321 4.5.3.1 asks for at least 64 and 255 octets. Return paths of bulk mail (VERP, SRS)
     * are often longer than 64. */
    ADDRESS_LOCAL_MAX = 255,
    ADDRESS_DOMAIN_MAX = 255,
    ADDRESS_LABEL_MAX = 63,
};

struct smtp_path {
    struct slice address; /* local@domain as given, without a source route; empty: null sender */
    struct slice local;   /* quotes included */
    struct slice domain;  /* literals with their brackets; empty for <> and <postmaster> */
    bool utf8;            /* has bytes outside ASCII: needs SMTPUTF8 */
};

/* Reads a path with its angle brackets from the front of in and moves in behind it. reverse: `<>`
 * is allowed and `<postmaster>` isn't. False: not a path. */
bool smtp_path_parse(struct slice *in, bool reverse, struct smtp_path *out);
/* Length of a well-formed UTF-8 sequence at p (1 for ASCII); 0: malformed, overlong, a surrogate or
 * cut off. */
size_t utf8_length(const uint8_t *p, size_t n);
/* Is this a domain name (labels of letters, digits, hyphens, underscores, U-labels)? */
bool smtp_domain_valid(struct slice s);
/* Is this an address literal, "[192.0.2.1]" or "[IPv6:2001:db8::1]"? */
bool smtp_literal_valid(struct slice s);
#endif
