/* One client of the control socket; shared by control_uv.c (socket, lines, time-outs) and
 * control_answer_uv.c (what each verb does). Private to node/control. Control thread only, but for
 * struct follow. */
#ifndef BATON_CONTROL_CONTROL_CLIENT_UV_H
#define BATON_CONTROL_CONTROL_CLIENT_UV_H

#include <stdatomic.h>
#include <uv.h>

#include "node/control/control.h"
#include "node/control/control_uv.h"

enum {
    CONTROL_CLIENTS = 32,             /* operators and their scripts; each costs at most 5 MiB */
    CONTROL_REQUEST_BYTES = 64 << 10, /* a request is a verb and a selector */
    CONTROL_REQUEST_MS = 10000,       /* from connect to the whole request line */
    CONTROL_DRAIN_MS = 10000,         /* for a client to read the end of its answer */
    CONTROL_READ_MS = 30000,          /* one page of a listing, one chunk of a body */
    CONTROL_WRITE_BYTES = 4 << 20,    /* unread answer; a client that reads slower is dropped */
    CONTROL_FOLLOW_BYTES = 1 << 20,   /* events on their way to a follower; more are left out */
    CONTROL_PAGE = 200,               /* recipients in one read of a listing */
    CONTROL_COUNT = 10000,            /* recipients beyond --limit that are still counted */
    CONTROL_STOP_MS = 2000,           /* for operations that are out when the node stops */
};

enum client_phase {
    CLIENT_READING,   /* its request line */
    CLIENT_WAITING,   /* for an answer to token */
    CLIENT_FOLLOWING, /* gets events until it leaves */
    CLIENT_FINISHING, /* its last line is being written */
    CLIENT_CLOSING,
};

/* Written by the events writer's thread as well. */
struct follow {
    struct control *control;
    uint64_t client; /* token of the client */
    uint64_t events_token;
    char match[24]; /* "id":"..." or "" */
    _Atomic size_t on_the_way;
    _Atomic uint64_t lost;
};

struct client {
    struct client *next;
    struct control *control;
    enum client_phase phase;
    uv_pipe_t pipe;
    uv_timer_t deadline; /* of the phase it is in */
    unsigned open_handles;
    struct buf in;
    struct control_request request;
    bool parsed;
    uint64_t token; /* of what it waits for or follows; unique, never used again */
    unsigned writes;
    void (*on_drained)(struct client *cl); /* once, when all is written */
    struct follow *follow;
    struct {                     /* of listings, `show` and `body` */
        uint64_t messages, rest; /* shown, and beyond --limit */
        uint64_t beyond;         /* recipients of the latter: what counting them costs */
        uint64_t offset, size;
        int64_t next_ms;
        uint64_t id;
        uint32_t index;
        bool rest_capped;
        json_t *message;
        char *after; /* `suppress list`: the last key; owned */
    } list;
};

struct control {
    uv_loop_t loop;
    uv_thread_t thread;
    uv_pipe_t listener;
    uv_timer_t stop_timer;
    struct mailbox *mailbox;
    char *path;
    const struct config *config;
    struct events *events;
    struct control_hooks hooks;
    struct client *clients;
    unsigned n_clients;
    unsigned out; /* operations and reads whose ownership is elsewhere */
    uint64_t next_token;
    bool stopping, closed;
};

/* control_uv.c */
/* Takes a reference to line. */
void control_send(struct client *cl, json_t *line);
void control_send_bytes(struct client *cl, struct slice bytes);
/* Last line; the connection closes after it. */
void control_finish(struct client *cl, bool ok, const char *kind, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void control_close(struct client *cl);
/* A new token to wait for, with a time-out. */
uint64_t control_wait(struct client *cl, uint64_t timeout_ms);
bool control_follow(struct client *cl);

/* control_answer_uv.c */
void control_answer_begin(struct client *cl); /* request is parsed */
void control_answer_expired(struct client *cl);
void control_answer_op(struct client *cl, bool ok, const char *text);
void control_answer_text(struct client *cl, struct slice text);
void control_answer_queue(struct client *cl, const struct storage_op *op);
void control_answer_read(struct client *cl, const struct storage_read *r);
#endif
