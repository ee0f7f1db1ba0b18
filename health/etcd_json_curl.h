/* etcd's v3 JSON gateway (etcd 3.4 and later: POST /v3/kv/range, /v3/kv/txn, /v3/auth/authenticate;
 * keys and values in base64, 64-bit numbers as strings): requests to text, replies to answers.
 * Core. */
#ifndef BATON_HEALTH_ETCD_JSON_CURL_H
#define BATON_HEALTH_ETCD_JSON_CURL_H

#include "health/register_etcd.h"

enum {
    ETCD_BODY_BYTES_MAX = 8 << 10,   /* a request: the key thrice and two values */
    ETCD_REPLY_BYTES_MAX = 64 << 10, /* one key comes back; an error page of a proxy is cut */
    ETCD_TOKEN_BYTES_MAX = 4 << 10,  /* a JWT, signed with a long key */
    ETCD_ERROR_BYTES = 160,
};

struct etcd_account {
    const char *key; /* the record's key in etcd */
    const char *user, *password;
};
/* "/v3/..." for that request. */
const char *etcd_json_path(enum etcd_request request);
/* False: body's cap. */
bool etcd_json_request(struct buf *body, const struct etcd_account *a,
                       const struct register_etcd_fx *fx);

struct etcd_reply {
    struct etcd_answer answer;               /* value and error point into the fields below */
    uint8_t value[ETCD_VALUE_BYTES_MAX + 1]; /* one more: too long is seen as such */
    char token[ETCD_TOKEN_BYTES_MAX];        /* AUTHENTICATE; "": etcd has no users */
    char error[ETCD_ERROR_BYTES];
};
/* What an HTTP reply means. */
void etcd_json_reply(struct etcd_reply *out, enum etcd_request request, long status,
                     struct slice body);
#endif
