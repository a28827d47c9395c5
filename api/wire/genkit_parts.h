/* The inside of the Genkit wire, shared by its .c files alone. */
#pragma once

#include "delay.h"
#include "wire/genkit.h"
#include "wire/genkit_live.h"

struct genkit {
    struct api *api;
    struct genkit_lives *lives;
    struct delays *delays;
    struct delay idle;
    void (*on_idle)(void *owner);
    void *idle_owner;
};

/* Does the client want a stream? */
bool genkit_wants_stream(struct request *r);
