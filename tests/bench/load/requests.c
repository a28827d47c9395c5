/*
 * Closed loop: each client asks, reads the answer, asks again; with --rate, open loop: a request
 * starts at its time whatever became of the earlier ones. Prints rate and latency.
 */
#include "load.h"
#include "samples.h"

#include "clock.h"
#include "mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMPLAINTS 3
#define BODY_MAX   4096 /* of an answer, for --ids and complaints */

struct client {
    struct conn conn;
    struct run *run;
    int64_t asked_wall_us;
    uint64_t asked_us;
    bool busy, failed;
    size_t len;
    char body[BODY_MAX];
};

struct run {
    const struct options *o;
    struct request *requests;
    size_t n_requests;
    struct client *clients;
    long asked, answered, failed;
    uint64_t started_us, ended_us;
    struct samples ms;
    FILE *ids;
};

static bool more(const struct run *run)
{
    if (run->o->seconds > 0)
        return (double)(clock_mono_us() - run->started_us) < run->o->seconds * 1e6;
    return run->asked < run->o->total;
}

static void client_ask(struct client *c)
{
    struct run *run = c->run;
    struct request *r = &run->requests[(size_t)run->asked++ % run->n_requests];

    c->busy = true;
    c->len = 0;
    c->asked_wall_us = clock_wall_us();
    c->asked_us = clock_mono_us();
    conn_ask(&c->conn, r->text, r->len);
}

static void on_body(void *owner, const char *bytes, size_t len)
{
    struct client *c = owner;

    if (len > BODY_MAX - 1 - c->len)
        len = BODY_MAX - 1 - c->len;
    memcpy(c->body + c->len, bytes, len);
    c->len += len;
    c->body[c->len] = '\0';
}

static void note_id(struct client *c)
{
    const char *id = strstr(c->body, "\"task_id\":\"");

    if (id)
        fprintf(c->run->ids, "%lld %.36s\n", (long long)c->asked_wall_us, id + 11);
}

static void on_end(void *owner, bool ok)
{
    struct client *c = owner;
    struct run *run = c->run;

    c->busy = false;
    c->body[c->len] = '\0';
    run->answered++;
    run->ended_us = clock_mono_us();
    samples_add(&run->ms, (double)(run->ended_us - c->asked_us) / 1000);
    if (!ok || c->conn.status / 100 != 2) {
        if (run->failed++ < COMPLAINTS)
            fprintf(stderr, "load: %s %d: %s\n", ok ? "status" : "connection lost after",
                    c->conn.status, c->body);
    } else if (run->ids) {
        note_id(c);
    }
    if (run->o->rate <= 0 && more(run) && run->failed < 100)
        client_ask(c);
}

static const struct conn_callbacks callbacks = {.on_body = on_body, .on_end = on_end};

static int tick_paced(struct run *run)
{
    double elapsed_us = (double)(clock_mono_us() - run->started_us);
    double due_us = (double)run->asked * 1e6 / run->o->rate;

    if (!more(run))
        return 5;
    if (elapsed_us < due_us)
        return (int)((due_us - elapsed_us) / 1000);
    for (long i = 0; i < run->o->clients; i++)
        if (!run->clients[i].busy) {
            client_ask(&run->clients[i]);
            return 0;
        }
    return 1; /* none is free: asked as soon as one is, and the delay is not in the sample */
}

static int tick(void *owner)
{
    struct run *run = owner;

    if (run->failed >= 100 || (run->asked == run->answered && !more(run)))
        return -1;
    if (run->o->rate > 0)
        return tick_paced(run);
    if (!run->asked)
        for (long i = 0; i < run->o->clients && more(run); i++)
            client_ask(&run->clients[i]);
    return 1000;
}

static void report(struct run *run)
{
    double seconds = (double)(run->ended_us - run->started_us) / 1e6;

    printf("{\"n\":%ld,\"failed\":%ld,\"seconds\":%.4f,\"per_s\":%.1f", run->answered, run->failed,
           seconds, (double)(run->answered - run->failed) / seconds);
    samples_print("ms", &run->ms);
    printf("}\n");
}

int load_requests(const struct options *o)
{
    struct run run = {.o = o, .started_us = clock_mono_us()};
    struct net *net = net_new(o->port);

    run.requests = requests_make(o, &run.n_requests);
    run.clients = xcalloc((size_t)o->clients, sizeof(*run.clients));
    run.ids = o->ids ? fopen(o->ids, "w") : NULL;
    for (long i = 0; i < o->clients; i++) {
        run.clients[i].run = &run;
        conn_init(&run.clients[i].conn, net, &callbacks, &run.clients[i]);
    }
    net_run(net, tick, &run);
    report(&run);
    if (run.ids)
        fclose(run.ids);
    return run.failed ? 1 : 0;
}
