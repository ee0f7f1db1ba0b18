/* Texts of settings into values, one function a kind, as struct setting's `set` asks for; the
 * check_ ones only judge and leave field alone. Uses nothing of the system but inet_pton. */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/config_rows.h"

static bool in_range(const struct setting *r, uint64_t v, char *why, size_t n)
{
    if (v >= r->min && v <= r->max)
        return true;
    snprintf(why, n, "is out of range");
    return false;
}

bool value_set_duration(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    uint64_t ms;
    if (!config_parse_duration(text, &ms)) {
        snprintf(why, n, "is not a duration");
        return false;
    }
    if (!in_range(r, ms, why, n))
        return false;
    unsigned narrow = (unsigned)ms;
    if (r->item == sizeof ms)
        memcpy(field, &ms, sizeof ms);
    else
        memcpy(field, &narrow, sizeof narrow);
    return true;
}

bool value_set_seconds(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    uint64_t ms;
    if (!config_parse_duration(text, &ms) || ms % 1000) {
        snprintf(why, n, "is not a whole number of seconds");
        return false;
    }
    if (!in_range(r, ms, why, n))
        return false;
    *(unsigned *)field = (unsigned)(ms / 1000);
    return true;
}

bool value_set_size(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    uint64_t bytes;
    if (!config_parse_size(text, &bytes)) {
        snprintf(why, n, "is not a size");
        return false;
    }
    if (!in_range(r, bytes, why, n))
        return false;
    memcpy(field, &bytes, sizeof bytes);
    return true;
}

bool value_set_rate(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    double per_s;
    if (!config_parse_rate(text, &per_s) || per_s <= 0) {
        snprintf(why, n, "is not a rate");
        return false;
    }
    memcpy(field, &per_s, sizeof per_s);
    return true;
}

/* The word's place in r->words, into an enum or (item 1) a bool. */
bool value_set_word(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    for (unsigned i = 0; r->words[i]; i++) {
        if (strcmp(r->words[i], text) != 0)
            continue;
        bool yes = i == 1;
        if (r->item == sizeof yes)
            memcpy(field, &yes, sizeof yes);
        else
            memcpy(field, &i, sizeof i);
        return true;
    }
    snprintf(why, n, "is none of the known words");
    return false;
}

bool value_set_node(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    if (strcmp(text, "a") != 0 && strcmp(text, "b") != 0) {
        snprintf(why, n, "is not a node");
        return false;
    }
    *(char *)field = text[0];
    return true;
}

/* Splits "host:port", "[v6]:port"; host (size n) without brackets. */
static bool split_port(const char *text, char *host, size_t n, uint16_t *port)
{
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text)
        return false;
    char *end;
    unsigned long v = isdigit((unsigned char)colon[1]) ? strtoul(colon + 1, &end, 10) : 0;
    if (v == 0 || v > 65535 || *end)
        return false;
    size_t len = (size_t)(colon - text);
    if (text[0] == '[' && colon[-1] == ']') {
        text++;
        len -= 2;
    }
    if (len == 0 || len >= n)
        return false;
    memcpy(host, text, len);
    host[len] = 0;
    *port = (uint16_t)v;
    return true;
}

static bool is_ip(const char *text)
{
    struct in6_addr a;
    return inet_pton(AF_INET, text, &a) == 1 || inet_pton(AF_INET6, text, &a) == 1;
}

bool value_check_ip(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    if (is_ip(text))
        return true;
    snprintf(why, n, "is not an IP address");
    return false;
}

bool value_check_endpoint(const struct setting *r, void *field, const char *text, char *why,
                          size_t n)
{
    char host[64];
    uint16_t port;
    if (split_port(text, host, sizeof host, &port) && is_ip(host) &&
        (strchr(host, ':') != NULL) == (text[0] == '['))
        return true;
    snprintf(why, n, "is not an address with a port");
    return false;
}

static bool host_name(const char *text)
{
    size_t len = strlen(text), label = 0;
    if (len == 0 || len > 253)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '.') {
            if (label == 0)
                return false;
            label = 0;
        } else if (isalnum((unsigned char)text[i]) || text[i] == '-' || text[i] == '_') {
            if (++label > 63)
                return false;
        } else {
            return false;
        }
    }
    return label > 0;
}

bool value_check_host(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    if (host_name(text))
        return true;
    snprintf(why, n, "is not a host name");
    return false;
}

bool value_check_domain(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    if (strcmp(text, "*") == 0 || host_name(text + (text[0] == '.')))
        return true;
    snprintf(why, n, "is not a domain");
    return false;
}

bool value_check_word(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    size_t len = strlen(text);
    bool ok = len > 0 && len <= 63;
    for (size_t i = 0; i < len && ok; i++)
        ok = isalnum((unsigned char)text[i]) || strchr("-_.", text[i]) != NULL;
    if (!ok)
        snprintf(why, n, "is not a plain name");
    return ok;
}

bool value_check_path(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    if (text[0] == '/' && text[1])
        return true;
    snprintf(why, n, "is not an absolute path");
    return false;
}

bool value_check_url(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    if (strncmp(text, "http://", 7) == 0 || strncmp(text, "https://", 8) == 0)
        return true;
    snprintf(why, n, "is not a URL");
    return false;
}

bool value_set_network(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    struct config_network *net = field, whole;
    char host[64], *end = NULL;
    const char *slash = strchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);
    snprintf(host, sizeof host, "%.*s", (int)len, text);
    struct in_addr v4;
    unsigned most = 128;
    *net = (struct config_network){.bits = 0};
    if (inet_pton(AF_INET, host, &v4) == 1) {
        most = 32;
        net->addr[10] = net->addr[11] = 0xff;
        memcpy(net->addr + 12, &v4, 4);
    } else if (len >= sizeof host || inet_pton(AF_INET6, host, net->addr) != 1) {
        snprintf(why, n, "is not a network");
        return false;
    }
    unsigned long bits = most;
    if (slash)
        bits = isdigit((unsigned char)slash[1]) ? strtoul(slash + 1, &end, 10) : most + 1;
    if (bits > most || (end && *end)) {
        snprintf(why, n, "has no prefix length between 0 and %u", most);
        return false;
    }
    net->bits = (unsigned)bits + (128 - most);
    whole = *net;
    for (unsigned i = net->bits; i < 128; i++)
        whole.addr[i / 8] &= (uint8_t) ~(0x80u >> i % 8);
    if (memcmp(whole.addr, net->addr, sizeof whole.addr) != 0) {
        snprintf(why, n,
                 "has bits set behind its prefix length: name the network, not a host in it");
        return false;
    }
    return true;
}

bool value_set_via(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    struct config_route *route = field;
    if (strcmp(text, "mx") == 0) {
        route->kind = ROUTE_MX;
        return true;
    }
    char host[256];
    uint16_t port = 25;
    if (strncmp(text, "smtp://", 7) != 0) {
        snprintf(why, n, "is no way to a next hop");
        return false;
    }
    text += 7;
    size_t len = strlen(text);
    bool bare_v6 = len > 2 && text[0] == '[' && text[len - 1] == ']';
    if (bare_v6)
        snprintf(host, sizeof host, "%.*s", (int)len - 2, text + 1);
    else if (!split_port(text, host, sizeof host, &port))
        snprintf(host, sizeof host, "%s", text);
    if (!is_ip(host) && !host_name(host)) {
        snprintf(why, n, "names neither a host nor an address");
        return false;
    }
    route->kind = ROUTE_HOST;
    route->port = port;
    route->host = xstrdup(host);
    return true;
}

bool value_check_level(const struct setting *r, void *field, const char *text, char *why, size_t n)
{
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        if (strcmp(levels[i], text) == 0)
            return true;
    }
    snprintf(why, n, "is not a log level");
    return false;
}
