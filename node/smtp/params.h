/* Parameters of MAIL and RCPT: SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), AUTH
 * (RFC 4954 5), RET, ENVID, NOTIFY, ORCPT (RFC 3461). Core. */
#ifndef BATON_SMTP_PARAMS_H
#define BATON_SMTP_PARAMS_H

#include "node/base/buf.h"

struct mail_params {
    bool has_size, eightbit, utf8, ret_full, ret_hdrs;
    uint64_t size;
    struct slice envid; /* xtext as received */
};
struct rcpt_params {
    uint8_t notify;     /* enum notify_flags; 0: not given */
    struct slice orcpt; /* as received */
};

/* Reads " KEY[=VALUE]…" to the end of in. NULL, or the reply line (without CRLF) that refuses it.
 */
const char *mail_params_parse(struct slice in, struct mail_params *out);
const char *rcpt_params_parse(struct slice in, struct rcpt_params *out);
#endif
