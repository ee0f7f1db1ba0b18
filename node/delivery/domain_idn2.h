/* Internationalised domain names (RFC 5890, 6531 3.2) in the form that DNS and TLS know. */
#ifndef BATON_DELIVERY_DOMAIN_IDN2_H
#define BATON_DELIVERY_DOMAIN_IDN2_H

#include "node/base/buf.h"

/* UTF-8 domain -> A-labels in out (size n); an ASCII name passes as it is. False: no such name can
 * exist. */
bool domain_to_ascii(const char *domain, char *out, size_t n);
#endif
