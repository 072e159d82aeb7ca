/* Several threads: a shared model, a context in use, cancelling, each thread's own last error. */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>

static fixture f;

/* Const handles are shared: every thread tokenizes, looks things up and runs a context of its own. */
static void *worker(void *argument) {
    rf_token *first = argument;
    char message[64];
    snprintf(message, sizeof message, "no.such.key.%p", argument);
    for (int i = 0; i < 5; i++) {
        size_t n = 0;
        EXPECT(RF_NOT_FOUND, rf_model_meta_find(f.model, message, &n));
        rf_token tokens[16];
        OK(rf_tokenize(f.model, "hello world", 11, 0, tokens, 16, &n));
        CHECK(n == 2 && tokens[0] == 259);
        rf_tensor_details tensor = {.size = sizeof tensor};
        OK(rf_model_tensor_at(f.model, 3, &tensor));
        CHECK(strlen(tensor.name) > 0);
        MESSAGE(message);
    }
    rf_context *ctx = make_context(f.model, 64, 1);
    rf_sampler *sampler = make_sampler(0, 0);
    rf_generate_params params;
    OK(rf_generate_params_init(&params, sizeof params));
    params.max_tokens = 8;
    params.ignore_eog = 1;
    rf_generation result = {.size = sizeof result};
    const rf_token prompt[] = {259, 264};
    OK(rf_generate(ctx, sampler, prompt, 2, &params, NULL, NULL, &result));
    memcpy(first, result.tokens, 8 * sizeof *first);
    rf_sampler_release(sampler);
    rf_context_release(ctx);
    return NULL;
}

static void shared_handles(void) {
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    static rf_token tokens[THREADS][8];
    for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, worker, tokens[i]) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (int i = 1; i < THREADS; i++) CHECK(memcmp(tokens[0], tokens[i], sizeof tokens[0]) == 0);
}

typedef struct {
    rf_context *ctx;
    atomic_int stage; /* 1: the generation runs; 2: the other thread is done */
    atomic_int tokens;
} shared;

/* Holds the generation until the other thread has done its part, then lets it run until cancelled. */
static int32_t wait_for_other(void *user, rf_token token, const char *text, size_t len) {
    (void)token, (void)text, (void)len;
    shared *s = user;
    atomic_fetch_add(&s->tokens, 1);
    if (atomic_load(&s->stage) == 0) {
        atomic_store(&s->stage, 1);
        while (atomic_load(&s->stage) != 2) {}
    }
    return 0;
}

static void *meddle(void *argument) {
    shared *s = argument;
    while (atomic_load(&s->stage) != 1) {}
    rf_token token = 1;
    rf_batch batch = {.size = sizeof batch, .n = 1, .tokens = &token};
    EXPECT(RF_ERROR_BUSY, rf_decode(s->ctx, &batch));
    MESSAGE("in use");
    rf_perf_counters perf = {.size = sizeof perf};
    EXPECT(RF_ERROR_BUSY, rf_perf(s->ctx, &perf));
    OK(rf_context_cancel(s->ctx));
    atomic_store(&s->stage, 2);
    return NULL;
}

static void busy_and_cancel(void) {
    shared s = {.ctx = make_context(f.model, 256, 1)};
    rf_sampler *sampler = make_sampler(0, 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, meddle, &s) == 0);
    rf_generate_params params;
    OK(rf_generate_params_init(&params, sizeof params));
    params.ignore_eog = 1;
    rf_generation result = {.size = sizeof result};
    const rf_token prompt = 259;
    EXPECT(RF_CANCELLED, rf_generate(s.ctx, sampler, &prompt, 1, &params, wait_for_other, &s, &result));
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(result.stop == RF_STOP_CANCELLED && atomic_load(&s.tokens) == 1);
    CHECK(strstr(rf_context_error(s.ctx), "cancelled"));
    rf_sampler_release(sampler);
    rf_context_release(s.ctx);
}

/* The context's error is there for a thread that made no call. */
static void *read_error(void *argument) {
    CHECK(strcmp(rf_last_error(), "") == 0);
    CHECK(strstr(rf_context_error(argument), "empty"));
    return NULL;
}

static void errors_move_with_the_context(void) {
    rf_context *ctx = make_context(f.model, 64, 1);
    rf_batch batch = {.size = sizeof batch};
    EXPECT(RF_ERROR_PARAM, rf_decode(ctx, &batch));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, read_error, ctx) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    rf_context_release(ctx);
}

int main(int argc, char **argv) {
    f = set_up(argc, argv);
    shared_handles();
    busy_and_cancel();
    errors_move_with_the_context();
    tear_down(&f);
    return 0;
}
