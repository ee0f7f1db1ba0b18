/* Tells the service manager how it goes (sd_notify(3)); without one nothing happens. */
#ifndef BATON_NODE_NOTIFY_SYSTEMD_H
#define BATON_NODE_NOTIFY_SYSTEMD_H

#include <stdint.h>

void notify_ready(void);
/* One line for `systemctl status`. */
void notify_status(const char *text);
void notify_reloading(void); /* notify_ready() when done */
void notify_stopping(void);
/* Half of WatchdogSec, in ms: how often to call notify_watchdog(). 0: no watchdog is set. */
uint64_t notify_watchdog_interval_ms(void);
void notify_watchdog(void);
#endif
