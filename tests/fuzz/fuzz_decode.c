/* Fuzzes every decoder of bytes from disk or a peer. What one accepts, its encoder writes and it
 * accepts again, with the same bytes as outcome. */
#include <stdio.h>
#include <stdlib.h>

#include "health/pair.h"
#include "health/record.h"
#include "health/register.h"
#include "replication/digest.h"
#include "replication/frames.h"
#include "replication/notes.h"
#include "replication/row.h"

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

/* Each reads `in` and, if it is well-formed, writes it anew. */
static bool redo_row(struct slice in, struct buf *out)
{
    struct row x;
    struct wire_reader r = wire_read(in);
    return row_decode(&r, &x) && wire_done(&r) && row_encode(out, &x);
}

static bool redo_history(struct slice in, struct buf *out)
{
    static struct history x;
    struct wire_reader r = wire_read(in);
    return history_decode(&r, &x) && wire_done(&r) && history_encode(out, &x);
}

static bool redo_heartbeat(struct slice in, struct buf *out)
{
    struct heartbeat x;
    struct wire_reader r = wire_read(in);
    return heartbeat_decode(&r, &x) && wire_done(&r) && heartbeat_encode(out, &x);
}

static bool redo_register(struct slice in, struct buf *out)
{
    struct register_msg x;
    struct wire_reader r = wire_read(in);
    return register_msg_decode(&r, &x) && wire_done(&r) && register_msg_encode(out, &x);
}

static bool redo_record(struct slice in, struct buf *out)
{
    struct record x;
    struct wire_reader r = wire_read(in);
    return record_decode(&r, &x) && wire_done(&r) && record_encode(out, &x);
}

static bool redo_voter(struct slice in, struct buf *out)
{
    struct voter_state x;
    return voter_state_decode(in, &x) && voter_state_encode(out, &x);
}

static bool redo_hello(struct slice in, struct buf *out)
{
    static struct frame_hello x;
    return hello_decode(in, &x) && hello_encode(out, &x);
}

static bool redo_welcome(struct slice in, struct buf *out)
{
    static struct frame_welcome x;
    return welcome_decode(in, &x) && welcome_encode(out, &x);
}

static bool redo_ack(struct slice in, struct buf *out)
{
    struct frame_ack x;
    return ack_decode(in, &x) && ack_encode(out, &x);
}

static bool redo_unmerged(struct slice in, struct buf *out)
{
    struct frame_unmerged x;
    return unmerged_decode(in, &x) && unmerged_encode(out, &x);
}

static bool redo_ask(struct slice in, struct buf *out)
{
    struct frame_ask x;
    return ask_decode(in, &x) && ask_encode(out, &x);
}

static bool redo_told(struct slice in, struct buf *out)
{
    struct frame_told x;
    return told_decode(in, &x) && told_encode(out, &x);
}

static bool redo_verified(struct slice in, struct buf *out)
{
    struct verify_view x;
    return verified_decode(in, &x) && verified_encode(out, &x);
}

static bool redo_note(struct slice in, struct buf *out)
{
    struct frame_note x;
    if (!note_decode(in, &x))
        return false;
    struct notes set = {0};
    notes_take(&set, &x);
    notes_clear(&set);
    return note_encode_head(out, x.epoch, x.anew, x.number) && buf_append_slice(out, x.records);
}

static bool redo_digest(struct slice in, struct buf *out)
{
    struct digest x;
    struct wire_reader r = wire_read(in);
    return digest_decode(&r, &x) && wire_done(&r) && digest_encode(out, &x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool (*const redo[])(struct slice, struct buf *) = {
        redo_row,   redo_history, redo_heartbeat, redo_register, redo_record,
        redo_voter, redo_hello,   redo_welcome,   redo_ack,      redo_unmerged,
        redo_ask,   redo_told,    redo_verified,  redo_digest,   redo_note,
    };
    if (size < 1 || size > 100000)
        return 0;
    struct buf once, twice;
    buf_init(&once, 1 << 20);
    buf_init(&twice, 1 << 20);
    unsigned which = data[0] % (sizeof redo / sizeof redo[0]);
    if (redo[which](slice_of(data + 1, size - 1), &once)) {
        must(redo[which](buf_slice(&once), &twice), "what was written reads again");
        must(slice_eq(buf_slice(&once), buf_slice(&twice)), "and reads the same");
    }
    buf_free(&once);
    buf_free(&twice);
    return 0;
}
