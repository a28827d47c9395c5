/*
 * Is everything up? GET /readyz says that the API reaches a database of the right schema; the
 * workers are counted in the database itself.
 */
#include "dev.h"
#include "mem.h"
#include "store_doctor.h"

#include <stdlib.h>

#define PROBE_MS        1000
#define PROBE_MAX_BYTES 65536

/* The loop has nothing else to do while we wait: the daemons run in processes of their own. */
static bool are_workers_live(const struct dev *dev)
{
    struct err ignored;
    int live = 0;

    return store_doctor_workers(dev->url, &live, &ignored) == 0 && live >= dev->n_workers;
}

static void on_probe(void *owner, const struct err *err)
{
    struct dev *dev = owner;
    bool ready = err->code == ERR_OK && dev->probe.status == 200 && are_workers_live(dev);

    http_call_release(&dev->probe);
    dev->probing = false;
    dev->on_probed(dev, ready);
}

void dev_probe(struct dev *dev, void (*done)(struct dev *dev, bool ready))
{
    char *url = xasprintf("%s/readyz", dev->base);

    dev->probing = true;
    dev->on_probed = done;
    http_start(dev->http, &dev->probe,
               &(struct http_request){
                   .url = url,
                   .max_reply_bytes = PROBE_MAX_BYTES,
                   .timeouts = {.connect_ms = PROBE_MS, .total_ms = PROBE_MS}
    },
               on_probe, dev);
    free(url);
}
