/* See batonctl.h: the two settings that batonctl needs, with batond's defaults. */
#include <libconfig.h>
#include <stdio.h>

#include "node/control/batonctl.h"

static char *setting(const config_t *cfg, const char *name, const char *otherwise)
{
    const char *s = NULL;
    if (config_lookup_string(cfg, name, &s) && *s)
        return xstrdup(s);
    return otherwise ? xstrdup(otherwise) : NULL;
}

bool cli_load(struct cli *c, char *err, size_t n)
{
    config_t cfg;
    config_init(&cfg);
    bool ok = config_read_file(&cfg, c->config);
    if (ok) {
        c->control = setting(&cfg, "control", "/run/baton/control.sock");
        c->events = setting(&cfg, "events", NULL);
    } else if (config_error_type(&cfg) == CONFIG_ERR_FILE_IO) {
        snprintf(err, n, "%s can't be read; name the node's configuration with -c FILE", c->config);
    } else {
        snprintf(err, n, "%s:%d: %s", c->config, config_error_line(&cfg), config_error_text(&cfg));
    }
    config_destroy(&cfg);
    return ok;
}
