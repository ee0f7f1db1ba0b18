/* Order of a domain's mail hosts: RFC 5321 5.1 (preference, implicit MX, our own place among them),
 * RFC 7505 (null MX), RFC 5321 4.1.3 (address literals). Core. */
#ifndef BATON_DELIVERY_MX_H
#define BATON_DELIVERY_MX_H

#include "node/base/buf.h"

/* 20 hosts: the largest receivers publish five; beyond that it is an attempt to keep us busy. */
enum { MX_MAX = 20, MX_NAME_MAX = 256 };

struct mx_record {
    uint16_t preference;
    char name[MX_NAME_MAX]; /* without the final dot; "" is the root, the sign of a null MX */
};

enum mx_verdict {
    MX_OK,
    MX_NULL, /* accepts no mail: 5.1.10 */
    MX_LOOP, /* we are the best host ourselves: 5.4.6 */
};

/* Puts the hosts of `domain` in the order in which they are to be tried: by preference, equal ones
 * shuffled by seed; without any record the domain itself (implicit MX). If `self` is among them, it
 * and everything at or above its preference goes. *n is in and out; r has room for MX_MAX. */
enum mx_verdict mx_order(struct mx_record *r, unsigned *n, struct slice domain, const char *self,
                         uint64_t seed);
/* "[192.0.2.1]" or "[IPv6:2001:db8::1]" -> the address without brackets and tag in out (size n);
 * false: not a literal. Whether it is a valid address is for the caller to find out. */
bool mx_literal(struct slice domain, char *out, size_t n);
#endif
