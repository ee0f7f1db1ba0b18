/* What bench_stages.c is made of besides itself. */
#ifndef BATON_TESTS_BENCH_STAGES_H
#define BATON_TESTS_BENCH_STAGES_H

#include "node/base/buf.h"

/* Sends text n times through one SMTP client. False: it did not take it. */
bool bench_deliver(unsigned long n, struct slice text);

#endif
