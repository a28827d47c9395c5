#include "pointer.h"

#include "mem.h"

#include <stdlib.h>
#include <string.h>

static int put_token(struct buf *out, const char *key)
{
    int rc = buf_putc(out, '/');

    while (rc == 0 && *key) {
        size_t plain = strcspn(key, "~/");

        rc = buf_append(out, key, plain);
        key += plain;
        if (rc == 0 && *key)
            rc = buf_puts(out, *key++ == '~' ? "~0" : "~1");
    }
    return rc;
}

int pointer_put(struct buf *out, const struct pointer *at)
{
    if (!at)
        return 0;
    if (pointer_put(out, at->up) < 0)
        return -1;
    return at->key ? put_token(out, at->key) : buf_printf(out, "/%zu", at->index);
}

char *pointer_token(const char **text)
{
    const char *p = *text;
    size_t len;
    char *token, *w;

    if (*p != '/')
        return NULL;
    len = strcspn(++p, "/");
    w = token = xmemdup(p, len);
    for (const char *end = p + len; p < end; p++) {
        if (*p != '~') {
            *w++ = *p;
        } else if (p[1] == '0' || p[1] == '1') {
            *w++ = *++p == '0' ? '~' : '/';
        } else {
            free(token);
            return NULL;
        }
    }
    *w = '\0';
    *text = p;
    return token;
}
