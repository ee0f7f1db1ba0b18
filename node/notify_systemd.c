/* See notify_systemd.h. */
#include "node/notify_systemd.h"

#include <systemd/sd-daemon.h>
#include <time.h>

/* A manager that doesn't hear us is its own alarm (start time-out, watchdog): results are not
 * looked at. */
void notify_ready(void)
{
    sd_notify(0, "READY=1");
}

void notify_status(const char *text)
{
    sd_notifyf(0, "STATUS=%s", text);
}

void notify_reloading(void)
{
    /* systemd wants CLOCK_MONOTONIC here, whatever we measure with elsewhere. */
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu",
               (unsigned long long)t.tv_sec * 1000000 + (unsigned long long)t.tv_nsec / 1000);
}

void notify_stopping(void)
{
    sd_notify(0, "STOPPING=1");
}

uint64_t notify_watchdog_interval_ms(void)
{
    uint64_t us = 0;
    return sd_watchdog_enabled(0, &us) > 0 ? us / 2000 : 0;
}

void notify_watchdog(void)
{
    sd_notify(0, "WATCHDOG=1");
}
