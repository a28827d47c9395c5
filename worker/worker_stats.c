#include "worker_stats.h"

void worker_stats_init(struct worker_stats *s)
{
    *s = (struct worker_stats){0};
}

void worker_stats_put(const struct worker_stats *s, struct buf *out)
{
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {
        {"claims",           s->claims          },
        {"turns_claimed",    s->turns_claimed   },
        {"turns_running",    s->turns_running   },
        {"turns_completed",  s->turns_completed },
        {"turns_incomplete", s->turns_incomplete},
        {"turns_failed",     s->turns_failed    },
        {"turns_aborted",    s->turns_aborted   },
        {"turns_expired",    s->turns_expired   },
        {"turns_retried",    s->turns_retried   },
        {"turns_released",   s->turns_released  },
        {"turns_lost",       s->turns_lost      },
        {"steps",            s->steps           },
        {"model_calls",      s->model_calls     },
        {"model_retries",    s->model_retries   },
        {"model_governed",   s->model_governed  }, /* waits for a provider that refuses */
        {"tool_calls",       s->tool_calls      },
        {"tool_errors",      s->tool_errors     },
        {"events",           s->events          },
        {"flushes",          s->flushes         },
        {"input_tokens",     s->input_tokens    },
        {"output_tokens",    s->output_tokens   },
    };
    const struct {
        const char *name;
        const struct histogram *h;
    } histograms[] = {
        {"start_ms", &s->start_ms},
        {"flush_ms", &s->flush_ms},
        {"model_ms", &s->model_ms},
        {"tool_ms",  &s->tool_ms },
        {"turn_ms",  &s->turn_ms },
        {"abort_ms", &s->abort_ms},
    };

    (void)json_open(out, '{');
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        (void)json_put_member_int(out, numbers[i].name, (int64_t)numbers[i].value);
    (void)json_put_key(out, "hist");
    (void)json_open(out, '{');
    for (size_t i = 0; i < sizeof(histograms) / sizeof(*histograms); i++) {
        (void)json_put_key(out, histograms[i].name);
        (void)histogram_put_json(histograms[i].h, out);
    }
    (void)json_close(out, '}');
    (void)json_close(out, '}');
}
