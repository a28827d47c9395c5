/*
 * Who may ask a provider that refuses (429, 503, 529)? One governor a worker; it knows each key,
 * which is a base URL with an API key, by what it answered last. A key of which nothing bad is
 * known holds nobody up. While one refuses, the model calls of all turns wait here, and one of
 * them at a time asks again.
 */
#pragma once

#include "delay.h"
#include "list.h"
#include "openai.h"

#include <stdbool.h>
#include <stdint.h>

/* A key is shut for as long as the provider said, but for no longer than that: whoever was told
 * more waits so long itself (it may be about its model, or wrong), and another one asks. */
#define GOVERNOR_SHUT_MAX_MS 1500

struct governor;     /* opaque: one per worker */
struct governor_key; /* opaque */

/* A model call's dealings with its key. Lives inside its owner, zeroed before its first use. */
struct governor_pass {
    struct list node;
    struct governor_key *key; /* between governor_hold() and governor_release() */
    const char *model;
    bool waiting, going; /* in the queue; asking the provider */
    bool told;           /* of this request the governor knows how it was answered */
    bool refused;        /* once at least, */
    uint64_t answers;    /* when the key had given so many answers */
    unsigned round;      /* of the key, when it asked */
    void (*on_go)(void *owner);
    void *owner;
};

struct governor *governor_new(struct delays *delays);
void governor_close(struct governor *governor); /* nobody may hold a key; NULL is allowed */

/* `api_key` NULL: none. `model` is borrowed for as long as the key is held. */
void governor_hold(struct governor *governor, struct governor_pass *pass, const char *base_url,
                   const char *api_key, const char *model);
void governor_release(struct governor_pass *pass); /* harmless when nothing is held */

/* May it ask right now? If so it does, and says by the functions below how it was answered. */
bool governor_admits(struct governor_pass *pass);

/* Wait for that. `on_go` is called once, from the loop, when governor_admits(). */
void governor_wait(struct governor_pass *pass, void (*on_go)(void *owner), void *owner);

/* It asks no more, or waits no more. Harmless when it does neither. */
void governor_leave(struct governor_pass *pass);

/* The provider takes requests. Counts once a request. */
void governor_answered(struct governor_pass *pass);

/* It does not. False: it takes those of others, so that the refusal is about this call alone. */
bool governor_refused(struct governor_pass *pass, const struct model_error *refusal);

/* What the provider said last, if that was a refusal, else NULL. */
const struct model_error *governor_refusal(const struct governor_pass *pass);
