#include "park.h"

#include "list.h"
#include "mem.h"
#include "reply.h"

#include <stdio.h>
#include <stdlib.h>

struct peer {
    struct map_node node;
    char address[64];
    int64_t parked;
};

static struct peer *peer_of(struct api *api, const char *address)
{
    struct map_node *node = map_find(&api->peers, address);
    struct peer *peer;

    if (node)
        return container_of(node, struct peer, node);
    peer = xcalloc(1, sizeof(*peer));
    snprintf(peer->address, sizeof(peer->address), "%s", address);
    map_add(&api->peers, &peer->node, peer->address);
    return peer;
}

static void peer_release(struct api *api, struct peer *peer)
{
    if (peer->parked > 0)
        return;
    map_remove(&api->peers, &peer->node);
    free(peer);
}

int park_enter(struct request *r, enum park_kind kind)
{
    struct api *api = r->api;
    int64_t max = kind == PARK_WAITER ? api->conf.max_waiters : api->conf.max_subscribers;
    int64_t max_per_peer = api->conf.max_parked_per_peer;
    struct peer *peer;

    if (api->draining) {
        reply_fault(r, FAULT_UNAVAILABLE, "this process is stopping; ask another one");
        return -1;
    }
    if ((int64_t)api->parked[kind] >= max) {
        reply_fault(r, FAULT_TOO_MANY_REQUESTS, "too many %s",
                    kind == PARK_WAITER ? "requests are waiting" : "streams are open");
        return -1;
    }
    peer = peer_of(api, httpd_peer(r->http));
    if (max_per_peer && peer->parked >= max_per_peer) {
        peer_release(api, peer);
        reply_fault(r, FAULT_TOO_MANY_REQUESTS,
                    "too many requests of this address are waiting or streaming");
        return -1;
    }
    peer->parked++;
    api->parked[kind]++;
    r->peer = peer;
    r->park_kind = (int)kind;
    return 0;
}

void park_leave(struct request *r)
{
    if (!r->peer)
        return;
    r->api->parked[r->park_kind]--;
    r->peer->parked--;
    peer_release(r->api, r->peer);
    r->peer = NULL;
}
