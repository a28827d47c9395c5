#include "page.h"

#include "reply.h"
#include "store_task.h"

#include <ctype.h>
#include <string.h>

#define PAGE_MAX 200

static void page_keep(struct page *page, const char *name, const char *value)
{
    if (!value)
        return;
    (void)buf_printf(&page->next, "%s=", name);
    for (; *value; value++) {
        if (isalnum((unsigned char)*value) || strchr("._:-", *value))
            (void)buf_putc(&page->next, *value);
        else
            (void)buf_printf(&page->next, "%%%02X", (unsigned char)*value);
    }
    (void)buf_putc(&page->next, '&');
}

int page_init(struct page *page, struct request *r, const char *name, const char *cursor)
{
    struct err err;

    *page = (struct page){.limit = PAGE_LIMIT, .name = name, .cursor = cursor};
    buf_init(&page->next, BUF_MAX);
    if (query_int(&r->query, "limit", 1, PAGE_MAX, &page->limit, &err) < 0) {
        reply_fault(r, FAULT_INVALID_REQUEST, "%s", err.msg);
        return -1;
    }
    (void)buf_printf(&page->next, "%s?", r->http->path);
    page_keep(page, "limit", query_get(&r->query, "limit"));
    return 0;
}

void page_release(struct page *page)
{
    buf_release(&page->next);
}

static void page_reply(struct page *page, struct request *r, PGresult *res)
{
    BUF_AUTO(out, BUF_MAX);
    int rows = store_rows(res), shown = rows > page->limit ? (int)page->limit : rows;
    int last = shown - 1; /* before which the next page begins */
    int rc = json_open(&out, '{');

    rc |= json_put_key(&out, page->name);
    rc |= json_open(&out, '[');
    for (int i = 0; i < shown; i++) {
        const char *item = store_read_item(res, i);

        if (item)
            rc |= json_put_raw(&out, item, strlen(item));
        else
            shown = last = i; /* it ends early */
    }
    rc |= json_close(&out, ']');
    if (rows > shown) {
        page_keep(page, page->cursor, store_read_key(res, last));
        buf_truncate(&page->next, page->next.len - 1);
        rc |= json_put_member_str(&out, "next", page->next.data);
    }
    rc |= json_close(&out, '}');
    if (rc < 0)
        reply_fault(r, FAULT_PAYLOAD_TOO_LARGE, "the page is too large; ask for fewer with limit");
    else
        reply_json(r, 200, out.data, out.len);
}

void page_answer(struct request *r, const char *name, const char *cursor, PGresult *res,
                 const struct err *err)
{
    static const char *const filters[] = {"status", "agent", "session_id", "tenant"};
    struct page page;

    if (err->code != ERR_OK) {
        reply_err(r, err);
        return;
    }
    if (page_init(&page, r, name, cursor) < 0)
        return;
    for (size_t i = 0; i < sizeof(filters) / sizeof(*filters); i++)
        page_keep(&page, filters[i], query_get(&r->query, filters[i]));
    page_reply(&page, r, res);
    page_release(&page);
}
