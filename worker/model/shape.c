#include "shape.h"

#include "json.h"

#include <string.h>

#define MAX_BYTES 1024 /* of what is kept a call; larger ones are parsed each time */

void shape_init(struct shape *shape)
{
    buf_init(&shape->around, MAX_BYTES);
    shape->head = 0;
}

void shape_release(struct shape *shape)
{
    buf_release(&shape->around);
}

void shape_learn(struct shape *shape, const char *data, size_t data_len, const char *text,
                 size_t len)
{
    size_t head = (size_t)(text - data), tail = data_len - head - len;

    buf_reset(&shape->around);
    /* A name that is escaped before the text could be the one that the parser took it by. */
    if (head + tail > MAX_BYTES || memchr(data, '\\', head))
        return;
    shape->head = head;
    (void)buf_append(&shape->around, data, head);
    (void)buf_append(&shape->around, text + len, tail);
}

bool shape_match(const struct shape *shape, const char *data, size_t data_len,
                 const char **ret_text, size_t *ret_len)
{
    size_t head = shape->head, tail = shape->around.len - head;

    if (shape->around.len == 0 || data_len < head + tail ||
        memcmp(data, shape->around.data, head) != 0 ||
        memcmp(data + data_len - tail, shape->around.data + head, tail) != 0)
        return false;
    *ret_text = data + head;
    *ret_len = data_len - head - tail;
    return json_is_plain(*ret_text, *ret_len);
}
