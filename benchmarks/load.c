/* The load generator of `make bench`: many Yjs clients in one thread.
 *
 *   load edits --port N --clients 200 --writers 20 --in-flight 4 ...
 *
 * One epoll loop speaks WebSocket (RFC 6455) and the dialects of the servers
 * under test: y-websocket's, Hocuspocus' and our own (docs/protocol.md). What it sends are valid
 * Yjs updates: every writer has a client id of its own and appends one
 * character after its previous one. What it receives is read just far enough
 * to know which edits (client id, clock) an update holds, because servers
 * merge updates: an edit counts as delivered to a client when its clock is
 * covered, however many of them share a frame.
 *
 * The result is one JSON object on stdout. Times are in seconds, latencies
 * in milliseconds. The clients stay until there is a line on stdin. Exit code 1
 * means that something went wrong; why is on stderr.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define FIRST_ID 0x60000001u /* a client id is five bytes, as random ones are */
#define CONNECTING 256       /* handshakes under way, unless all come at once */

/* ---- what was asked for ---- */

#define SHAKING 400          /* ...in a storm: Node's backlog of listen() is 511 */

enum mode { EDITS, MOVES, JOIN, HOLD, RECONNECT };
enum dialect { YJS, HOCUSPOCUS, NATIVE };

static struct {
    enum mode mode;
    enum dialect dialect;
    int port, rooms, clients, writers, in_flight, base, settle, drain, pid, at_least;
    int edits, outage;
    double rate, warmup, seconds;
    const char *path, *name;
    bool deflate, echo, presence, leave;
} ask = {
    .rooms = 1, .clients = 2, .writers = 1, .settle = 500, .drain = 10,
    .edits = 10, .outage = 1000,
    .rate = 10, .warmup = 1.5, .seconds = 5, .path = "/", .name = "bench",
};

/* ---- clients ---- */

struct client {
    int fd, index, room, place; /* place: which of its room's clients */
    enum { WAITING, OPENING, UPGRADING, SYNCING, READY, CLOSED } state;
    bool writes_blocked;
    uint8_t *tail;              /* the beginning of an unfinished frame */
    size_t tail_size, tail_room;
    uint8_t *out;
    size_t out_from, out_to, out_room;
    uint64_t started, synced;   /* when it connected, when it had all */
    uint64_t got;               /* bytes of messages */
    bool state_seen;            /* there was a SyncStep2, or Synced */
    char epoch[64];             /* of one of our own: where it was, up to where */
    uint64_t position, announced;
    uint32_t *known;            /* clock each client of its room has reached */
    /* of a writer: */
    bool writer, dirty;
    uint32_t clock;             /* edits made so far, or moves */
    uint32_t under_way;         /* made and not yet seen by the observer */
    uint32_t acknowledged;      /* by SyncStatus */
    int statuses_to_skip;       /* that answer our SyncStep2, not an edit */
    uint64_t *sent;             /* when each clock was sent */
    size_t sent_room;
};

static struct client *clients;
static int total, per_room, poller, timer;
static int opening, shaking, synced, lost;
static uint8_t *inbox; /* one for all: a tail is copied to its front */
#define INBOX (8u << 20)

static uint8_t *vector = (uint8_t *)"", *answer = (uint8_t *)"\0";
static size_t vector_size = 1, answer_size = 2; /* what a client has, and has to say */

static uint64_t bytes_out, handshakes_in, handshakes_out, heard_last;
static uint32_t target; /* edits of the writer that all shall have */
static uint64_t bytes_in, frames_in, delivered, expected, out_of_order;
static uint64_t edits_in_window, delivered_in_window, moves_sent;
static uint64_t window_start, window_end = UINT64_MAX;
static bool measuring;

static void die(const char *what) {
    fprintf(stderr, "load: %s%s%s\n", what, errno ? ": " : "",
            errno ? strerror(errno) : "");
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* ---- latencies: a histogram with steps of 5 us up to 60 s ---- */

#define STEP 5000ull
#define STEPS (60 * SECOND / STEP)
struct histogram { uint32_t *counts; uint64_t size; };
static struct histogram delivery, ack;

static void record(struct histogram *h, uint64_t ns) {
    uint64_t step = ns / STEP;
    h->counts[step < STEPS ? step : STEPS - 1]++;
    h->size++;
}

static double percentile(const struct histogram *h, double share) {
    uint64_t rank = (uint64_t)(share * (double)h->size), seen = 0;
    for (uint64_t i = 0; i < STEPS; i++)
        if ((seen += h->counts[i]) > rank) return (double)(i * STEP) / 1e6;
    return 0;
}

/* ---- CPU of the server: its process, its children, and those it reaped ---- */

static double cpu_of(int pid) {
    clockid_t clock;
    struct timespec t;
    char path[96], line[4096];
    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t)) return 0;
    double seconds = (double)t.tv_sec + (double)t.tv_nsec / 1e9;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    if (f && fgets(line, sizeof line, f)) {
        long user = 0, system = 0;
        char *rest = strrchr(line, ')');
        if (rest) sscanf(rest + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u"
                         " %*u %*u %ld %ld", &user, &system);
        seconds += (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
    }
    if (f) fclose(f);
    snprintf(path, sizeof path, "cat /proc/%d/task/*/children 2>/dev/null", pid);
    f = popen(path, "r");
    for (int child; f && fscanf(f, "%d", &child) == 1;) seconds += cpu_of(child);
    if (f) pclose(f);
    return seconds;
}

static double own_cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- lib0 ---- */

static uint8_t *put_uint(uint8_t *p, uint64_t n) {
    for (; n > 127; n >>= 7) *p++ = (uint8_t)(n | 128);
    *p++ = (uint8_t)n;
    return p;
}

static uint8_t *put_bytes(uint8_t *p, const void *bytes, size_t size) {
    p = put_uint(p, size);
    memcpy(p, bytes, size);
    return p + size;
}

static inline bool get_uint(const uint8_t **p, const uint8_t *end, uint64_t *n) {
    uint64_t value = 0;
    for (int shift = 0; *p < end && shift < 63; shift += 7) {
        uint8_t byte = *(*p)++;
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return *n = value, true;
    }
    return false;
}

static inline bool skip(const uint8_t **p, const uint8_t *end) {
    uint64_t size;
    if (!get_uint(p, end, &size) || size > (uint64_t)(end - *p)) return false;
    *p += size;
    return true;
}

/* ---- sending ---- */

static void watch(struct client *c, bool writable) {
    struct epoll_event e = {EPOLLIN | (writable ? EPOLLOUT : 0), {.ptr = c}};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e)) die("epoll_ctl");
}

static void lose(struct client *c, const char *why) {
    if (c->state == CLOSED) return;
    if (!lost++) fprintf(stderr, "load: client %d lost: %s\n", c->index, why);
    if (c->state == SYNCING || c->state == UPGRADING || c->state == OPENING) opening--;
    if (c->state == UPGRADING || c->state == OPENING) shaking--;
    c->state = CLOSED;
    close(c->fd);
}

static uint8_t *space(struct client *c, size_t size) {
    if (c->out_from == c->out_to) c->out_from = c->out_to = 0;
    if (c->out_to + size > c->out_room) {
        c->out_room = (c->out_to + size) * 2;
        c->out = realloc(c->out, c->out_room);
        if (!c->out) die("out of memory");
    }
    return c->out + c->out_to;
}

static void flush(struct client *c) {
    while (c->out_from < c->out_to) {
        ssize_t n = send(c->fd, c->out + c->out_from, c->out_to - c->out_from,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            if (!c->writes_blocked) watch(c, c->writes_blocked = true);
            return;
        }
        if (n < 0) return lose(c, strerror(errno));
        c->out_from += (size_t)n;
        bytes_out += (uint64_t)n;
    }
    if (c->writes_blocked) watch(c, c->writes_blocked = false);
    if (ask.mode == JOIN || ask.mode == HOLD) { /* keep 2,000 clients small */
        free(c->out);
        c->out = NULL, c->out_from = c->out_to = c->out_room = 0;
    }
}

static void room_name(const struct client *c, char *name) {
    sprintf(name, "%.40s-%d", ask.name, c->room);
}

/* Queue one masked frame; in Hocuspocus' dialect with the document's name. */
static void frame(struct client *c, int opcode, const uint8_t *data, size_t size) {
    static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    uint8_t address[64], *p, *body;
    size_t prefix = 0;
    if (ask.dialect == HOCUSPOCUS && opcode == 2) {
        char name[64];
        room_name(c, name);
        prefix = (size_t)(put_bytes(address, name, strlen(name)) - address);
    }
    size_t length = prefix + size;
    p = space(c, length + 14);
    *p++ = (uint8_t)(0x80 | opcode);
    if (length < 126) *p++ = (uint8_t)(0x80 | length);
    else if (length < 65536) {
        *p++ = 0x80 | 126;
        *p++ = (uint8_t)(length >> 8);
        *p++ = (uint8_t)length;
    } else {
        *p++ = 0x80 | 127;
        for (int shift = 56; shift >= 0; shift -= 8) *p++ = (uint8_t)(length >> shift);
    }
    memcpy(p, mask, 4);
    body = p += 4;
    memcpy(p, address, prefix);
    memcpy(p + prefix, data, size);
    for (size_t i = 0; i < length; i++) body[i] ^= mask[i & 3];
    c->out_to = (size_t)(body + length - c->out);
}

static void stamp(struct client *c, uint64_t at) {
    if (c->clock >= c->sent_room) {
        c->sent_room = c->sent_room ? c->sent_room * 2 : 1024;
        c->sent = realloc(c->sent, c->sent_room * sizeof *c->sent);
        if (!c->sent) die("out of memory");
    }
    c->sent[c->clock] = at;
}

/* One character after the writer's previous one, as Yjs encodes it. */
static void edit(struct client *c, uint64_t at) {
    uint32_t id = FIRST_ID + (uint32_t)c->index;
    uint8_t update[64], message[80], *p = update;
    uint8_t letter = (uint8_t)('a' + c->place % 26);
    *p++ = 1; /* clients */
    *p++ = 1; /* structs */
    p = put_uint(p, id);
    p = put_uint(p, c->clock);
    if (c->clock) {
        *p++ = 0x84; /* a string that has an origin */
        p = put_uint(p, id);
        p = put_uint(p, c->clock - 1);
    } else {
        *p++ = 0x04; /* a string whose parent is a root type */
        *p++ = 1;
        p = put_bytes(p, "text", 4);
    }
    p = put_bytes(p, &letter, 1);
    *p++ = 0; /* no deletions */
    uint8_t *q = message;
    *q++ = ask.dialect == NATIVE, *q++ = 2;
    if (ask.dialect == NATIVE) q = put_uint(q, c->clock + 1);
    size_t size = (size_t)(put_bytes(q, update, (size_t)(p - update)) - message);
    stamp(c, at);
    c->clock++;
    c->under_way++;
    expected += (uint64_t)per_room - 1;
    if (at >= window_start && at < window_end) edits_in_window++;
    frame(c, 2, message, size);
}

/* A cursor as y-codemirror sends it: two relative positions. */
static void move(struct client *c, uint64_t at) {
    uint32_t id = FIRST_ID + (uint32_t)c->index;
    char json[400];
    uint8_t update[512], message[520], *p = update;
    stamp(c, at);
    c->clock++;
    int size = snprintf(json, sizeof json,
        "{\"user\":{\"name\":\"u%d\",\"color\":\"#30bced\"},\"cursor\":{"
        "\"anchor\":{\"type\":null,\"tname\":null,\"item\":{\"client\":%u,"
        "\"clock\":%u},\"assoc\":0},\"head\":{\"type\":null,\"tname\":null,"
        "\"item\":{\"client\":%u,\"clock\":%u},\"assoc\":0}}}",
        c->index, FIRST_ID, c->clock * 7 % 5000, FIRST_ID, c->clock * 7 % 5000 + 3);
    *p++ = 1;
    p = put_uint(p, id);
    p = put_uint(p, c->clock);
    p = put_bytes(p, json, (size_t)size);
    message[0] = 1;
    size_t length = (size_t)(put_bytes(message + 1, update, (size_t)(p - update)) - message);
    moves_sent++;
    frame(c, 2, message, length);
}

/* ---- receiving ---- */

static inline struct client *in_room_of(struct client *c, uint64_t id) {
    uint64_t index = id - FIRST_ID;
    if (index >= (uint64_t)total || clients[index].room != c->room) return NULL;
    return &clients[index];
}

static struct client *writable[65536];
static int writable_count;

/* A client has everything of a writer up to `end`; it lacked it from `start`. */
static void reached(struct client *c, struct client *w, uint32_t start, uint32_t end,
                    uint64_t now) {
    uint32_t *known = &c->known[w->place];
    if (end > w->clock) return (void)out_of_order++;
    if (end <= *known) return;
    if (start > *known) out_of_order++;
    for (uint32_t k = start > *known ? start : *known; k < end; k++) {
        bool sampled = w->sent[k] >= window_start && w->sent[k] < window_end;
        if (w == c) {
            /* In Hocuspocus' dialect SyncStatus is the acknowledgement. */
            if (sampled && ask.dialect == YJS) record(&ack, now - w->sent[k]);
            continue;
        }
        delivered++;
        if (measuring) delivered_in_window++;
        if (sampled) record(&delivery, now - w->sent[k]);
        if (c->place == (w->place + 1) % per_room) {
            w->under_way--;
            if (!w->dirty) w->dirty = true, writable[writable_count++] = w;
        }
    }
    *known = end;
}

/* Which edits does this Yjs update hold? False if it is beyond us. */
static bool read_update(struct client *c, const uint8_t *p, const uint8_t *end,
                        uint64_t now) {
    uint64_t sections, structs, id, clock, n, ignored;
    if (!get_uint(&p, end, &sections)) return false;
    while (sections--) {
        if (!get_uint(&p, end, &structs) || !get_uint(&p, end, &id) ||
            !get_uint(&p, end, &clock)) return false;
        struct client *w = in_room_of(c, id);
        if (!w) return false;
        while (structs--) {
            if (p >= end) return false;
            uint8_t info = *p++;
            if ((info & 31) == 10) { /* a gap */
                if (!get_uint(&p, end, &n)) return false;
                clock += n;
                continue;
            }
            for (int bit = 0x80; bit >= 0x40; bit >>= 1)
                if (info & bit && (!get_uint(&p, end, &ignored) ||
                                   !get_uint(&p, end, &ignored))) return false;
            if (!(info & 0xc0)) { /* the parent: a root type's name */
                if (!get_uint(&p, end, &n) || n != 1 || !skip(&p, end)) return false;
            }
            if ((info & 31) != 4 || !get_uint(&p, end, &n) ||
                n > (uint64_t)(end - p)) return false;
            p += n; /* ASCII: as many clocks as bytes */
            reached(c, w, (uint32_t)clock, (uint32_t)(clock + n), now);
            clock += n;
        }
    }
    return true;
}

/* Note whose cursors these are; true if any is news. */
static bool read_awareness(struct client *c, const uint8_t *p, const uint8_t *end,
                           uint64_t now) {
    uint64_t states, id, clock;
    bool news = false;
    if (!get_uint(&p, end, &states)) return false;
    while (states--) {
        if (!get_uint(&p, end, &id) || !get_uint(&p, end, &clock) || !skip(&p, end))
            return false;
        struct client *other = in_room_of(c, id);
        if (!other || clock > other->clock || clock <= c->known[other->place]) continue;
        c->known[other->place] = (uint32_t)clock;
        news |= other != c;
        if (other == c) continue;
        delivered++;
        uint64_t sent = other->sent[clock - 1];
        if (sent >= window_start && sent < window_end) record(&delivery, now - sent);
    }
    return news;
}

/* A client is synced when there was a SyncStep2, and when it has received as much
 * as the document is known to be: servers may send a state in several messages. */
static void check_synced(struct client *c, uint64_t now) {
    if (c->state != SYNCING || !c->state_seen || c->got < (uint64_t)ask.at_least)
        return;
    if (target && c->known[0] < target) return;
    c->state = READY;
    c->synced = now;
    opening--;
    synced++;
}

/* Take the messages of a frame of our own dialect: docs/protocol.md. */
static void native(struct client *c, const uint8_t *p, const uint8_t *end,
                   uint64_t now) {
    static const char *own[] = {"uduu", "u", "uu"};
    static const char *fields[] = {"uduud", "ud", "ud", "d", "dd", "u", "d", "u", "uu",
                                   "ud", "u", "d"};
    while (p < end) {
        uint64_t channel, kind, numbers[4] = {0};
        const uint8_t *data[2] = {NULL};
        uint64_t sizes[2] = {0};
        int number = 0, piece = 0;
        if (!get_uint(&p, end, &channel) || !get_uint(&p, end, &kind) ||
            kind >= (channel ? 12 : 3)) return lose(c, "an unknown message");
        for (const char *field = channel ? fields[kind] : own[kind]; *field; field++) {
            if (*field == 'u') {
                if (!get_uint(&p, end, &numbers[number++])) return lose(c, "no number");
                continue;
            }
            if (!get_uint(&p, end, &sizes[piece]) || sizes[piece] > (uint64_t)(end - p))
                return lose(c, "a broken message");
            data[piece] = p;
            p += sizes[piece++];
        }
        if (!channel) continue;
        if (kind == 0 && sizes[0] < sizeof c->epoch) {
            memcpy(c->epoch, data[0], sizes[0]);
            c->epoch[sizes[0]] = 0;
        } else if (kind == 1) return lose(c, "its document was closed");
        else if (kind == 2 || kind == 6) {
            if (!read_update(c, data[0], data[0] + sizes[0], now))
                return lose(c, "an update that this generator cannot read");
        } else if (kind == 7) {
            c->state_seen = true;
            if (numbers[0] > c->position) c->position = numbers[0];
        } else if (kind == 8) c->acknowledged = (uint32_t)numbers[0];
    }
}

static void message(struct client *c, const uint8_t *p, const uint8_t *end,
                    uint64_t now) {
    uint64_t type, kind, size;
    if (ask.dialect == HOCUSPOCUS) {
        if (end - p == 1 && *p == 9) return; /* Are you there? */
        if (!skip(&p, end)) return lose(c, "no address");
    }
    if (!get_uint(&p, end, &type)) return lose(c, "an empty message");
    if (type == 8 && ask.dialect == HOCUSPOCUS) {
        if (c->statuses_to_skip) c->statuses_to_skip--;
        else if (c->acknowledged < c->clock && ask.mode != MOVES) {
            uint64_t sent = c->sent[c->acknowledged++];
            if (sent >= window_start && sent < window_end) record(&ack, now - sent);
        }
    } else if (type == 0) {
        if (!get_uint(&p, end, &kind) || !get_uint(&p, end, &size) ||
            size > (uint64_t)(end - p)) return lose(c, "a broken sync message");
        if (kind == 0) {
            c->statuses_to_skip++;
            uint8_t *step2 = malloc(answer_size + 16);
            step2[0] = 0, step2[1] = 1;
            frame(c, 2, step2,
                  (size_t)(put_bytes(step2 + 2, answer, answer_size) - step2));
            free(step2);
            flush(c);
        } else {
            /* Hocuspocus sends whoever has it load a document all of that, too. */
            if ((ask.mode == EDITS || ask.mode == RECONNECT) &&
                !read_update(c, p, p + size, now) && (ask.mode == EDITS || target))
                return lose(c, "an update that this generator cannot read");
            if (kind == 1) c->state_seen = true;
        }
    } else if (type == 1 && ask.mode == MOVES) {
        if (!get_uint(&p, end, &size) || size > (uint64_t)(end - p))
            return lose(c, "a broken awareness message");
        if (read_awareness(c, p, p + size, now) && ask.echo) {
            uint8_t *again = malloc(size + 16);
            again[0] = 1;
            frame(c, 2, again, (size_t)(put_bytes(again + 1, p, size) - again));
            free(again);
            flush(c);
        }
    } else if (type == 2 && ask.dialect == HOCUSPOCUS && p < end && *p == 1) {
        lose(c, "permission denied");
    }
}

/* Take whole frames from the bytes; return how many bytes they were. */
static size_t frames(struct client *c, uint8_t *data, size_t size, uint64_t now) {
    size_t at = 0;
    while (size - at >= 2 && c->state != CLOSED) {
        uint8_t *p = data + at;
        uint64_t length = p[1] & 127;
        size_t header = length < 126 ? 2 : length == 126 ? 4 : 10;
        if (size - at < header) break;
        if (length == 126) length = (uint64_t)p[2] << 8 | p[3];
        if (length == 127) {
            length = 0;
            for (int i = 2; i < 10; i++) length = length << 8 | p[i];
            if (length > INBOX / 2) { lose(c, "a frame over 4 MiB"); break; }
        }
        if (size - at - header < length) break;
        frames_in++;
        c->got += length;
        switch (p[0]) {
        case 0x82:
            (ask.dialect == NATIVE ? native : message)(c, p + header,
                                                       p + header + length, now);
            break;
        case 0xc2: /* compressed: only a document's state is that big */
            if (length > 512) c->state_seen = true;
            break;
        case 0x89: frame(c, 10, p + header, (size_t)length), flush(c); break;
        case 0x88: { /* with a code and a reason, mostly */
            char why[160];
            int code = length < 2 ? 1005 : p[header] << 8 | p[header + 1];
            int rest = length > 2 ? (int)length - 2 : 0;
            snprintf(why, sizeof why, "closed by the server: %d %.*s", code, rest,
                     (char *)p + header + 2);
            lose(c, why);
            break;
        }
        case 0x8a: break;
        default: lose(c, "a frame of an unexpected kind");
        }
        check_synced(c, now);
        at += header + (size_t)length;
    }
    return at;
}

static void hello(struct client *c) {
    static const uint8_t auth[] = {2, 0, 0, 5, '4', '.', '8', '.', '0'};
    uint8_t *said = malloc(vector_size + 512), *p = said;
    if (ask.dialect == HOCUSPOCUS) frame(c, 2, auth, sizeof auth);
    if (ask.dialect == NATIVE) {
        char name[64];
        room_name(c, name);
        *p++ = 0, *p++ = 0, p = put_bytes(p, "load/1", 6);
        *p++ = 1, *p++ = 0, p = put_bytes(p, name, strlen(name));
        *p++ = 0; /* no token */
        p = put_bytes(p, vector, vector_size);
        p = put_bytes(p, c->epoch, strlen(c->epoch));
        p = put_uint(p, c->position);
    } else {
        *p++ = 0, *p++ = 0, p = put_bytes(p, vector, vector_size);
        frame(c, 2, said, (size_t)(p - said));
        p = said;
    }
    if (ask.presence) {
        char json[80];
        uint8_t state[120], *s = state;
        int size = sprintf(json, "{\"user\":{\"name\":\"u%d\",\"color\":\"#30bced\"}}",
                           c->index);
        *s++ = 1;
        s = put_uint(s, FIRST_ID + (uint32_t)c->index);
        s = put_uint(s, ++c->announced);
        s = put_bytes(s, json, (size_t)size);
        *p++ = 1;
        if (ask.dialect == NATIVE) *p++ = 3;
        p = put_bytes(p, state, (size_t)(s - state));
    }
    if (p > said) frame(c, 2, said, (size_t)(p - said));
    free(said);
    flush(c);
}

static void receive(struct client *c) {
    memcpy(inbox, c->tail, c->tail_size);
    ssize_t n = recv(c->fd, inbox + c->tail_size, INBOX - c->tail_size, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) return lose(c, n ? strerror(errno) : "the server hung up");
    bytes_in += (uint64_t)n;
    uint64_t now = heard_last = now_ns();
    size_t size = c->tail_size + (size_t)n, at = 0;
    if (c->state == UPGRADING) {
        uint8_t *end = memmem(inbox, size, "\r\n\r\n", 4);
        if (!end && size < 8192) goto rest;
        if (memcmp(inbox, "HTTP/1.1 101", 12)) {
            inbox[size < 200 ? size : 200] = 0;
            fprintf(stderr, "load: %s\n", (char *)inbox);
            return lose(c, "no upgrade");
        }
        at = (size_t)(end - inbox) + 4;
        handshakes_in += at;
        shaking--;
        c->state = SYNCING;
        hello(c);
    }
    at += frames(c, inbox + at, size - at, now);
    if (c->state == CLOSED) return;
rest:
    if (size - at > c->tail_room) {
        c->tail_room = (size - at) * 2;
        c->tail = realloc(c->tail, c->tail_room);
        if (!c->tail) die("out of memory");
    }
    if (at < size) memcpy(c->tail, inbox + at, size - at);
    else if (ask.mode == JOIN) free(c->tail), c->tail = NULL, c->tail_room = 0;
    c->tail_size = size - at;
}

/* ---- connecting ---- */

static void start(struct client *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)ask.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {EPOLLIN | EPOLLOUT, {.ptr = c}};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e)) die("epoll_ctl");
    c->started = now_ns();
    c->state = OPENING;
    opening++, shaking++;
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
        die("connect");
}

static void upgrade(struct client *c) {
    char name[64], *p = (char *)space(c, 1024);
    room_name(c, name);
    int n = snprintf(p, 1024,
        "GET %s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s%s\r\n",
        ask.path, ask.dialect == YJS ? name : "", ask.port,
        ask.dialect == NATIVE ? "Sec-WebSocket-Protocol: collab.v1\r\n" : "",
        ask.deflate ? "Sec-WebSocket-Extensions: permessage-deflate; "
                      "server_no_context_takeover; client_no_context_takeover\r\n" : "");
    c->out_to += (size_t)n;
    handshakes_out += (uint64_t)n;
    c->state = UPGRADING;
    c->writes_blocked = true; /* so that flush() stops watching for room */
    flush(c);
}

/* ---- the loop ---- */

static void replenish(void) {
    uint64_t now = now_ns();
    for (int i = 0; i < writable_count; i++) {
        struct client *w = writable[i];
        w->dirty = false;
        while (w->under_way < (uint32_t)ask.in_flight) edit(w, now);
        flush(w);
    }
    writable_count = 0;
}

static bool closed_loop; /* writers answer a delivery with the next edit */

/* Wait for events until `deadline`; true if there were any. */
static bool turn(uint64_t deadline) {
    struct epoll_event events[512];
    uint64_t now = now_ns();
    if (now >= deadline) deadline = now;
    struct itimerspec at = {.it_value = {(time_t)(deadline / SECOND),
                                         (long)(deadline % SECOND)}};
    int n = 0;
    if (deadline > now) {
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
        n = epoll_wait(poller, events, 512, -1);
    } else n = epoll_wait(poller, events, 512, 0);
    for (int i = 0; i < n; i++) {
        struct client *c = events[i].data.ptr;
        if (!c) {
            uint64_t times;
            if (read(timer, &times, sizeof times) < 0 && errno != EAGAIN) die("timer");
            continue;
        }
        if (c->state == OPENING && events[i].events & (EPOLLOUT | EPOLLERR)) {
            int error = 0;
            socklen_t size = sizeof error;
            getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
            if (error) { lose(c, strerror(error)); continue; }
            upgrade(c);
            continue;
        }
        if (events[i].events & EPOLLOUT && c->state != CLOSED) flush(c);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && c->state != CLOSED)
            receive(c);
    }
    if (closed_loop) replenish();
    else {
        for (int i = 0; i < writable_count; i++) writable[i]->dirty = false;
        writable_count = 0;
    }
    return n > 0;
}

static void wait_for(uint64_t ns) {
    for (uint64_t until = now_ns() + ns; now_ns() < until;) turn(until);
}

/* Bring clients[from..to) in, at most `at_once` of them at the same time. */
static void bring_in(int from, int to, int at_once) {
    uint64_t limit = now_ns() + 60 * SECOND;
    int next = from;
    while (synced + lost < to) {
        while (next < to && opening < at_once) start(&clients[next++]);
        turn(now_ns() + SECOND / 10);
        if (now_ns() > limit) die("not everybody got in within 60 s");
    }
    if (lost) die("clients were refused");
}

/* ---- what is measured ---- */

struct sample { double server, own; uint64_t at, bytes, frames; };

static struct sample sample(void) {
    double server = ask.pid ? cpu_of(ask.pid) : 0;
    return (struct sample){server, own_cpu(), now_ns(), bytes_in, frames_in};
}

static void report(struct sample from, struct sample to) {
    printf("{\"clients\": %d, \"lost\": %d, \"seconds\": %.6f, \"server_cpu\": %.6f,"
           " \"generator_cpu\": %.6f, \"bytes\": %" PRIu64 ", \"frames\": %" PRIu64,
           synced, lost, (double)(to.at - from.at) / 1e9, to.server - from.server,
           to.own - from.own, to.bytes - from.bytes, to.frames - from.frames);
}

static void report_latency(const char *name, const struct histogram *h) {
    printf(", \"%s_samples\": %" PRIu64 ", \"%s_p50\": %.3f, \"%s_p99\": %.3f",
           name, h->size, name, percentile(h, .5), name, percentile(h, .99));
}

/* Act `rate` times a second for each of the writers, evenly spread, until `end`. */
static void paced(void (*act)(struct client *, uint64_t), struct client **who, int count,
                  uint64_t *step, uint64_t began, uint64_t end) {
    double period = 1e9 / (ask.rate * count);
    for (;;) {
        uint64_t due = began + (uint64_t)((double)*step * period);
        if (due >= end) { while (now_ns() < end) turn(end); return; }
        uint64_t now = now_ns();
        if (now < due) { turn(due); continue; }
        struct client *c = who[*step % (uint64_t)count];
        if (c->state == READY) act(c, due), flush(c);
        if (++*step % 16 == 0) turn(now); /* never only send */
    }
}

static void edits(void) {
    int count = 0;
    struct client **writers = calloc((size_t)total, sizeof *writers);
    /* Spread over the room, so that their observers sit everywhere in the
     * order in which a server sends. */
    for (int k = 0; k < ask.writers; k++)
        for (int room = 0; room < ask.rooms; room++) {
            int place = (int)((int64_t)k * per_room / ask.writers);
            writers[count] = &clients[room + place * ask.rooms];
            writers[count++]->writer = true;
        }
    bring_in(0, total, CONNECTING);
    wait_for((uint64_t)ask.settle * 1000000);

    uint64_t began = now_ns(), step = 0;
    uint64_t open = began + (uint64_t)(ask.warmup * 1e9);
    uint64_t close = open + (uint64_t)(ask.seconds * 1e9);
    window_start = open, window_end = close;
    struct sample from, to;
    if (ask.in_flight) {
        closed_loop = true;
        memcpy(writable, writers, (size_t)count * sizeof *writers);
        writable_count = count;
        replenish();
        while (now_ns() < open) turn(open);
    } else paced(edit, writers, count, &step, began, open);
    from = sample(), measuring = true;
    window_start = now_ns();
    if (ask.in_flight) while (now_ns() < close) turn(close);
    else paced(edit, writers, count, &step, began, close);
    to = sample(), measuring = false;
    closed_loop = false;

    uint64_t limit = now_ns() + (uint64_t)ask.drain * SECOND;
    while (delivered < expected && now_ns() < limit) turn(now_ns() + SECOND / 100);
    uint64_t acks_until = now_ns() + SECOND / 5; /* the last acknowledgements */
    while (now_ns() < acks_until) turn(acks_until);
    uint64_t made = 0;
    for (int i = 0; i < count; i++) made += writers[i]->clock;
    report(from, to);
    printf(", \"edits\": %" PRIu64 ", \"all_edits\": %" PRIu64
           ", \"deliveries\": %" PRIu64 ", \"missing\": %" PRIu64
           ", \"out_of_order\": %" PRIu64,
           edits_in_window, made, delivered_in_window, expected - delivered,
           out_of_order);
    report_latency("delivery", &delivery);
    report_latency("ack", &ack);
    printf("}\n");
}

static uint64_t cursors_missing(void) {
    uint64_t missing = 0;
    for (int i = 0; i < total; i++)
        for (int j = clients[i].room; j < total; j += ask.rooms)
            missing += i != j && clients[i].known[clients[j].place] < clients[j].clock;
    return missing;
}

static void moves(void) {
    struct client **all = calloc((size_t)total, sizeof *all);
    for (int i = 0; i < total; i++) all[i] = &clients[i];
    bring_in(0, total, CONNECTING);
    wait_for((uint64_t)ask.settle * 1000000);
    window_start = window_end = 0;
    for (int i = 0; i < total; i++) move(all[i], now_ns()), flush(all[i]);
    uint64_t limit = now_ns() + (uint64_t)ask.drain * SECOND;
    while (cursors_missing() && now_ns() < limit) turn(now_ns() + SECOND / 50);
    wait_for((uint64_t)ask.settle * 1000000);

    moves_sent = 0;
    struct sample from = sample();
    uint64_t began = now_ns(), step = 0;
    uint64_t end = began + (uint64_t)(ask.seconds * 1e9);
    window_start = began, window_end = end;
    paced(move, all, total, &step, began, end);
    uint64_t stopped = now_ns();
    limit = stopped + (uint64_t)ask.drain * SECOND;
    uint64_t missing = cursors_missing();
    while (missing && now_ns() < limit) {
        uint64_t until = now_ns() + SECOND / 50;
        while (now_ns() < until) turn(until);
        missing = cursors_missing();
    }
    double converged = (double)(now_ns() - stopped) / 1e9;
    struct sample to = sample();
    report(from, to);
    printf(", \"moves\": %" PRIu64 ", \"missing\": %" PRIu64
           ", \"converged_after\": %.3f", moves_sent, missing, converged);
    report_latency("delivery", &delivery);
    printf("}\n");
}

static void join(void) {
    bring_in(0, ask.base, CONNECTING);
    wait_for((uint64_t)ask.settle * 1000000);
    struct sample from = sample();
    bring_in(ask.base, total, total);
    uint64_t last = 0;
    for (int i = ask.base; i < total; i++) {
        record(&delivery, clients[i].synced - clients[i].started);
        if (clients[i].synced > last) last = clients[i].synced;
    }
    struct sample to = sample();
    to.at = last;
    report(from, to);
    report_latency("join", &delivery);
    printf("}\n");
}

/* Stay connected until there is a line on stdin, or its end. A number on it is the
 * process of a server that takes the place of the one before. */
static void stay(void) {
    int pid = 0;
    fflush(stdout);
    fcntl(0, F_SETFL, O_NONBLOCK);
    for (char byte;;) {
        ssize_t n = read(0, &byte, 1);
        if (n == 1 && byte >= '0' && byte <= '9') {
            pid = 10 * pid + byte - '0';
            continue;
        }
        if (n == 0 || (n == 1 && byte == '\n')) break;
        turn(now_ns() + SECOND / 100);
    }
    if (pid) ask.pid = pid;
}

/* Have a client's connection end without a word: the other end is told by a reset. */
static void cut(struct client *c) {
    struct linger none = {.l_onoff = 1};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close(c->fd);
    c->state = WAITING;
    c->tail_size = c->out_from = c->out_to = 0;
    c->writes_blocked = c->state_seen = false;
    c->statuses_to_skip = 0;
    c->got = 0;
    synced--;
}

/* All but the first client, which writes meanwhile, are cut off and come back. */
static void reconnect(void) {
    struct client *writer = &clients[0];
    writer->writer = true;
    window_start = window_end = 0;
    bring_in(0, total, CONNECTING);
    wait_for((uint64_t)ask.settle * 1000000);
    for (int i = 1; i < total; i++) cut(&clients[i]);
    uint64_t began = now_ns(), outage = (uint64_t)ask.outage * 1000000;
    for (int i = 0; i < ask.edits; i++) {
        uint64_t due = began + (uint64_t)(i + 1) * outage / (uint64_t)(ask.edits + 2);
        while (now_ns() < due) turn(due);
        edit(writer, now_ns()), flush(writer);
    }
    while (now_ns() < began + outage) turn(began + outage);
    uint64_t limit = now_ns() + (uint64_t)ask.drain * SECOND;
    /* An edit is acknowledged: by its echo, to clients of y-websocket. */
    while ((ask.dialect == YJS ? writer->known[0] : writer->acknowledged) < writer->clock)
        if (turn(now_ns() + SECOND / 100), now_ns() > limit)
            die("edits were not acknowledged");
    if (ask.leave) cut(writer);
    printf("{\"lost\": %d}\n", lost);
    stay();

    target = writer->clock;
    int before = synced, next = 1;
    bytes_out = handshakes_in = handshakes_out = 0;
    struct sample from = sample();
    limit = now_ns() + (uint64_t)ask.drain * SECOND;
    while (synced + lost < before + total - 1) {
        while (next < total && shaking < SHAKING) start(&clients[next++]);
        turn(now_ns() + SECOND / 10);
        if (now_ns() > limit) die("not everybody was back in time");
    }
    uint64_t last = 0;
    for (int i = 1; i < total; i++) {
        record(&delivery, clients[i].synced - from.at);
        if (clients[i].synced > last) last = clients[i].synced;
    }
    /* What else is said: acknowledgements, who is here. */
    while (now_ns() < heard_last + SECOND / 2) {
        turn(heard_last + SECOND / 2);
        if (now_ns() > limit) die("it did not become quiet");
    }
    struct sample to = sample();
    uint64_t quiet = heard_last;
    to.at = last;
    report(from, to);
    printf(", \"quiet\": %.6f, \"sent\": %" PRIu64 ", \"handshakes_in\": %" PRIu64
           ", \"handshakes_out\": %" PRIu64 ", \"out_of_order\": %" PRIu64,
           (double)(quiet - from.at) / 1e9, bytes_out, handshakes_in, handshakes_out,
           out_of_order);
    report_latency("back", &delivery);
    printf("}\n");
}

static void hold(void) {
    bring_in(0, ask.base, CONNECTING);
    printf("{\"lost\": %d}\n", lost);
    stay();
    bring_in(ask.base, total, CONNECTING);
    printf("{\"lost\": %d}\n", lost);
}

/* ---- options ---- */

static const char *usage =
    "usage: load edits|moves|join|hold|reconnect --port N [options]\n"
    "  edits   writers append characters: closed loop with --in-flight, else --rate\n"
    "  moves   every client moves its cursor --rate times a second\n"
    "  join    all clients but --base join at the same moment\n"
    "  hold    --base clients, then, after a line on stdin, all clients\n"
    "  reconnect  all clients are cut off but one, which makes --edits meanwhile; after\n"
    "          --outage ms and a line on stdin they come back at the same moment\n"
    "  Clients stay connected after the result, until there is a line on stdin.\n"
    "  --dialect yjs|hocuspocus|native   --path /ws/ (a document's name follows in yjs)\n"
    "  --name bench  --rooms 1  --clients 2 (of all rooms)  --writers 1 (a room)\n"
    "  --in-flight 0  --rate 10  --warmup 1.5  --seconds 5  --settle 500 (ms)\n"
    "  --drain 10 (s, for what is under way at the end)  --base 0  --pid N (the\n"
    "  server, whose CPU is measured)  --at-least 0 (bytes that one who joins must\n"
    "  receive)  --deflate (offer it)  --echo (send back the\n"
    "  awareness one receives, as y-websocket's clients do)  --vector FILE (the state\n"
    "  vector of what clients have)  --answer FILE (the update that they answer with)\n"
    "  --presence (say who one is)  --leave (who writes is cut off too, in the end)\n";

static uint8_t *read_file(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    uint8_t *bytes = malloc(1 << 24);
    if (!f || !bytes) die(path);
    *size = fread(bytes, 1, 1 << 24, f);
    fclose(f);
    return bytes;
}

static void read_options(int argc, char **argv) {
    static const char *modes[] = {"edits", "moves", "join", "hold", "reconnect"};
    static const struct option options[] = {
        {"port", 1, 0, 'p'}, {"dialect", 1, 0, 'd'}, {"path", 1, 0, 'u'},
        {"name", 1, 0, 'n'}, {"rooms", 1, 0, 'r'}, {"clients", 1, 0, 'c'},
        {"writers", 1, 0, 'w'}, {"in-flight", 1, 0, 'f'}, {"rate", 1, 0, 'R'},
        {"warmup", 1, 0, 'W'}, {"seconds", 1, 0, 's'}, {"settle", 1, 0, 't'},
        {"drain", 1, 0, 'D'}, {"base", 1, 0, 'b'}, {"pid", 1, 0, 'P'},
        {"at-least", 1, 0, 'l'},
        {"edits", 1, 0, 'E'}, {"outage", 1, 0, 'o'}, {"vector", 1, 0, 'v'},
        {"answer", 1, 0, 'a'}, {"presence", 0, 0, 'i'}, {"leave", 0, 0, 'L'},
        {"deflate", 0, 0, 'z'}, {"echo", 0, 0, 'e'}, {0, 0, 0, 0}};
    int mode = 0;
    while (mode < 5 && (argc < 2 || strcmp(argv[1], modes[mode]))) mode++;
    if (mode == 5) { fputs(usage, stderr); exit(2); }
    ask.mode = (enum mode)mode;
    for (int o; (o = getopt_long(argc - 1, argv + 1, "", options, NULL)) != -1;)
        switch (o) {
        case 'p': ask.port = atoi(optarg); break;
        case 'd': ask.dialect = !strcmp(optarg, "yjs") ? YJS :
                                !strcmp(optarg, "native") ? NATIVE : HOCUSPOCUS; break;
        case 'u': ask.path = optarg; break;
        case 'n': ask.name = optarg; break;
        case 'r': ask.rooms = atoi(optarg); break;
        case 'c': ask.clients = atoi(optarg); break;
        case 'w': ask.writers = atoi(optarg); break;
        case 'f': ask.in_flight = atoi(optarg); break;
        case 'R': ask.rate = atof(optarg); break;
        case 'W': ask.warmup = atof(optarg); break;
        case 's': ask.seconds = atof(optarg); break;
        case 't': ask.settle = atoi(optarg); break;
        case 'D': ask.drain = atoi(optarg); break;
        case 'b': ask.base = atoi(optarg); break;
        case 'P': ask.pid = atoi(optarg); break;
        case 'l': ask.at_least = atoi(optarg); break;
        case 'E': ask.edits = atoi(optarg); break;
        case 'o': ask.outage = atoi(optarg); break;
        case 'v': vector = read_file(optarg, &vector_size); break;
        case 'a': answer = read_file(optarg, &answer_size); break;
        case 'i': ask.presence = true; break;
        case 'L': ask.leave = true; break;
        case 'z': ask.deflate = true; break;
        case 'e': ask.echo = true; break;
        default: fputs(usage, stderr); exit(2);
        }
    if (!ask.port || ask.clients % ask.rooms || ask.clients > 65536) {
        fputs("load: a --port, and --clients that divide evenly into --rooms\n", stderr);
        exit(2);
    }
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    total = ask.clients;
    per_room = total / ask.rooms;
    inbox = malloc(INBOX);
    clients = calloc((size_t)total, sizeof *clients);
    delivery.counts = calloc(STEPS, sizeof(uint32_t));
    ack.counts = calloc(STEPS, sizeof(uint32_t));
    if (!inbox || !clients || !delivery.counts || !ack.counts) die("out of memory");
    for (int i = 0; i < total; i++) {
        clients[i].index = i;
        clients[i].room = i % ask.rooms;
        clients[i].place = i / ask.rooms;
        if (ask.mode == EDITS || ask.mode == MOVES || ask.mode == RECONNECT)
            clients[i].known = calloc((size_t)per_room, sizeof(uint32_t));
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event e = {EPOLLIN, {.ptr = NULL}};
    if (poller < 0 || timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &e))
        die("epoll");
    switch (ask.mode) {
    case EDITS: edits(); break;
    case MOVES: moves(); break;
    case JOIN: join(); break;
    case HOLD: hold(); break;
    case RECONNECT: reconnect(); break;
    }
    stay();
    _exit(0); /* the kernel closes thousands of sockets faster than we would */
}
