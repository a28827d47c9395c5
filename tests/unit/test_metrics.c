#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "map.h"
#include "mem.h"
#include "metrics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void a_value_falls_into_the_first_bucket_that_holds_it(void **state)
{
    struct histogram h = {0};

    (void)state;
    histogram_add(&h, 0);
    histogram_add(&h, 0.5);
    histogram_add(&h, 0.51);
    histogram_add(&h, 300000);
    histogram_add(&h, 300001);
    assert_int_equal(h.n[0], 2);
    assert_int_equal(h.n[1], 1);
    assert_int_equal(h.n[HISTOGRAM_BUCKETS - 1], 1);
    assert_int_equal(h.n[HISTOGRAM_BUCKETS], 1);
    assert_int_equal(h.count, 5);
    assert_true(fabs(h.sum - 600002.01) < 1e-6);
}

static void buckets_are_cumulated_and_end_with_infinity(void **state)
{
    struct histogram h = {0};
    BUF_AUTO(out, BUF_MAX);

    (void)state;
    histogram_add(&h, 0.2);
    histogram_add(&h, 7);
    assert_int_equal(metrics_put_histogram(&out, "x_ms", "route=\"a\"", &h), 0);
    assert_non_null(strstr(out.data, "x_ms_bucket{route=\"a\",le=\"0.5\"} 1\n"));
    assert_non_null(strstr(out.data, "x_ms_bucket{route=\"a\",le=\"5\"} 1\n"));
    assert_non_null(strstr(out.data, "x_ms_bucket{route=\"a\",le=\"10\"} 2\n"));
    assert_non_null(strstr(out.data, "x_ms_bucket{route=\"a\",le=\"300000\"} 2\n"));
    assert_non_null(strstr(out.data, "x_ms_bucket{route=\"a\",le=\"+Inf\"} 2\n"));
    assert_non_null(strstr(out.data, "x_ms_sum{route=\"a\"} 7.2\nx_ms_count{route=\"a\"} 2\n"));
}

static void a_histogram_travels_as_json(void **state)
{
    struct histogram h = {0};
    struct err err;
    BUF_AUTO(json, BUF_MAX);
    BUF_AUTO(direct, BUF_MAX);
    BUF_AUTO(carried, BUF_MAX);

    (void)state;
    for (int i = 0; i < 1000; i++)
        histogram_add(&h, i * 1.7);
    assert_int_equal(histogram_put_json(&h, &json), 0);
    JSON_AUTO(root) = json_parse(json.data, json.len, &err);
    assert_non_null(root);
    assert_int_equal(metrics_put_histogram(&direct, "y", "", &h), 0);
    assert_int_equal(metrics_put_json_histogram(&carried, "y", "", root), 0);
    assert_string_equal(direct.data, carried.data);
}

static void a_histogram_of_another_shape_is_left_out(void **state)
{
    static const char *const shapes[] = {"{}",
                                         "[]",
                                         "1",
                                         "{\"le\":[1],\"n\":[1]}",
                                         "{\"le\":[1],\"n\":[1],\"sum\":1,\"count\":1}",
                                         "{\"le\":1,\"n\":[1],\"sum\":1,\"count\":1}",
                                         "{\"le\":[],\"n\":[],\"sum\":1,\"count\":1}"};
    struct err err;
    BUF_AUTO(out, BUF_MAX);

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        JSON_AUTO(root) = json_parse(shapes[i], strlen(shapes[i]), &err);

        assert_int_equal(metrics_put_json_histogram(&out, "z", "", root), 0);
        assert_int_equal(out.len, 0);
    }
}

static void labels_are_escaped_and_counters_are_whole(void **state)
{
    BUF_AUTO(out, BUF_MAX);

    (void)state;
    metrics_put_quoted(&out, "a\"b\\c\nd");
    assert_string_equal(out.data, "\"a\\\"b\\\\c\\nd\"");
    buf_reset(&out);
    metrics_put_value(&out, "n", "", 123456789012.0);
    metrics_put_value(&out, "f", "a=\"b\"", 0.25);
    assert_string_equal(out.data, "n 123456789012\nf{a=\"b\"} 0.25\n");
}

struct item {
    struct map_node node;
    char key[16];
};

static void a_map_finds_what_is_in_it_and_nothing_else(void **state)
{
    enum { ITEMS = 5000 };
    struct item *items = xcalloc(ITEMS, sizeof(*items));
    struct map map;

    (void)state;
    map_init(&map);
    assert_null(map_find(&map, "0"));
    for (int i = 0; i < ITEMS; i++) {
        snprintf(items[i].key, sizeof(items[i].key), "%d", i);
        map_add(&map, &items[i].node, items[i].key);
    }
    for (int i = 0; i < ITEMS; i += 2)
        map_remove(&map, &items[i].node);
    assert_int_equal(map.count, ITEMS / 2);
    for (int i = 0; i < ITEMS; i++)
        assert_ptr_equal(map_find(&map, items[i].key), i % 2 ? &items[i].node : NULL);
    map_release(&map);
    free(items);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_falls_into_the_first_bucket_that_holds_it),
        cmocka_unit_test(buckets_are_cumulated_and_end_with_infinity),
        cmocka_unit_test(a_histogram_travels_as_json),
        cmocka_unit_test(a_histogram_of_another_shape_is_left_out),
        cmocka_unit_test(labels_are_escaped_and_counters_are_whole),
        cmocka_unit_test(a_map_finds_what_is_in_it_and_nothing_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
