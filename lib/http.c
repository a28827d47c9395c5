/*
 * Traps buried here: libcurl must not be called from its own callbacks (socket and timer
 * callbacks only arm handles); a CURLMsg does not survive curl_multi_remove_handle(); a uv handle
 * is freed in its close callback; time-outs of libcurl cannot tell first byte from idle, so one
 * repeating look at all calls does; resuming a call runs its callbacks inside curl_easy_pause().
 *
 * Many streams would cost a wake-up and a read for each token. So a socket that has told something
 * of a stream rests when there are many: it is read again after http_lull_ms(), whatever has come
 * by then, and waits for its next bytes in the loop only when nothing has.
 */
#include "http.h"

#include "clock.h"
#include "mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define CHECK_MS           50
#define DEFAULT_CONNECT_MS 10000
#define FEW_STREAMS        64 /* read at once; with more they rest, a millisecond */
#define STREAMS_PER_MS     16 /* for so many, */
#define MANY_STREAMS       1000
#define MANY_PER_MS        25  /* and for so many of those above MANY_STREAMS */
#define READS_MAX          256 /* of those that rested, before the loop comes round */

struct http {
    CURLM *multi;
    uv_timer_t curl_timer;  /* as libcurl asks for */
    uv_timer_t check_timer; /* runs while anything is in flight: our own time-outs */
    uv_timer_t drain_timer; /* fires when `ended` is not empty, or a call is to be resumed */
    uv_timer_t rest_timer;  /* runs to the first of `resting` */
    struct list active;     /* struct http_call.node */
    struct list ended;      /* ended by us, not answered yet */
    struct list resting;    /* struct http_watch.rest, the first due first */
    size_t streams;         /* calls that have on_data */
    bool told;              /* in the read at hand a stream has told something */
    int open_handles;
};

/* One socket of libcurl's. */
struct http_watch {
    uv_poll_t poll;
    struct http *http;
    curl_socket_t fd;
    int events;       /* that libcurl waits for */
    struct list rest; /* http->resting */
    uint64_t due_ms;  /* then it is read again */
};

static void on_check(uv_timer_t *timer);

static void http_answer(struct http_call *call, const struct err *err)
{
    struct http *http = call->http;
    struct err copy = *err;

    list_remove(&call->node);
    http->streams -= call->on_data != NULL;
    if (list_is_empty(&http->active))
        uv_timer_stop(&http->check_timer);
    curl_easy_cleanup(call->easy);
    call->easy = NULL;
    curl_slist_free_all(call->headers);
    call->headers = NULL;
    call->done(call->owner, &copy);
}

static enum err_code err_code_of(CURLcode result)
{
    switch (result) {
    case CURLE_OPERATION_TIMEDOUT:
        return ERR_TIMEOUT;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return ERR_INVALID;
    default:
        return ERR_UNAVAILABLE;
    }
}

/* Answer what libcurl has finished. */
static void http_collect(struct http *http)
{
    struct http_call *call;
    struct err err;
    CURLMsg *msg;
    int left;

    while ((msg = curl_multi_info_read(http->multi, &left))) {
        CURLcode result = msg->data.result;

        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        curl_multi_remove_handle(http->multi, call->easy); /* `msg` is gone now */
        err = (struct err){0};
        if (call->err.code != ERR_OK)
            err = call->err;
        else if (result != CURLE_OK)
            err_set(&err, err_code_of(result), "http: %.200s",
                    call->reason[0] ? call->reason : curl_easy_strerror(result));
        http_answer(call, &err);
    }
}

/* Let libcurl act on `fd` (or on its timer), then answer what has finished. */
static void http_perform(struct http *http, curl_socket_t fd, int events)
{
    int running;

    curl_multi_socket_action(http->multi, fd, events, &running);
    http_collect(http);
}

static void on_curl_timer(uv_timer_t *timer)
{
    http_perform(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

uint64_t http_lull_ms(const struct http *http)
{
    size_t many = http->streams > MANY_STREAMS ? http->streams - MANY_STREAMS : 0;

    if (http->streams <= FEW_STREAMS)
        return 0;
    return (http->streams - many) / STREAMS_PER_MS + many / MANY_PER_MS;
}

static void on_socket(uv_poll_t *poll, int status, int events);
static void on_rest(uv_timer_t *timer);

/* Something happened on the socket of `watch`: tell libcurl, then wait for the next. The watch may
 * be closed by that, but is not freed before the loop comes round. */
static void watch_perform(struct http_watch *watch, int flags)
{
    struct http *http = watch->http;
    uint64_t lull_ms;
    bool rested = !list_is_empty(&watch->rest);

    list_remove(&watch->rest);
    http->told = false;
    http_perform(http, watch->fd, flags);
    if (uv_is_closing((uv_handle_t *)&watch->poll))
        return;
    lull_ms = http->told && watch->events == UV_READABLE ? http_lull_ms(http) : 0;
    if (lull_ms == 0) {
        if (rested)
            uv_poll_start(&watch->poll, watch->events, on_socket);
        return;
    }
    if (!rested)
        uv_poll_stop(&watch->poll);
    watch->due_ms = clock_mono_ms() + lull_ms;
    list_append(&http->resting, &watch->rest);
    if (!uv_is_active((uv_handle_t *)&http->rest_timer))
        uv_timer_start(&http->rest_timer, on_rest, lull_ms, 0);
}

static void on_rest(uv_timer_t *timer)
{
    struct http *http = timer->data;
    uint64_t now_ms = clock_mono_ms();
    struct http_watch *watch = NULL;

    for (int n = 0; n < READS_MAX && !list_is_empty(&http->resting); n++) {
        watch = container_of(http->resting.next, struct http_watch, rest);
        if (watch->due_ms > now_ms)
            break;
        watch_perform(watch, CURL_CSELECT_IN);
    }
    if (list_is_empty(&http->resting))
        return;
    watch = container_of(http->resting.next, struct http_watch, rest);
    uv_timer_start(timer, on_rest, watch->due_ms > now_ms ? watch->due_ms - now_ms : 0, 0);
}

static void on_socket(uv_poll_t *poll, int status, int events)
{
    int flags = 0;

    if (status < 0) /* let libcurl read the reason off the socket itself */
        flags = CURL_CSELECT_IN | CURL_CSELECT_OUT;
    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    watch_perform(poll->data, flags);
}

static void on_watch_closed(uv_handle_t *handle)
{
    free(handle->data);
}

/* libcurl wants to wait for something else on `fd`. */
static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *http_ptr, void *watch_ptr)
{
    struct http *http = http_ptr;
    struct http_watch *watch = watch_ptr;
    int events = 0;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (watch) {
            list_remove(&watch->rest);
            uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
        }
        curl_multi_assign(http->multi, fd, NULL);
        return 0;
    }
    if (!watch) {
        watch = xcalloc(1, sizeof(*watch));
        watch->http = http;
        watch->fd = fd;
        watch->poll.data = watch;
        list_init(&watch->rest);
        if (uv_poll_init_socket(http->curl_timer.loop, &watch->poll, fd) < 0) {
            free(watch);
            return -1;
        }
        curl_multi_assign(http->multi, fd, watch);
    }
    if (what & CURL_POLL_IN)
        events |= UV_READABLE;
    if (what & CURL_POLL_OUT)
        events |= UV_WRITABLE;
    watch->events = events;
    if (events == UV_READABLE && !list_is_empty(&watch->rest))
        return 0; /* it is read when it has rested */
    list_remove(&watch->rest);
    uv_poll_start(&watch->poll, events, on_socket);
    return 0;
}

/* libcurl wants to be woken later, and must not be called from here. */
static int on_curl_timeout(CURLM *multi, long timeout_ms, void *http_ptr)
{
    struct http *http = http_ptr;

    (void)multi;
    if (timeout_ms < 0)
        uv_timer_stop(&http->curl_timer);
    else
        uv_timer_start(&http->curl_timer, on_curl_timer, (uint64_t)timeout_ms, 0);
    return 0;
}

static void on_drain(uv_timer_t *timer)
{
    struct http *http = timer->data;

    while (!list_is_empty(&http->ended)) {
        struct http_call *call = container_of(http->ended.next, struct http_call, node);

        http_answer(call, &call->err);
    }
    list_foreach_safe (n, &http->active) {
        struct http_call *call = container_of(n, struct http_call, node);

        if (!call->resuming)
            continue;
        call->resuming = false;
        (void)curl_easy_pause(call->easy, CURLPAUSE_CONT); /* what is wrong is told by its result */
    }
}

/* End a call from outside libcurl: its socket is closed now, `done` comes from the loop. */
static void http_end_call(struct http_call *call)
{
    struct http *http = call->http;

    curl_multi_remove_handle(http->multi, call->easy);
    list_remove(&call->node);
    list_append(&http->ended, &call->node);
    uv_timer_start(&http->drain_timer, on_drain, 0, 0);
}

/* What has run out for `call` at `now_ms`, or NULL. */
static const char *http_overdue(const struct http_call *call, uint64_t now_ms)
{
    const struct http_timeouts *t = &call->timeouts;
    bool started = call->status != 0;

    if (call->paused)
        return NULL;
    if (t->total_ms && now_ms - call->started_ms >= t->total_ms)
        return "the whole answer";
    if (t->first_byte_ms && !started && now_ms - call->started_ms >= t->first_byte_ms)
        return "the first byte";
    if (t->idle_ms && started && now_ms - call->last_ms >= t->idle_ms)
        return "the next bytes";
    return NULL;
}

static void on_check(uv_timer_t *timer)
{
    struct http *http = timer->data;
    uint64_t now_ms = clock_mono_ms();
    const char *what;

    list_foreach_safe (n, &http->active) {
        struct http_call *call = container_of(n, struct http_call, node);

        if ((what = http_overdue(call, now_ms))) {
            err_set(&call->err, ERR_TIMEOUT, "http: time-out waiting for %s", what);
            http_end_call(call);
        }
    }
}

static size_t on_body(char *bytes, size_t size, size_t n, void *call_ptr)
{
    struct http_call *call = call_ptr;
    size_t len = size * n;

    if (call->paused)
        return CURL_WRITEFUNC_PAUSE; /* these bytes come again when it is resumed */
    call->http->told = call->http->told || call->on_data;
    call->last_ms = clock_mono_ms();
    call->received_bytes += len;
    if (call->received_bytes > call->max_reply_bytes) {
        err_set(&call->err, ERR_INVALID, "http: the answer is larger than %zu bytes",
                call->max_reply_bytes);
        return 0;
    }
    if (!call->on_data) {
        (void)buf_append(&call->reply, bytes, len); /* its limit is the one checked above */
    } else if (call->on_data(call->owner, bytes, len) < 0) {
        err_set(&call->err, ERR_CANCELED, "http: ended by its owner");
        return 0;
    }
    return len;
}

static bool header_is(const char *line, size_t len, const char *name, char *ret_value, size_t size)
{
    size_t name_len = strlen(name);

    if (len <= name_len || strncasecmp(line, name, name_len) != 0 || line[name_len] != ':')
        return false;
    line += name_len + 1;
    len -= name_len + 1;
    while (len > 0 && (*line == ' ' || *line == '\t'))
        line++, len--;
    while (len > 0 && strchr(" \t\r\n", line[len - 1]))
        len--;
    if (len >= size)
        len = size - 1;
    memcpy(ret_value, line, len);
    ret_value[len] = '\0';
    return true;
}

/* Seconds, or an HTTP date; -1 when it is neither. */
static int64_t parse_retry_after(const char *value)
{
    char *end;
    double seconds = strtod(value, &end);
    time_t at;

    if (end != value && !*end && seconds >= 0 && seconds < 1e7)
        return (int64_t)(seconds * 1000);
    at = curl_getdate(value, NULL);
    if (at < 0)
        return -1;
    return (int64_t)at * 1000 > clock_wall_us() / 1000 ? (int64_t)at * 1000 - clock_wall_us() / 1000
                                                       : 0;
}

static size_t on_header(char *line, size_t size, size_t n, void *call_ptr)
{
    struct http_call *call = call_ptr;
    size_t len = size * n;
    char value[64];

    call->last_ms = clock_mono_ms();
    if (len >= 5 && !memcmp(line, "HTTP/", 5)) {
        curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &call->status);
        if (call->status < 200)
            call->status = 0; /* 100 Continue is no answer yet */
        call->retry_after_ms = -1;
        call->content_type[0] = '\0';
    } else if (header_is(line, len, "retry-after-ms", value, sizeof(value))) {
        call->retry_after_ms = (int64_t)strtoll(value, NULL, 10);
    } else if (header_is(line, len, "retry-after", value, sizeof(value))) {
        if (call->retry_after_ms < 0)
            call->retry_after_ms = parse_retry_after(value);
    } else {
        (void)header_is(line, len, "content-type", call->content_type, sizeof(call->content_type));
    }
    return len;
}

struct http *http_new(uv_loop_t *loop)
{
    struct http *http = xcalloc(1, sizeof(*http));

    if (curl_global_init(CURL_GLOBAL_ALL) != 0 || !(http->multi = curl_multi_init()))
        abort();
    list_init(&http->active);
    list_init(&http->ended);
    list_init(&http->resting);
    uv_timer_init(loop, &http->curl_timer);
    uv_timer_init(loop, &http->check_timer);
    uv_timer_init(loop, &http->drain_timer);
    uv_timer_init(loop, &http->rest_timer);
    http->rest_timer.data = http;
    http->curl_timer.data = http->check_timer.data = http->drain_timer.data = http;
    http->open_handles = 4;
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, on_curl_timeout);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
    curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, 4096L);
    return http;
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct http *http = handle->data;

    if (--http->open_handles == 0)
        free(http);
}

void http_close(struct http *http)
{
    if (!http)
        return;
    assert(list_is_empty(&http->active) && list_is_empty(&http->ended));
    curl_multi_cleanup(http->multi);
    curl_global_cleanup();
    uv_close((uv_handle_t *)&http->curl_timer, on_timer_closed);
    uv_close((uv_handle_t *)&http->check_timer, on_timer_closed);
    uv_close((uv_handle_t *)&http->drain_timer, on_timer_closed);
    uv_close((uv_handle_t *)&http->rest_timer, on_timer_closed);
}

static void set_request(struct http_call *call, const struct http_request *request)
{
    CURL *easy = call->easy;
    uint64_t connect_ms = request->timeouts.connect_ms;

    /* Without this libcurl waits a second for "100 Continue" before larger bodies. */
    call->headers = curl_slist_append(NULL, "Expect:");
    for (const char *const *h = request->headers; h && *h; h++)
        call->headers = curl_slist_append(call->headers, *h);
    curl_easy_setopt(easy, CURLOPT_URL, request->url);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers);
    if (request->body) {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_len);
    }
    if (request->method)
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                     (long)(connect_ms ? connect_ms : DEFAULT_CONNECT_MS));
}

void http_start(struct http *http, struct http_call *call, const struct http_request *request,
                http_done_fn *done, void *owner)
{
    CURL *easy = curl_easy_init();

    if (!easy)
        abort();
    *call = (struct http_call){
        .http = http,
        .easy = easy,
        .retry_after_ms = -1,
        .reply = BUF_INIT(request->max_reply_bytes),
        .max_reply_bytes = request->max_reply_bytes,
        .timeouts = request->timeouts,
        .started_ms = clock_mono_ms(),
        .last_ms = clock_mono_ms(),
        .on_data = request->on_data,
        .done = done,
        .owner = owner,
    };
    set_request(call, request);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "nocturne/" NOCTURNE_VERSION);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, call);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->reason);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
    if (list_is_empty(&http->active))
        uv_timer_start(&http->check_timer, on_check, CHECK_MS, CHECK_MS);
    list_append(&http->active, &call->node);
    http->streams += call->on_data != NULL;
    if (curl_multi_add_handle(http->multi, easy) != CURLM_OK)
        abort();
}

void http_cancel(struct http_call *call)
{
    if (!call->easy || call->err.code != ERR_OK)
        return;
    err_set(&call->err, ERR_CANCELED, "http: canceled");
    http_end_call(call);
}

void http_pause(struct http_call *call)
{
    if (!call->easy || call->paused)
        return;
    call->paused = true;
    call->paused_ms = clock_mono_ms();
}

void http_resume(struct http_call *call)
{
    uint64_t paused_for_ms;

    if (!call->easy || !call->paused)
        return;
    paused_for_ms = clock_mono_ms() - call->paused_ms;
    call->paused = false;
    call->resuming = true;
    call->started_ms += paused_for_ms;
    call->last_ms += paused_for_ms;
    uv_timer_start(&call->http->drain_timer, on_drain, 0, 0);
}

void http_call_release(struct http_call *call)
{
    if (call->reply.data)
        buf_release(&call->reply);
}
