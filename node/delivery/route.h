/* Where mail for a domain goes: the route table. Core. */
#ifndef BATON_DELIVERY_ROUTE_H
#define BATON_DELIVERY_ROUTE_H

#include "node/base/config.h"

/* "smtp://" + host (253) + ":65535" fits, and so does any domain. */
enum { ROUTE_KEY_MAX = 320 };

/* The most specific route for a domain (lower case): the exact name, else the longest ".sub"
 * suffix, else "*". NULL: none, which means MX. The first of equal ones wins. */
const struct config_route *route_find(const struct config_route *routes, unsigned n,
                                      struct slice domain);
/* Name of the next hop that mail for domain shares: the domain itself for MX, "smtp://host:port"
 * for a smarthost. r may be NULL (MX). out has ROUTE_KEY_MAX bytes. False: the domain is too long
 * to be one. */
bool route_key(const struct config_route *r, struct slice domain, char *out);
/* Limits for a next hop: the entry that names the domain exactly, else the one for the smarthost's
 * name, else "*", else `fallback`. */
struct config_destination route_limits(const struct config_destination *list, unsigned n,
                                       const struct config_route *r, struct slice domain,
                                       struct config_destination fallback);
#endif
