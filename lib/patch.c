/*
 * The diff walks both documents at once and never compares a subtree before it goes down into it,
 * so it is linear but for the sorting of member names, whatever a model puts into the state.
 * Applying works on a copy of the document and gives up on it at the first operation that fails.
 */
#include "patch.h"

#include "mem.h"
#include "pointer.h"

#include <stdlib.h>
#include <string.h>

struct member {
    const cJSON *item;
    size_t place; /* in its object, from 0 */
};

/* The members of an object by name: looking up each of n members in a cJSON list costs n * n. */
struct index {
    struct member *members; /* sorted; of equal names the first alone */
    size_t n;
};

static int by_name_and_place(const void *a, const void *b)
{
    const struct member *x = a, *y = b;
    int order = strcmp(x->item->string, y->item->string);

    return order ? order : (x->place > y->place) - (x->place < y->place);
}

static void index_init(struct index *index, const cJSON *object)
{
    size_t n = cJSON_IsObject(object) ? (size_t)cJSON_GetArraySize(object) : 0, i = 0;
    struct member *members = xcalloc(n + 1, sizeof(*members));
    const cJSON *item = n ? object->child : NULL;

    *index = (struct index){members, 0};
    for (; item; item = item->next, i++)
        members[i] = (struct member){item, i};
    qsort(members, n, sizeof(*members), by_name_and_place);
    for (i = 0; i < n; i++)
        if (index->n == 0 ||
            strcmp(members[index->n - 1].item->string, members[i].item->string) != 0)
            members[index->n++] = members[i];
}

static void index_release(struct index *index)
{
    free(index->members);
}

#define INDEX_AUTO(name) __attribute__((cleanup(index_release))) struct index name

static int by_name(const void *name, const void *member)
{
    return strcmp(name, ((const struct member *)member)->item->string);
}

static const cJSON *index_find(const struct index *index, const char *name)
{
    const struct member *found =
        bsearch(name, index->members, index->n, sizeof(*index->members), by_name);

    return found ? found->item : NULL;
}

/* cJSON gives NULL when memory is out, which aborts here as it does everywhere. */
static cJSON *must(cJSON *item)
{
    if (!item)
        abort();
    return item;
}

static cJSON *copy_of(const cJSON *item)
{
    return must(cJSON_Duplicate(item, true));
}

static int put_op(struct buf *out, const char *op, const struct pointer *at, const char *suffix,
                  const cJSON *value)
{
    BUF_AUTO(path, BUF_MAX);
    char *text = value ? json_print(value) : NULL;
    int rc = 0;

    rc |= pointer_put(&path, at);
    rc |= buf_puts(&path, suffix);
    rc |= json_open(out, '{');
    rc |= json_put_member_str(out, "op", op);
    rc |= json_put_member_str(out, "path", path.data);
    rc |= json_put_member_raw(out, "value", text);
    rc |= json_close(out, '}');
    free(text);
    return rc;
}

static bool is_same_scalar(const cJSON *a, const cJSON *b)
{
    int type = a->type & 0xFF;

    if (type != (b->type & 0xFF))
        return false;
    if (type == cJSON_String)
        return !strcmp(a->valuestring, b->valuestring);
    return type != cJSON_Number || a->valuedouble == b->valuedouble;
}

static int diff(const cJSON *from, const cJSON *to, const struct pointer *at, struct buf *out);

static int diff_objects(const cJSON *from, const cJSON *to, const struct pointer *at,
                        struct buf *out)
{
    INDEX_AUTO(old);
    INDEX_AUTO(new);
    const cJSON *item;
    int rc = 0;

    index_init(&old, from);
    index_init(&new, to);
    for (size_t i = 0; i < old.n && rc == 0; i++) {
        const char *name = old.members[i].item->string;

        if (!index_find(&new, name))
            rc = put_op(out, "remove", POINTER_KEY(at, name), "", NULL);
    }
    /* In the order of `to`, so that applying it builds the document as it was written. */
    for (item = to->child; item && rc == 0; item = item->next) {
        const struct pointer *here = POINTER_KEY(at, item->string);
        const cJSON *before = index_find(&old, item->string);

        if (index_find(&new, item->string) != item)
            continue; /* given twice: the first counts */
        rc = before ? diff(before, item, here, out) : put_op(out, "add", here, "", item);
    }
    return rc;
}

static int diff_arrays(const cJSON *from, const cJSON *to, const struct pointer *at,
                       struct buf *out)
{
    const cJSON *a = from->child, *b = to->child;
    size_t i = 0, surplus = 0;
    int rc = 0;

    for (; a && b && rc == 0; a = a->next, b = b->next, i++)
        rc = diff(a, b, POINTER_INDEX(at, i), out);
    for (; b && rc == 0; b = b->next)
        rc = put_op(out, "add", at, "/-", b);
    for (; a; a = a->next)
        surplus++;
    while (surplus-- > 0 && rc == 0)
        rc = put_op(out, "remove", POINTER_INDEX(at, i + surplus), "", NULL);
    return rc;
}

static int diff(const cJSON *from, const cJSON *to, const struct pointer *at, struct buf *out)
{
    if (cJSON_IsObject(from) && cJSON_IsObject(to))
        return diff_objects(from, to, at, out);
    if (cJSON_IsArray(from) && cJSON_IsArray(to))
        return diff_arrays(from, to, at, out);
    return is_same_scalar(from, to) ? 0 : put_op(out, "replace", at, "", to);
}

int patch_diff(const cJSON *from, const cJSON *to, struct buf *out)
{
    size_t start = out->len;
    int rc = json_open(out, '[');

    if (rc == 0)
        rc = from ? diff(from, to, NULL, out) : put_op(out, "replace", NULL, "", to);
    if (rc == 0)
        rc = json_close(out, ']');
    if (rc < 0)
        buf_truncate(out, start);
    return rc;
}

/* A document being patched, and what is left of the work allowed. */
struct applying {
    cJSON *root; /* NULL: there is none */
    long budget;
    struct err *err;
};

/* Where an operation acts: the member `token` of `parent`, or the whole document. */
struct target {
    cJSON *parent; /* NULL: the document itself */
    cJSON *item;   /* NULL: nothing is there yet */
    char *token;
    int index; /* in an array; its length for one behind the last */
    int depth; /* tokens in the path */
};

static void target_release(struct target *target)
{
    free(target->token);
    target->token = NULL;
}

#define TARGET_AUTO(name) __attribute__((cleanup(target_release))) struct target name = {0}

/* "0", "17", not "01" nor "-1"; "-" is one behind the last. -1 when it is none of an array of n. */
static int array_index(const char *token, int n)
{
    char *end;
    unsigned long index;

    if (!strcmp(token, "-"))
        return n;
    if (!*token || strspn(token, "0123456789") != strlen(token) || strlen(token) > 9 ||
        (*token == '0' && token[1]))
        return -1;
    index = strtoul(token, &end, 10);
    return index <= (unsigned long)n ? (int)index : -1;
}

/* One step down: what is called `target->token` in `target->parent`. */
static int target_step(struct target *target)
{
    if (cJSON_IsObject(target->parent)) {
        target->item = cJSON_GetObjectItemCaseSensitive(target->parent, target->token);
        return 0;
    }
    if (!cJSON_IsArray(target->parent))
        return -1;
    target->index = array_index(target->token, cJSON_GetArraySize(target->parent));
    if (target->index < 0)
        return -1;
    target->item = cJSON_GetArrayItem(target->parent, target->index);
    return 0;
}

static int target_find(struct applying *a, const char *path, struct target *target)
{
    const char *p = path;

    target->item = a->root;
    while (*p) {
        target_release(target);
        target->parent = target->item;
        target->token = pointer_token(&p);
        if (!target->token)
            return err_set(a->err, ERR_INVALID, "\"%.100s\" is not a JSON pointer", path);
        if (!target->parent || target_step(target) < 0)
            return err_set(a->err, ERR_INVALID, "there is no place \"%.100s\"", path);
        if (++target->depth > PATCH_MAX_DEPTH)
            return err_set(a->err, ERR_INVALID, "the path is too deep");
    }
    return 0;
}

static int target_find_item(struct applying *a, const char *path, struct target *target)
{
    if (target_find(a, path, target) < 0)
        return -1;
    if (!target->item)
        return err_set(a->err, ERR_INVALID, "there is nothing at \"%.100s\"", path);
    return 0;
}

/*
 * May `value` stand at `depth`? `price` is charged for each value in it: 1 for what copies and
 * moves handle, because a few copies of copies would otherwise fill the memory; 0 for what the
 * patch brings itself. Without the depth, moves could pile a document up until printing it
 * overflows the stack.
 */
static bool is_affordable(struct applying *a, const cJSON *value, int depth, int price)
{
    const cJSON *item;

    a->budget -= price;
    if (depth > PATCH_MAX_DEPTH || a->budget < 0)
        return false;
    cJSON_ArrayForEach (item, value) {
        if (!is_affordable(a, item, depth + 1, price))
            return false;
    }
    return true;
}

/* Take what is at `target` out of the document; it is the caller's then. */
static cJSON *detach(struct applying *a, const struct target *target)
{
    if (target->parent)
        return cJSON_DetachItemViaPointer(target->parent, target->item);
    a->root = NULL;
    return target->item;
}

/*
 * cJSON 1.7.17, and 1.7.15 as Debian patches it, refuse an item whose `prev` is NULL anywhere but
 * at the front (their check for CVE-2023-50471 looks at the wrong item). It is overwritten at once.
 */
static void insert(cJSON *array, int index, cJSON *value)
{
    value->prev = value;
    if (!cJSON_InsertItemInArray(array, index, value))
        abort();
}

/* Put `value` at `target` as `add` does: before an element, over a member. Owns `value`. */
static void attach(struct applying *a, const struct target *target, cJSON *value)
{
    if (!target->parent) {
        cJSON_Delete(a->root);
        a->root = value;
    } else if (cJSON_IsArray(target->parent)) {
        if (target->item)
            insert(target->parent, target->index, value);
        else
            cJSON_AddItemToArray(target->parent, value);
    } else {
        if (target->item)
            cJSON_Delete(detach(a, target));
        if (!cJSON_AddItemToObject(target->parent, target->token, value))
            abort();
    }
}

static int op_add(struct applying *a, const char *path, const cJSON *value, int price)
{
    TARGET_AUTO(target);

    if (target_find(a, path, &target) < 0)
        return -1;
    if (!is_affordable(a, value, target.depth, price))
        return err_set(a->err, ERR_INVALID, "the document would become too large");
    attach(a, &target, copy_of(value));
    return 0;
}

static int op_remove(struct applying *a, const char *path)
{
    TARGET_AUTO(target);

    if (target_find_item(a, path, &target) < 0)
        return -1;
    cJSON_Delete(detach(a, &target));
    return 0;
}

static int op_replace(struct applying *a, const char *path, const cJSON *value)
{
    TARGET_AUTO(target);
    cJSON *copy;

    /* The first patch of a turn replaces a document that may not exist. */
    if (*path ? target_find_item(a, path, &target) < 0 : target_find(a, path, &target) < 0)
        return -1;
    if (!is_affordable(a, value, target.depth, 0))
        return err_set(a->err, ERR_INVALID, "the document would become too large");
    copy = copy_of(value);
    if (!target.parent) {
        attach(a, &target, copy);
        return 0;
    }
    free(copy->string); /* it was called "value" */
    copy->string = cJSON_IsObject(target.parent) ? xstrdup(target.token) : NULL;
    if (!cJSON_ReplaceItemViaPointer(target.parent, target.item, copy))
        abort();
    return 0;
}

static int op_copy(struct applying *a, const char *from, const char *path)
{
    TARGET_AUTO(source);

    if (target_find_item(a, from, &source) < 0)
        return -1;
    return op_add(a, path, source.item, 1);
}

static int op_move(struct applying *a, const char *from, const char *path)
{
    TARGET_AUTO(source);
    TARGET_AUTO(target);
    size_t len = strlen(from);
    cJSON *value;

    if (target_find_item(a, from, &source) < 0)
        return -1;
    if (!strcmp(from, path))
        return 0;
    if (!strncmp(from, path, len) && path[len] == '/')
        return err_set(a->err, ERR_INVALID, "\"%.100s\" cannot move into itself", from);
    /* The path is that of the document without the value, so it is taken out before. */
    value = detach(a, &source);
    if (target_find(a, path, &target) < 0) {
        cJSON_Delete(value);
        return -1;
    }
    if (!is_affordable(a, value, target.depth, 1)) {
        cJSON_Delete(value);
        return err_set(a->err, ERR_INVALID, "the document would become too large");
    }
    attach(a, &target, value);
    return 0;
}

/* Room for "[]" alone: the first difference does not fit. Unlike cJSON_Compare() not quadratic. */
static bool is_same(const cJSON *x, const cJSON *y)
{
    BUF_AUTO(none, 2);

    return patch_diff(x, y, &none) == 0;
}

static int op_test(struct applying *a, const char *path, const cJSON *value)
{
    TARGET_AUTO(target);

    if (target_find_item(a, path, &target) < 0)
        return -1;
    if (!is_same(target.item, value))
        return err_set(a->err, ERR_INVALID, "the value at \"%.100s\" is another", path);
    return 0;
}

static int apply_op(struct applying *a, const cJSON *operation)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(operation, "value");
    const char *op, *path, *from = json_str_or(operation, "from", NULL);

    if (json_str(operation, "op", &op, a->err) < 0 ||
        json_str(operation, "path", &path, a->err) < 0)
        return -1;
    if (!strcmp(op, "remove"))
        return op_remove(a, path);
    if (!strcmp(op, "move") || !strcmp(op, "copy")) {
        if (!from)
            return err_set(a->err, ERR_INVALID, "\"from\" must be a string");
        return *op == 'm' ? op_move(a, from, path) : op_copy(a, from, path);
    }
    if (!value)
        return err_set(a->err, ERR_INVALID, "\"value\" is missing");
    if (!strcmp(op, "add"))
        return op_add(a, path, value, 0);
    if (!strcmp(op, "replace"))
        return op_replace(a, path, value);
    if (!strcmp(op, "test"))
        return op_test(a, path, value);
    return err_set(a->err, ERR_INVALID, "\"%.20s\" is not an operation", op);
}

cJSON *patch_apply(const cJSON *doc, const cJSON *patch, struct err *err)
{
    struct err why = {0};
    struct applying a = {doc ? copy_of(doc) : NULL, PATCH_MAX_NODES, &why};
    const cJSON *operation;
    size_t i = 0;
    int rc = 0;

    if (!cJSON_IsArray(patch))
        rc = err_set(err, ERR_INVALID, "a patch must be an array");
    for (operation = rc == 0 ? patch->child : NULL; operation; operation = operation->next, i++) {
        rc = apply_op(&a, operation);
        if (rc < 0) {
            err_set(err, ERR_INVALID, "operation %zu: %s", i, why.msg);
            break;
        }
    }
    if (rc == 0 && !a.root)
        rc = err_set(err, ERR_INVALID, "the patch leaves no document");
    if (rc == 0)
        return a.root;
    cJSON_Delete(a.root);
    return NULL;
}

cJSON *patch_merge_shallow(const cJSON *base, const cJSON *changes)
{
    INDEX_AUTO(kept);
    INDEX_AUTO(changed);
    cJSON *merged = must(cJSON_CreateObject());
    const cJSON *item, *change;

    index_init(&kept, base);
    index_init(&changed, changes);
    for (item = kept.n ? base->child : NULL; item; item = item->next) {
        change = index_find(&changed, item->string);
        if (index_find(&kept, item->string) != item || cJSON_IsNull(change))
            continue;
        cJSON_AddItemToObject(merged, item->string, copy_of(change ? change : item));
    }
    for (item = changed.n ? changes->child : NULL; item; item = item->next) {
        if (index_find(&changed, item->string) != item || cJSON_IsNull(item) ||
            index_find(&kept, item->string))
            continue;
        cJSON_AddItemToObject(merged, item->string, copy_of(item));
    }
    return merged;
}
