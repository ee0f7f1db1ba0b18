/* See etcd_json_curl.h. */
#include "health/etcd_json_curl.h"

#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/crypto_openssl.h"

const char *etcd_json_path(enum etcd_request request)
{
    static const char *const paths[] = {[ETCD_AUTHENTICATE] = "/v3/auth/authenticate",
                                        [ETCD_RANGE] = "/v3/kv/range",
                                        [ETCD_PUT] = "/v3/kv/txn"};
    return paths[request];
}

/* ---- requests ---- */

static json_t *base64(struct slice s)
{
    struct buf b;
    buf_init(&b, ETCD_BODY_BYTES_MAX);
    json_t *j =
        crypto_base64_encode(&b, s) ? json_stringn((const char *)b.data, b.len) : json_string("");
    buf_free(&b);
    return j;
}

static json_t *number(uint64_t n)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, n);
    return json_string(text);
}

static json_t *put_request(struct slice key, const struct register_etcd_fx *fx)
{
    json_t *compare = json_array();
    if (!fx->expect_any)
        json_array_append_new(compare, json_pack("{s:o, s:s, s:s, s:o}", "key", base64(key),
                                                 "target", "MOD", "result", "EQUAL", "mod_revision",
                                                 number(fx->expect_revision)));
    if (fx->expect_revision)
        json_array_append_new(compare,
                              json_pack("{s:o, s:s, s:s, s:o}", "key", base64(key), "target",
                                        "VALUE", "result", "EQUAL", "value", base64(fx->expect)));
    return json_pack("{s:o, s:[{s:{s:o, s:o}}], s:[{s:{s:o}}]}", "compare", compare, "success",
                     "request_put", "key", base64(key), "value", base64(fx->value), "failure",
                     "request_range", "key", base64(key));
}

bool etcd_json_request(struct buf *body, const struct etcd_account *a,
                       const struct register_etcd_fx *fx)
{
    json_t *j = NULL;
    struct slice key = slice_str(a->key);
    switch (fx->request) {
    case ETCD_AUTHENTICATE:
        j = json_pack("{s:s, s:s}", "name", a->user ? a->user : "", "password",
                      a->password ? a->password : "");
        break;
    case ETCD_RANGE: /* linearizable, as is the default */
        j = json_pack("{s:o}", "key", base64(key));
        break;
    case ETCD_PUT:
        j = put_request(key, fx);
        break;
    }
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    bool ok = text && buf_append_str(body, text);
    free(text);
    json_decref(j);
    return ok;
}

/* ---- replies ---- */

/* A 64-bit number: a string in etcd's JSON, left out where it is 0. */
static bool get_number(const json_t *o, const char *name, uint64_t *out)
{
    const json_t *j = json_object_get(o, name);
    *out = 0;
    if (!j)
        return true;
    if (json_is_integer(j) && json_integer_value(j) >= 0) {
        *out = (uint64_t)json_integer_value(j);
        return true;
    }
    const char *s = json_string_value(j);
    char *end = NULL;
    if (!s || s[0] < '0' || s[0] > '9')
        return false;
    *out = strtoull(s, &end, 10);
    return end && !*end;
}

/* The key as a range shows it. */
static bool get_range(struct etcd_reply *out, const json_t *range)
{
    const json_t *kvs = json_object_get(range, "kvs");
    struct etcd_answer *a = &out->answer;
    if (!json_is_object(range) || !json_object_get(range, "header"))
        return false;
    if (json_array_size(kvs) == 0)
        return true; /* revision 0: there is no key */
    const json_t *kv = json_array_get(kvs, 0), *value = json_object_get(kv, "value");
    if (!get_number(kv, "mod_revision", &a->revision) || a->revision == 0)
        return false;
    struct buf b;
    buf_init(&b, sizeof out->value + 3);
    bool ok = !value || crypto_base64_decode(
                            &b, slice_of(json_string_value(value),
                                         json_is_string(value) ? json_string_length(value) : 0));
    size_t n = ok && b.len <= sizeof out->value ? b.len : 0; /* none of ours: unreadable */
    if (n)
        memcpy(out->value, b.data, n);
    a->value = slice_of(out->value, n);
    buf_free(&b);
    return true;
}

static bool get_put(struct etcd_reply *out, const json_t *txn)
{
    if (json_is_true(json_object_get(txn, "succeeded"))) {
        out->answer.put = true;
        return get_number(json_object_get(txn, "header"), "revision", &out->answer.revision) &&
               out->answer.revision > 0;
    }
    const json_t *first = json_array_get(json_object_get(txn, "responses"), 0);
    return get_range(out, json_object_get(first, "response_range"));
}

static bool get_token(struct etcd_reply *out, const json_t *j)
{
    const char *token = json_string_value(json_object_get(j, "token"));
    if (!token || strlen(token) >= sizeof out->token || strpbrk(token, "\r\n"))
        return false;
    snprintf(out->token, sizeof out->token, "%s", token);
    return true;
}

static void answered(struct etcd_reply *out, enum etcd_request request, const json_t *j)
{
    bool ok = false;
    switch (request) {
    case ETCD_AUTHENTICATE:
        ok = get_token(out, j);
        break;
    case ETCD_RANGE:
        ok = get_range(out, j);
        break;
    case ETCD_PUT:
        ok = get_put(out, j);
        break;
    }
    if (ok)
        return;
    out->answer = (struct etcd_answer){.what = ETCD_LOST, .error = out->error};
    snprintf(out->error, sizeof out->error, "this isn't etcd's v3 gateway");
}

static bool says(const char *text, const char *what)
{
    return strstr(text, what) != NULL;
}

/* etcd's reason, or the beginning of whatever else it says. */
static const char *reason(const json_t *j, struct slice body, char other[64])
{
    const char *text = json_string_value(json_object_get(j, "message"));
    if (!text)
        text = json_string_value(json_object_get(j, "error"));
    if (text)
        return text;
    size_t n = 0;
    for (; n < body.n && n < 63 && body.p[n] >= ' ' && body.p[n] < 127; n++)
        other[n] = (char)body.p[n];
    other[n] = 0;
    return other;
}

/* What the client got wrong was not done. A server error leaves that open, and so do "cancelled"
 * (408 or 499, by release: a server that stops cancels what it has passed on already), "aborted"
 * (409), and whatever a proxy makes of an answer that it lost. */
static bool not_done(long status)
{
    switch (status) {
    case 400:
    case 401:
    case 403:
    case 404:
    case 405:
    case 412:
    case 413:
        return true;
    default:
        return false;
    }
}

static void failed(struct etcd_reply *out, enum etcd_request request, long status, const json_t *j,
                   struct slice body)
{
    char other[64];
    const char *text = reason(j, body, other);
    struct etcd_answer *a = &out->answer;
    const char *remedy = "";
    a->what = not_done(status) ? ETCD_REFUSED : ETCD_LOST;
    if (request == ETCD_AUTHENTICATE) {
        if (says(text, "authentication is not enabled")) {
            a->what = ETCD_ANSWERED;
            return;
        }
        remedy = "; check user and password in arbiter";
    } else if (status == 401 || says(text, "invalid auth token") ||
               says(text, "auth store is old")) {
        a->what = ETCD_NO_TOKEN;
    } else if (says(text, "user name is empty")) {
        a->what = ETCD_NO_TOKEN;
        remedy = "; set user and password in arbiter";
    } else if (says(text, "CommonName of client")) {
        text = "etcd with users refuses a client certificate that has a CommonName";
        remedy = "";
    } else if (status == 404) {
        remedy = "; etcd 3.4 or later is needed";
    } else if (says(text, "permission denied")) {
        remedy = "; grant the user readwrite on the key";
    }
    snprintf(out->error, sizeof out->error, "HTTP %ld, %.80s%s", status, text, remedy);
}

void etcd_json_reply(struct etcd_reply *out, enum etcd_request request, long status,
                     struct slice body)
{
    memset(out, 0, sizeof *out);
    out->answer.error = out->error;
    json_error_t err;
    json_t *j = json_loadb((const char *)body.p, body.n, JSON_REJECT_DUPLICATES, &err);
    if (status == 200)
        answered(out, request, j);
    else
        failed(out, request, status, j, body);
    json_decref(j);
}
