/*
 * Connections that wait: asks on each, prints `held N` when all are asked and, with --events, the
 * head of every answer is there, then keeps them until stdin ends. Prints what was answered.
 */
#include "load.h"

#include "clock.h"
#include "mem.h"

#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#define AT_ONCE  64 /* connects in flight: a listener's backlog is not what is measured */
#define SPACE_MS 5

struct held {
    struct conn conn;
    struct hold *hold;
};

struct hold {
    const struct options *o;
    struct request *requests;
    size_t n_requests;
    struct held *each;
    long asked, heads, answered, failed;
    uint64_t next_us;
    bool said;
};

static void on_head(void *owner, int status)
{
    struct held *h = owner;

    h->hold->heads++;
    h->hold->failed += status / 100 != 2;
}

static void on_body(void *owner, const char *bytes, size_t len)
{
    (void)owner, (void)bytes, (void)len;
}

static void on_end(void *owner, bool ok)
{
    struct held *h = owner;

    h->hold->answered++;
    h->hold->failed += !ok;
}

static const struct conn_callbacks callbacks = {
    .on_head = on_head, .on_body = on_body, .on_end = on_end};

static bool stdin_over(void)
{
    struct pollfd in = {.fd = 0, .events = POLLIN};
    char byte;

    return poll(&in, 1, 0) > 0 && read(0, &byte, 1) <= 0;
}

static int tick(void *owner)
{
    struct hold *hold = owner;
    const struct options *o = hold->o;

    if (hold->asked < o->clients && clock_mono_us() >= hold->next_us) {
        for (int i = 0; i < AT_ONCE && hold->asked < o->clients; i++) {
            struct request *r = &hold->requests[(size_t)hold->asked % hold->n_requests];

            conn_ask(&hold->each[hold->asked++].conn, r->text, r->len);
        }
        hold->next_us = clock_mono_us() + SPACE_MS * 1000;
    }
    if (!hold->said && hold->asked == o->clients && (!o->events || hold->heads == o->clients)) {
        printf("held %ld\n", hold->asked);
        fflush(stdout);
        hold->said = true;
    }
    if (stdin_over())
        return -1;
    return hold->asked < o->clients ? SPACE_MS : 50;
}

int load_hold(const struct options *o)
{
    struct hold hold = {.o = o};
    struct net *net = net_new(o->port);

    hold.requests = requests_make(o, &hold.n_requests);
    hold.each = xcalloc((size_t)o->clients, sizeof(*hold.each));
    for (long i = 0; i < o->clients; i++) {
        hold.each[i].hold = &hold;
        conn_init(&hold.each[i].conn, net, &callbacks, &hold.each[i]);
    }
    net_run(net, tick, &hold);
    printf("{\"held\":%ld,\"answered\":%ld,\"failed\":%ld}\n", hold.asked, hold.answered,
           hold.failed);
    return hold.failed ? 1 : 0;
}
