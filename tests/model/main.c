/*
 * Looks at every state that can be reached, breadth first, and checks
 *  - what must hold in each state and at each transition (model.c, statements.c);
 *  - that from each of them a fair run without further faults comes to an end in which every task
 *    is terminal and nothing is left: so nothing is ever stranded, and no two halves wait for each
 *    other for ever.
 *
 * States are remembered by 64 bits of hash: with 10^8 of them the chance that one was missed is
 * below 1 in 3,000. The way to a broken invariant is printed, as short as there is one.
 */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct node {
    uint32_t from;
    uint8_t step;
    int8_t who, what;
};

struct set { /* of hashes, open addressing */
    uint64_t *slots;
    uint64_t mask, n;
};

static struct set seen, good;
static struct node *nodes;
struct queued {
    struct state state;
    uint32_t node;
};

static struct queued *level[2];
static uint64_t level_n[2], level_max[2], nnodes, nodes_max;
static uint64_t transitions;
static uint64_t counts[STEP_MAX];
static uint32_t at;
static uint32_t bad_node;
static char bad_what[160];

static void *must(void *p)
{
    if (!p) {
        fputs("no memory\n", stderr);
        exit(2);
    }
    return p;
}

static bool set_add(struct set *set, uint64_t hash)
{
    uint64_t i;

    if (set->n * 10 >= set->mask * 7 || !set->slots) {
        struct set old = *set;

        set->mask = old.slots ? old.mask * 2 + 1 : 0xfffff;
        set->slots = must(calloc(set->mask + 1, sizeof(uint64_t)));
        set->n = 0;
        for (uint64_t k = 0; old.slots && k <= old.mask; k++)
            if (old.slots[k])
                (void)set_add(set, old.slots[k]);
        free(old.slots);
    }
    for (i = hash & set->mask; set->slots[i]; i = (i + 1) & set->mask)
        if (set->slots[i] == hash)
            return false;
    set->slots[i] = hash;
    set->n++;
    return true;
}

static bool set_has(const struct set *set, uint64_t hash)
{
    if (!set->slots)
        return false;
    for (uint64_t i = hash & set->mask; set->slots[i]; i = (i + 1) & set->mask)
        if (set->slots[i] == hash)
            return true;
    return false;
}

static void found_bad(uint32_t node, const char *what)
{
    if (bad_what[0])
        return;
    bad_node = node;
    snprintf(bad_what, sizeof(bad_what), "%s", what);
}

static void on_next(const struct state *next, int step, int who, int what)
{
    struct state s = *next;

    transitions++;
    counts[step]++;
    if (!broken)
        state_check(&s);
    state_canonize(&s);
    if (!set_add(&seen, state_hash(&s)) && !broken)
        return;
    if (nnodes == nodes_max) {
        nodes_max = nodes_max ? nodes_max * 2 : 1 << 16;
        nodes = must(realloc(nodes, nodes_max * sizeof(*nodes)));
    }
    nodes[nnodes] = (struct node){at, (uint8_t)step, (int8_t)who, (int8_t)what};
    if (broken)
        found_bad((uint32_t)nnodes, broken);
    broken = NULL;
    if (level_n[1] == level_max[1]) {
        level_max[1] = level_max[1] ? level_max[1] * 2 : 1 << 12;
        level[1] = must(realloc(level[1], level_max[1] * sizeof(*level[1])));
    }
    level[1][level_n[1]].state = s;
    level[1][level_n[1]++].node = (uint32_t)nnodes++;
}

#define FAIR_MAX 400

/* Does a fair run end well from here? Its states are reachable too, so each is run once. */
static void check_fair(const struct state *from, uint32_t node)
{
    uint64_t path[FAIR_MAX];
    struct state s = *from, next;
    int n = 0, step;

    for (;;) {
        uint64_t hash = state_hash(&s);

        if (set_has(&good, hash))
            break;
        path[n++] = hash;
        if (n == FAIR_MAX) {
            found_bad(node, "invariant 1: without further faults it goes round for ever");
            return;
        }
        broken = NULL;
        if (!steps_fair(&s, &next, &step)) {
            if (!state_is_quiet(&s)) {
                found_bad(node, "invariants 1, 6: without further faults something is stranded");
                return;
            }
            break;
        }
        if (broken) { /* the search meets it itself */
            broken = NULL;
            return;
        }
        s = next;
        state_canonize(&s);
    }
    while (n > 0)
        (void)set_add(&good, path[--n]);
}

static void print_way(uint32_t node)
{
    uint32_t way[4096];
    int n = 0;

    while (node && n < 4096) {
        way[n++] = node;
        node = nodes[node].from;
    }
    while (n > 0) {
        const struct node *step = &nodes[way[--n]];

        printf("    %s(%d, %d)\n", step_names[step->step], step->who, step->what);
    }
}

static void reset(void)
{
    free(seen.slots);
    free(good.slots);
    seen = good = (struct set){0};
    level_n[0] = level_n[1] = transitions = 0;
    memset(counts, 0, sizeof(counts));
    bad_what[0] = '\0';
    broken = NULL;
}

/* True: all states were seen, and nothing is broken. */
static bool explore(const struct state *start)
{
    struct state s = *start;

    reset();
    nnodes = 0;
    at = 0;
    state_canonize(&s);
    on_next(&s, 0, 0, 0);
    nodes[0].from = 0;
    while (level_n[1] > 0 && !bad_what[0]) {
        struct queued *swap = level[0];
        uint64_t swap_max = level_max[0];

        level[0] = level[1];
        level_n[0] = level_n[1];
        level_max[0] = level_max[1];
        level[1] = swap;
        level_max[1] = swap_max;
        level_n[1] = 0;
        for (uint64_t i = 0; i < level_n[0] && !bad_what[0]; i++) {
            at = level[0][i].node;
            check_fair(&level[0][i].state, at);
            steps_all(&level[0][i].state, on_next);
        }
    }
    return !bad_what[0];
}

static double now_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static bool run(const struct size *size)
{
    struct state start;
    double began = now_s();
    bool ok;

    state_start(&start, size);
    ok = explore(&start);
    printf("  %llu states, %llu transitions, %.1f s: faults %u, drains %u, aborts %u%s\n",
           (unsigned long long)nnodes, (unsigned long long)transitions, now_s() - began,
           size->faults, size->drains, size->aborts, size->retry ? ", a retry" : "");
    return ok;
}

static int passed, failed;
static uint64_t fired[STEP_MAX];

static void outcome(bool ok, const char *kind, const char *name)
{
    printf("%s model.%s%s\n", ok ? "PASS" : "FAIL", kind, name);
    fflush(stdout);
    if (ok)
        passed++;
    else
        failed++;
}

static void holds(const struct size *sizes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool ok = run(&sizes[i]);

        if (!ok) {
            printf("  %s\n", bad_what);
            print_way(bad_node);
        }
        for (int k = 0; k < STEP_MAX; k++)
            fired[k] += counts[k];
        outcome(ok, "holds", "");
    }
    for (int i = 0; i < STEP_MAX; i++)
        if (i != STEP_STATEMENTS && fired[i] == 0)
            outcome(false, "never fires: ", step_names[i]);
}

/* A defect is looked for with few faults first. */
static void finds(enum mutant id, const char *name, const char *what)
{
    static const struct size sizes[] = {
        {1, 1, 0, 0, false},
        {1, 1, 0, 1, false},
        {1, 2, 1, 0, false},
        {3, 1, 0, 1, true }
    };
    bool of_retry = id == MUTANT_RETRY_LEDGER || id == MUTANT_RETRY_OPEN, found = false;

    mutant = id;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes) && !found; i++) {
        struct state start;

        if (sizes[i].retry != of_retry)
            continue;
        state_start(&start, &sizes[i]);
        found = !explore(&start);
    }
    printf("  planted: %s; found: %s\n", what, found ? bad_what : "nothing");
    outcome(found, "finds.", name);
    mutant = MUTANT_NONE;
}

static int usage(void)
{
    puts("model test | all | statements | TOOLS FAULTS DRAINS ABORTS RETRY [MUTANT]\n"
         "  test        a bounded run, and the planted defects\n"
         "  all         larger sizes\n"
         "  statements  the transitions that are statements of sql/");
    return 2;
}

int main(int argc, char **argv)
{
    static const struct size small[] = {
        {1, 1, 0, 1, false},
        {1, 1, 1, 0, false},
        {3, 1, 0, 1, true }
    };
    static const struct size large[] = {
        {1, 2, 0, 0, false},
        {1, 1, 1, 1, false},
        {1, 2, 1, 0, false},
        {1, 2, 0, 1, false},
        {3, 2, 0, 1, true }
    };

    if (argc == 2 && !strcmp(argv[1], "statements")) {
        for (int i = 0; i < STEP_STATEMENTS; i++)
            puts(step_names[i]);
        return 0;
    } else if (argc == 2 && !strcmp(argv[1], "test")) {
        holds(small, sizeof(small) / sizeof(*small));
#define X(id, name, what) finds(MUTANT_##id, name, what);
        MUTANTS(X)
#undef X
    } else if (argc == 2 && !strcmp(argv[1], "all")) {
        holds(large, sizeof(large) / sizeof(*large));
    } else if (argc > 5) {
        struct size size = {(unsigned)strtoul(argv[1], NULL, 10),
                            (unsigned)strtoul(argv[2], NULL, 10),
                            (unsigned)strtoul(argv[3], NULL, 10),
                            (unsigned)strtoul(argv[4], NULL, 10), strtoul(argv[5], NULL, 10) != 0};

        mutant = (enum mutant)(argc > 6 ? (unsigned)strtoul(argv[6], NULL, 10) : 0);
        memset(fired, 1, sizeof(fired));
        holds(&size, 1);
    } else {
        return usage();
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0;
}
