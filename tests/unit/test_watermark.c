#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "watermark.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* A `ready` with transactions that commit and roll back in any order, as its claims see it. */
#define ROWS 4096
#define TXS  4096

enum fate { UNDER_WAY, COMMITTED, ROLLED_BACK };

struct row {
    int64_t seq;
    int priority, maker; /* transaction */
    int holder;          /* transaction that deletes it, -1: none */
};

static struct row rows[ROWS];
static enum fate txs[TXS]; /* by id − 1 */
static int nrows, ntxs;
static int64_t newest;
static uint64_t now_ms;
static unsigned seed;

static unsigned any(unsigned n)
{
    seed = seed * 1103515245u + 12345u;
    return (seed >> 8) % n;
}

static void setup(unsigned s)
{
    nrows = ntxs = 0;
    newest = 0;
    now_ms = 1000;
    seed = s;
}

static int begin(void)
{
    assert_true(ntxs < TXS);
    txs[ntxs] = UNDER_WAY;
    return ntxs++;
}

static void put(int tx, int priority)
{
    assert_true(nrows < ROWS);
    rows[nrows++] = (struct row){.seq = ++newest, .priority = priority, .maker = tx, .holder = -1};
}

static bool is_free(const struct row *r)
{
    return txs[r->maker] == COMMITTED && (r->holder < 0 || txs[r->holder] == ROLLED_BACK);
}

static bool is_visible(const struct row *r)
{
    return txs[r->maker] == COMMITTED && (r->holder < 0 || txs[r->holder] != COMMITTED);
}

static bool is_in(const struct row *r, const struct claim_ranges *ranges, int i)
{
    return r->priority >= ranges->range[i].first && r->priority < ranges->range[i].below &&
           (r->priority > ranges->range[i].first || r->seq >= ranges->range[i].from);
}

static const struct row *first_of(const struct claim_ranges *ranges, int i)
{
    const struct row *found = NULL;

    for (int k = 0; k < nrows; k++)
        if (is_in(&rows[k], ranges, i) && is_visible(&rows[k]) &&
            (!found || rows[k].priority < found->priority))
            found = &rows[k];
    return found;
}

static int walked; /* by the last claim, over rows that are gone */

/* What turn_claim does. Returns how many it took. */
static int claim(struct watermark *m, int limit)
{
    char snapshot[65536], first[512] = "";
    struct claim_ranges ranges;
    struct claim_view view = {.newest = newest, .snapshot = snapshot, .first = first};
    bool ask = watermark_ranges(m, now_ms, &ranges);
    size_t len = (size_t)snprintf(snapshot, sizeof(snapshot), "1:%d:", ntxs + 1);
    int taken = 0, tx;

    walked = 0;
    for (int t = 0; t < ntxs; t++)
        if (txs[t] == UNDER_WAY)
            len += (size_t)snprintf(snapshot + len, sizeof(snapshot) - len, "%s%d",
                                    snapshot[len - 1] == ':' ? "" : ",", t + 1);
    tx = begin();
    view.id = tx + 1;
    for (int i = 0; ask && i < ranges.count; i++) {
        const struct row *r = first_of(&ranges, i);
        size_t n = strlen(first);

        if (r)
            snprintf(first + n, sizeof(first) - n, "%s%d:%lld", n ? "," : "", r->priority,
                     (long long)r->seq);
    }
    for (int i = 0; i < ranges.count; i++)
        for (int p = ranges.range[i].first; p < ranges.range[i].below; p++)
            for (int k = 0; k < nrows && taken < limit; k++) {
                struct claim_row row = {.seq = rows[k].seq, .priority = p};

                if (rows[k].priority != p || !is_in(&rows[k], &ranges, i))
                    continue;
                walked += !is_visible(&rows[k]);
                if (!is_free(&rows[k]))
                    continue;
                rows[k].holder = tx;
                taken++;
                watermark_claimed(m, &row);
            }
    txs[tx] = COMMITTED;
    watermark_learn(m, now_ms, &view);
    return taken;
}

/* Until nothing is free, in a few claims, with none of them from zero. */
static void claim_all(struct watermark *m)
{
    m->whole_ms = now_ms + 1;
    for (int tries = 0; tries < 3;)
        tries = claim(m, 1000) ? 0 : tries + 1;
    for (int k = 0; k < nrows; k++)
        if (is_free(&rows[k]))
            fail_msg("the row with seq %lld is stranded", (long long)rows[k].seq);
}

static void some_turns(struct watermark *m, int n, int priority)
{
    for (int i = 0; i < n; i++) {
        int tx = begin();

        put(tx, priority);
        txs[tx] = COMMITTED;
        assert_int_equal(claim(m, 10), 1);
        now_ms += 5;
    }
}

static void test_dead_rows_are_not_walked_over_again(void **state)
{
    static struct watermark m;

    (void)state;
    setup(1);
    watermark_reset(&m);
    some_turns(&m, 900, 5);
    some_turns(&m, 300, 2);
    assert_in_range(walked, 0, 300);
}

static void test_one_that_only_others_claim_costs_nothing(void **state)
{
    static struct watermark m;

    (void)state;
    setup(1);
    watermark_reset(&m);
    for (int i = 0; i < 1000; i++) {
        int tx = begin(), other = begin();

        put(tx, 5);
        txs[tx] = COMMITTED;
        rows[nrows - 1].holder = other;
        assert_int_equal(claim(&m, 10), 0);
        txs[other] = COMMITTED;
        now_ms += 5;
    }
    assert_in_range(walked, 0, 300);
}

static void test_a_late_commit_is_found_at_once(void **state)
{
    static struct watermark m;
    int late;

    (void)state;
    setup(1);
    watermark_reset(&m);
    some_turns(&m, 100, 5);
    late = begin();
    put(late, 5);
    put(late, 0);
    some_turns(&m, 1000, 5);
    assert_in_range(walked, 0, 300);
    assert_int_equal(m.nlate, 1);
    m.whole_ms = now_ms + 1;
    txs[late] = COMMITTED;
    claim(&m, 10); /* sees that it has ended */
    assert_int_equal(claim(&m, 10), 2);
    some_turns(&m, 5, 5);
    assert_in_range(walked, 0, 300);
    assert_int_equal(m.nlate, 0);
}

static void test_a_worker_that_begins_under_an_old_transaction_learns_at_once(void **state)
{
    static struct watermark before, m;

    (void)state;
    setup(1);
    watermark_reset(&before);
    (void)begin(); /* and stays open */
    some_turns(&before, 1000, 5);
    walked = 0;
    watermark_reset(&m);
    some_turns(&m, 50, 5); /* in 250 ms */
    assert_int_equal(m.nlate, 1);
    assert_in_range(walked, 0, 3 * 1000 + 300);
}

static void test_more_late_ones_than_fit_cost_time_only(void **state)
{
    static struct watermark m;
    int late[WATERMARK_LATE + 8];

    (void)state;
    setup(1);
    watermark_reset(&m);
    for (int i = 0; i < WATERMARK_LATE + 8; i++)
        put(late[i] = begin(), 5);
    some_turns(&m, 600, 5);
    for (int i = 0; i < WATERMARK_LATE + 8; i++) {
        txs[late[i]] = i % 3 ? COMMITTED : ROLLED_BACK;
        claim_all(&m);
    }
}

/* What is behind the first row of a range is not known to be gone. */
static void test_two_rows_of_a_range_that_others_let_go_are_found(void **state)
{
    static struct watermark m;
    int other;

    (void)state;
    setup(1);
    watermark_reset(&m);
    put(other = begin(), 3);
    put(other, 7);
    txs[other] = COMMITTED;
    rows[0].holder = rows[1].holder = other = begin();
    for (int i = 0; i < 1000; i++) {
        txs[begin()] = ROLLED_BACK;
        newest++;
        assert_int_equal(claim(&m, 10), 0);
        now_ms += 5;
    }
    txs[other] = ROLLED_BACK;
    claim_all(&m);
}

static void test_a_server_with_another_history_is_searched_from_the_beginning(void **state)
{
    static struct watermark m;

    (void)state;
    setup(1);
    watermark_reset(&m);
    some_turns(&m, 600, 5);
    setup(1); /* behind a pool: nothing tells that there was a failover */
    put(begin(), 5);
    txs[ntxs - 1] = COMMITTED;
    claim_all(&m);
}

/* Transactions of any length that make and take rows, and end in any way. */
static void test_no_row_is_ever_stranded(void **state)
{
    (void)state;
    for (unsigned s = 1; s <= 20; s++) {
        static struct watermark m;
        int open[40], nopen = 0;

        setup(s);
        watermark_reset(&m);
        for (int step = 0; step < 800; step++) {
            int tx = nopen ? open[any((unsigned)nopen)] : -1;

            now_ms += any(40);
            m.whole_ms = now_ms + 1;
            if (any(4) == 0 && nopen < 40 && ntxs < TXS / 2) {
                open[nopen++] = begin();
            } else if (tx >= 0 && any(3) == 0) {
                for (unsigned n = any(200); n > 0 && nrows < ROWS; n--)
                    put(tx, any(3) ? 5 : (int)any(STORE_PRIORITIES));
            } else if (tx >= 0 && any(3) == 0 && nrows) { /* another worker, or an abort */
                struct row *r = &rows[any((unsigned)nrows)];

                if (is_free(r))
                    r->holder = tx;
            } else if (tx >= 0 && any(6) == 0) {
                for (int i = 0; i < nopen; i++)
                    if (open[i] == tx)
                        open[i] = open[--nopen];
                txs[tx] = any(4) ? COMMITTED : ROLLED_BACK;
            } else if (any(2) && ntxs < TXS - 600) {
                claim(&m, 1 + (int)any(100));
            } else if (any(20) == 0 && ntxs < TXS - 600) {
                claim_all(&m);
            }
        }
        for (int i = 0; i < nopen; i++) {
            txs[open[i]] = any(2) ? COMMITTED : ROLLED_BACK;
            claim_all(&m);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dead_rows_are_not_walked_over_again),
        cmocka_unit_test(test_one_that_only_others_claim_costs_nothing),
        cmocka_unit_test(test_a_late_commit_is_found_at_once),
        cmocka_unit_test(test_a_worker_that_begins_under_an_old_transaction_learns_at_once),
        cmocka_unit_test(test_more_late_ones_than_fit_cost_time_only),
        cmocka_unit_test(test_two_rows_of_a_range_that_others_let_go_are_found),
        cmocka_unit_test(test_a_server_with_another_history_is_searched_from_the_beginning),
        cmocka_unit_test(test_no_row_is_ever_stranded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
