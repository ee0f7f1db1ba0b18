/* Heartbeats: encoding and the rule against replay (protocol 6). See heartbeat.h. Core. */
#include "health/heartbeat.h"

#include <assert.h>

enum { HB_SERVING = 1, HB_FIT = 2, HB_LEAVING = 4, HB_VIRGIN = 8, HB_SEEN = 16, HB_FLAGS = 31 };

bool heartbeat_encode(struct buf *b, const struct heartbeat *h)
{
    uint8_t flags = (uint8_t)((h->serving ? HB_SERVING : 0) | (h->fit ? HB_FIT : 0) |
                              (h->leaving ? HB_LEAVING : 0) | (h->virgin ? HB_VIRGIN : 0) |
                              (h->knows_seen ? HB_SEEN : 0));
    return wire_put_u64(b, h->boot_counter) && wire_put_u64(b, h->boot_random) &&
           wire_put_u64(b, h->seq) && wire_put_u32(b, h->epoch) && wire_put_u8(b, h->role) &&
           wire_put_u8(b, h->mode) && wire_put_u8(b, flags) && wire_put_u64(b, h->own_lsn) &&
           wire_put_u64(b, h->committed_lsn) && wire_put_raw(b, h->store.b, STORE_ID_BYTES) &&
           wire_put_u64(b, h->lease_ns) && wire_put_u64(b, (uint64_t)h->wall_ms) &&
           wire_put_u64(b, h->echo_boot_random) && wire_put_u64(b, h->echo_seq) &&
           wire_put_u32(b, h->ack_epoch) && wire_put_u32(b, h->relinquish_epoch) &&
           wire_put_u64(b, h->relinquish_boot) && wire_put_u32(b, h->paused_ms) &&
           wire_put_u64(b, h->ask_handover) && wire_put_u32(b, h->seen_epoch) &&
           wire_put_u64(b, h->seen_version);
}

bool heartbeat_decode(struct wire_reader *r, struct heartbeat *out)
{
    *out = (struct heartbeat){0};
    out->boot_counter = wire_get_u64(r);
    out->boot_random = wire_get_u64(r);
    out->seq = wire_get_u64(r);
    out->epoch = wire_get_u32(r);
    out->role = wire_get_u8(r);
    out->mode = wire_get_u8(r);
    uint8_t flags = wire_get_u8(r);
    out->serving = flags & HB_SERVING;
    out->fit = flags & HB_FIT;
    out->leaving = flags & HB_LEAVING;
    out->virgin = flags & HB_VIRGIN;
    out->knows_seen = flags & HB_SEEN;
    out->own_lsn = wire_get_u64(r);
    out->committed_lsn = wire_get_u64(r);
    wire_get_raw(r, out->store.b, STORE_ID_BYTES);
    out->lease_ns = wire_get_u64(r);
    out->wall_ms = (int64_t)wire_get_u64(r);
    out->echo_boot_random = wire_get_u64(r);
    out->echo_seq = wire_get_u64(r);
    out->ack_epoch = wire_get_u32(r);
    out->relinquish_epoch = wire_get_u32(r);
    out->relinquish_boot = wire_get_u64(r);
    out->paused_ms = wire_get_u32(r);
    out->ask_handover = wire_get_u64(r);
    out->seen_epoch = wire_get_u32(r);
    out->seen_version = wire_get_u64(r);
    if (out->role > ROLE_REJOINING || out->mode > PAIR_SOLO || flags & ~HB_FLAGS)
        r->bad = true;
    return !r->bad;
}

void heartbeat_guard_init(struct heartbeat_guard *g, uint64_t own_boot, uint64_t takeover_after_ns,
                          uint64_t heartbeat_ns)
{
    assert(heartbeat_ns > 0);
    /* Twice the silence that means death, and some for heartbeats sent out of turn. */
    *g = (struct heartbeat_guard){.own_boot = own_boot,
                                  .window = 8 + 2 * (takeover_after_ns / heartbeat_ns)};
}

enum heartbeat_verdict heartbeat_guard_receive(struct heartbeat_guard *g, const struct heartbeat *h)
{
    bool same_boot = h->boot_counter == g->peer_counter && h->boot_random == g->peer_boot;
    if (same_boot ? h->seq <= g->peer_seq : h->boot_counter <= g->peer_counter)
        return HEARTBEAT_OLD;
    g->peer_counter = h->boot_counter;
    g->peer_boot = h->boot_random;
    g->peer_seq = h->seq;
    g->alive = h->echo_boot_random == g->own_boot && h->echo_seq <= g->own_seq &&
               g->own_seq - h->echo_seq < g->window;
    return g->alive ? HEARTBEAT_ALIVE : HEARTBEAT_CONTACT;
}

void heartbeat_guard_send(struct heartbeat_guard *g, struct heartbeat *h)
{
    assert(h->seq > g->own_seq);
    g->own_seq = h->seq;
    if (g->peer_counter == 0)
        return;
    if (!g->alive)
        h->ack_epoch = 0;
    h->echo_boot_random = g->peer_boot;
    h->echo_seq = g->peer_seq;
}
