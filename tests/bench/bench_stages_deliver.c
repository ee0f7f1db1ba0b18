/* The delivering stage of bench_stages.c: client and server have a struct of one name, so it is by
 * itself. */
#include "node/base/sum_xxhash.h"
#include "node/delivery/client.h"
#include "tests/bench/bench_stages.h"

static bool send_one(struct smtp_client *c, struct slice text, uint64_t sum)
{
    struct client_recipient rcpt = {.address = SLICE_LIT("you@sink.example")};
    struct client_transaction tx = {
        .sender = SLICE_LIT("sender@app.example"), .size = text.n, .n = 1, .rcpts = &rcpt};
    if (c->state != CLIENT_READY)
        return false;
    smtp_client_send(c, &tx);
    smtp_client_input(c, SLICE_LIT("250 Ok\r\n250 Ok\r\n354 Go on\r\n"));
    /* A body is checked before it goes anywhere. */
    if (sum_bytes(text) != sum || c->state != CLIENT_BODY)
        return false;
    smtp_client_body(c, text, true);
    smtp_client_dot(c);
    smtp_client_input(c, SLICE_LIT("250 2.0.0 Ok\r\n"));
    bool done = c->done == &tx && rcpt.decided;
    c->done = NULL;
    buf_clear(&c->out);
    return done;
}

bool bench_deliver(unsigned long n, struct slice text)
{
    struct smtp_client c;
    smtp_client_init(&c, "mx.test", false);
    smtp_client_opened(&c);
    smtp_client_input(&c, SLICE_LIT("220 sink ESMTP\r\n"));
    smtp_client_input(&c, SLICE_LIT("250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n"));
    buf_clear(&c.out);
    uint64_t sum = sum_bytes(text);
    bool ok = true;
    for (unsigned long i = 0; ok && i < n; i++)
        ok = send_one(&c, text, sum);
    smtp_client_free(&c);
    return ok;
}
