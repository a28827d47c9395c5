#include "pg_peer.h"

#include "backoff.h"
#include "clock.h"
#include "id.h"

#define RETRY_BASE_MS 50
#define RETRY_CAP_MS  1000
#define AWAY_RETRY_MS 800 /* the grace of scheduler/vanish.c bears two, and a start */
#define LONG_MS       5000
#define LONG_RETRY_MS 3500
#define OTHERS_RETRY  8
#define FOLLOW_MS     1500
#define FOLLOW_CUT_MS 100

static struct list everyone = {&everyone, &everyone}; /* struct pg_peer.node, the oldest first */

static struct pg_peer *peer_of(struct list *node)
{
    return container_of(node, struct pg_peer, node);
}

/* Of those that are not up. */
static bool leads(const struct pg_peer *peer)
{
    const struct pg_peer *first = NULL;

    list_foreach (node, &everyone) {
        const struct pg_peer *other = peer_of(node);

        if (!other->up && (!first || other->retry_cap_ms < first->retry_cap_ms))
            first = other;
    }
    return first == peer;
}

/* No connection of this process is up. */
static bool server_is_away(void)
{
    list_foreach (node, &everyone)
        if (peer_of(node)->up)
            return false;
    return true;
}

static uint64_t retry_ms(const struct pg_peer *peer)
{
    uint64_t base_ms = RETRY_BASE_MS, cap_ms = peer->retry_cap_ms;

    if (peer->failures > 1 && server_is_away())
        base_ms = cap_ms = AWAY_RETRY_MS;
    if (clock_mono_ms() - peer->down_ms > LONG_MS)
        base_ms = cap_ms = LONG_RETRY_MS;
    return backoff_ms(peer->failures, base_ms, cap_ms, id_random32());
}

void pg_peer_init(struct pg_peer *peer, void (*hurry)(struct pg_peer *peer, uint64_t ms))
{
    *peer =
        (struct pg_peer){.down_ms = clock_mono_ms(), .retry_cap_ms = RETRY_CAP_MS, .hurry = hurry};
    list_append(&everyone, &peer->node);
}

void pg_peer_release(struct pg_peer *peer)
{
    list_remove(&peer->node);
}

uint64_t pg_peer_lost(struct pg_peer *peer)
{
    if (peer->up)
        peer->down_ms = clock_mono_ms();
    peer->up = false;
    peer->failures++;
    return retry_ms(peer);
}

void pg_peer_trying(struct pg_peer *peer)
{
    peer->waited = false;
}

void pg_peer_found(struct pg_peer *peer)
{
    uint64_t within_ms = peer->failures > 1 ? FOLLOW_MS : FOLLOW_CUT_MS;

    peer->up = true;
    peer->failures = 0;
    list_foreach (node, &everyone)
        if (!peer_of(node)->up)
            peer_of(node)->hurry(peer_of(node), id_random32() % within_ms);
}

uint64_t pg_peer_wait_ms(struct pg_peer *peer)
{
    uint64_t away_ms = clock_mono_ms() - peer->down_ms;
    uint64_t each_ms = away_ms > LONG_MS ? LONG_RETRY_MS : AWAY_RETRY_MS;

    if (peer->waited || peer->failures == 0 || leads(peer) || !server_is_away())
        return 0;
    peer->waited = true;
    return backoff_ms(1, each_ms * OTHERS_RETRY, UINT32_MAX, id_random32());
}
