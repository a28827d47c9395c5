/*
 *   OPEN ---> SHUT <---> PROBING
 *    ^         ^ |          |
 *    |         | v          |
 *    +------ RAMPING <------+
 *
 * OPEN     nothing bad is known: whoever comes asks, and nobody waits
 * SHUT     it refused: nobody asks until Retry-After (bounded), or a second, is over
 * PROBING  one a second asks, until one is answered (RAMPING) or refused (SHUT)
 * RAMPING  it answers: two go for each answer, and twice as many as before each RAMP_MS, until
 *          nobody waits any more (OPEN)
 *
 * A storm costs as many refusals as calls were in flight at the first one, and a probe a second.
 * No probe is waited for: one that is aborted, hangs or fails otherwise costs the next one's
 * second. All of it is in memory and per process: N workers probe a provider N times a second, and
 * a worker that dies forgets what it knew.
 *
 * A provider that answers may refuse one now and then: only STORM_REFUSALS without an answer among
 * them shut its key, but the first one does if it has never answered. A call that is refused,
 * while others were answered since it was refused before, has itself to blame (a prompt larger
 * than the limit, say): it does not shut the key.
 */
#include "governor.h"

#include "clock.h"
#include "hook.h"
#include "id.h"
#include "map.h"
#include "mem.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_MS       500  /* SHUT by the first refusal in a row, when it does not say how long */
#define PROBE_MS       1100 /* at least, by later ones, and between probes: under one a second */
#define STORM_REFUSALS 3
#define RAMP_MS        100
#define BATCH_MAX      512
#define IDLE_KEYS      1024  /* remembered; those in use are as many as turns, at most */
#define IDLE_MS        60000 /* what was known of a key before says nothing any more */
#define JITTER_SHARE   8     /* workers shall not probe in step */

enum governor_state {
    GOVERNOR_OPEN,    /* nothing */
    GOVERNOR_SHUT,    /* delay_start() of `tick` */
    GOVERNOR_PROBING, /* the same, once somebody has asked */
    GOVERNOR_RAMPING, /* the same, once `allowance` is used up */
};

struct governor_key {
    struct map_node node;
    struct list idle; /* in governor.idle while nobody holds it, */
    uint64_t idle_ms; /* since then, clock_mono_ms() */
    struct governor *governor;
    int state; /* enum governor_state */
    unsigned holders;
    unsigned allowance; /* so many may go before the next tick or answer */
    unsigned batch;     /* RAMPING: what a tick allows */
    bool proven;        /* OPEN, RAMPING: somebody was answered */
    unsigned round;     /* grows with each storm: what was asked before proves nothing in it */
    unsigned refusals;  /* in a row */
    uint64_t answers;
    struct model_error refusal; /* the last one, */
    char *refused_model;        /* of this model; NULL: none yet */
    struct list waiting;        /* struct governor_pass.node */
    struct delay tick;
    struct delay wake; /* those who may go are called from the loop */
    char name[];
};

struct governor {
    struct delays *delays;
    struct map keys;
    struct list idle; /* the longest first */
    size_t nidle;
};

static void on_tick(void *owner);

static void governor_enter(struct governor_key *key, enum governor_state state)
{
    key->state = (int)state;
    hook_state("governor", (int)state);
}

/* ---- keys ---- */

struct governor *governor_new(struct delays *delays)
{
    struct governor *governor = xcalloc(1, sizeof(*governor));

    governor->delays = delays;
    map_init(&governor->keys);
    list_init(&governor->idle);
    return governor;
}

static struct governor_key *key_new(struct governor *governor, const char *name)
{
    size_t size = strlen(name) + 1;
    struct governor_key *key = xcalloc(1, sizeof(*key) + size);

    memcpy(key->name, name, size);
    key->governor = governor;
    list_init(&key->idle);
    list_init(&key->waiting);
    map_add(&governor->keys, &key->node, key->name);
    return key;
}

static void key_reset(struct governor_key *key)
{
    delay_cancel(&key->tick);
    delay_cancel(&key->wake);
    key->proven = false;
    key->refusals = 0;
    governor_enter(key, GOVERNOR_OPEN);
}

/* Somebody holds it again. */
static void key_revive(struct governor_key *key)
{
    list_remove(&key->idle);
    key->governor->nidle--;
    if (clock_mono_ms() - key->idle_ms > IDLE_MS)
        key_reset(key);
}

static void forget_oldest(struct governor *governor)
{
    struct governor_key *key = container_of(governor->idle.next, struct governor_key, idle);

    free(key->refused_model);
    delay_cancel(&key->tick);
    delay_cancel(&key->wake);
    list_remove(&key->idle);
    governor->nidle--;
    map_remove(&governor->keys, &key->node);
    free(key);
}

void governor_close(struct governor *governor)
{
    if (!governor)
        return;
    while (!list_is_empty(&governor->idle))
        forget_oldest(governor);
    assert(governor->keys.count == 0);
    map_release(&governor->keys);
    free(governor);
}

void governor_hold(struct governor *governor, struct governor_pass *pass, const char *base_url,
                   const char *api_key, const char *model)
{
    BUF_AUTO(name, BUF_MAX);
    struct map_node *node;

    assert(!pass->key);
    (void)buf_printf(&name, "%s\n%s", base_url, api_key ? api_key : "");
    node = map_find(&governor->keys, name.data);
    pass->key = node ? container_of(node, struct governor_key, node) : key_new(governor, name.data);
    if (node && pass->key->holders == 0)
        key_revive(pass->key);
    pass->key->holders++;
    pass->model = model;
    pass->refused = false;
}

void governor_release(struct governor_pass *pass)
{
    struct governor_key *key = pass->key;

    if (!key)
        return;
    governor_leave(pass);
    pass->key = NULL;
    if (--key->holders > 0)
        return;
    key->idle_ms = clock_mono_ms();
    list_append(&key->governor->idle, &key->idle);
    if (++key->governor->nidle > IDLE_KEYS)
        forget_oldest(key->governor);
}

/* ---- who goes ---- */

static void start_tick(struct governor_key *key)
{
    uint64_t ms = key->state == GOVERNOR_RAMPING ? RAMP_MS : PROBE_MS;

    if (!key->tick.delays)
        delay_start(key->governor->delays, &key->tick, ms, on_tick, key);
}

static bool admit(struct governor_key *key)
{
    if (key->state == GOVERNOR_OPEN)
        return true;
    if (key->state == GOVERNOR_SHUT || key->allowance == 0)
        return false;
    if (--key->allowance == 0)
        start_tick(key);
    return true;
}

static void pass_go(struct governor_pass *pass)
{
    pass->going = true;
    pass->told = false;
    pass->round = pass->key->round;
}

static void ramp_end(struct governor_key *key)
{
    if (key->state == GOVERNOR_RAMPING && list_is_empty(&key->waiting))
        governor_enter(key, GOVERNOR_OPEN);
}

/* Who goes first? If it refuses, somebody with another model than the last one it refused: limits
 * are often a model's, and the queue may be full of one. */
static struct governor_pass *next_of(struct governor_key *key)
{
    if (key->state == GOVERNOR_PROBING && key->refused_model) {
        list_foreach_safe (node, &key->waiting) {
            struct governor_pass *pass = container_of(node, struct governor_pass, node);

            if (strcmp(pass->model, key->refused_model) != 0)
                return pass;
        }
    }
    return container_of(key->waiting.next, struct governor_pass, node);
}

/* Who is called may leave again, but gives no answer yet. While somebody waits either `tick` or
 * `wake` runs. */
static void let_go(struct governor_key *key)
{
    while (!list_is_empty(&key->waiting) && admit(key)) {
        struct governor_pass *pass = next_of(key);

        governor_leave(pass);
        pass_go(pass);
        pass->on_go(pass->owner);
    }
    ramp_end(key);
}

static void on_wake(void *owner)
{
    let_go(owner);
}

static void on_tick(void *owner)
{
    struct governor_key *key = owner;

    if (key->state == GOVERNOR_SHUT)
        governor_enter(key, GOVERNOR_PROBING);
    if (key->state == GOVERNOR_PROBING) {
        key->allowance = 1;
    } else if (key->state == GOVERNOR_RAMPING) {
        key->allowance = key->batch *= 2;
        if (key->batch > BATCH_MAX)
            governor_enter(key, GOVERNOR_OPEN);
    }
    let_go(key);
}

bool governor_admits(struct governor_pass *pass)
{
    if (pass->going)
        return true;
    if (!list_is_empty(&pass->key->waiting) || !admit(pass->key))
        return false;
    pass_go(pass);
    return true;
}

void governor_wait(struct governor_pass *pass, void (*on_go)(void *owner), void *owner)
{
    assert(!pass->waiting && !pass->going);
    pass->waiting = true;
    pass->on_go = on_go;
    pass->owner = owner;
    list_append(&pass->key->waiting, &pass->node);
}

void governor_leave(struct governor_pass *pass)
{
    if (pass->waiting)
        list_remove(&pass->node);
    pass->waiting = pass->going = false;
}

/* ---- how it was answered ---- */

static void ramp(struct governor_key *key)
{
    if (key->state != GOVERNOR_RAMPING) {
        delay_cancel(&key->tick);
        key->allowance = 0;
        key->batch = 1;
        governor_enter(key, GOVERNOR_RAMPING);
    }
    key->allowance += 2;
    ramp_end(key);
    if (key->state == GOVERNOR_RAMPING && !key->wake.delays)
        delay_start(key->governor->delays, &key->wake, 0, on_wake, key);
}

void governor_answered(struct governor_pass *pass)
{
    struct governor_key *key = pass->key;

    if (!pass->going || pass->told)
        return;
    pass->told = true;
    if (pass->round != key->round)
        return;
    key->answers++;
    key->refusals = 0;
    key->proven = true;
    if (key->state != GOVERNOR_OPEN)
        ramp(key);
}

static uint64_t shut_ms(const struct governor_key *key, int64_t retry_after_ms)
{
    uint64_t ms = retry_after_ms >= 0 ? (uint64_t)retry_after_ms : FIRST_MS;

    if (key->refusals > 0 && ms < PROBE_MS)
        ms = PROBE_MS;
    if (ms > GOVERNOR_SHUT_MAX_MS)
        ms = GOVERNOR_SHUT_MAX_MS;
    return ms + id_random32() % (ms / JITTER_SHARE + 1);
}

static void shut(struct governor_key *key, const char *model, const struct model_error *refusal)
{
    uint64_t ms = shut_ms(key, refusal->retry_after_ms);

    key->refusal = *refusal;
    free(key->refused_model);
    key->refused_model = xstrdup(model);
    key->refusals++;
    if (key->state == GOVERNOR_SHUT && key->tick.due_ms >= clock_mono_ms() + ms)
        return; /* of those who had asked before it shut, the one who is told most counts */
    if (key->state == GOVERNOR_OPEN || key->state == GOVERNOR_RAMPING)
        key->round++;
    if (key->state != GOVERNOR_SHUT)
        governor_enter(key, GOVERNOR_SHUT);
    key->proven = false;
    delay_cancel(&key->wake);
    delay_cancel(&key->tick);
    delay_start(key->governor->delays, &key->tick, ms, on_tick, key);
}

bool governor_refused(struct governor_pass *pass, const struct model_error *refusal)
{
    struct governor_key *key = pass->key;
    bool alone = pass->refused && pass->answers != key->answers;

    pass->refused = true;
    pass->answers = key->answers;
    if (alone)
        return false;
    if (key->proven && key->refusals + 1 < STORM_REFUSALS) {
        key->refusals++;
        return false;
    }
    shut(key, pass->model, refusal);
    return true;
}

const struct model_error *governor_refusal(const struct governor_pass *pass)
{
    const struct governor_key *key = pass->key;

    return key->state == GOVERNOR_SHUT || key->state == GOVERNOR_PROBING ? &key->refusal : NULL;
}
