/* Cancelling: the call in progress and no other, taken back, by a flag of the caller's, beside another context's step. */
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

/* A status without a message. */
#define NOTHING(call) CHECK((call) == RF_NOT_FOUND)

static fixture f;
static const rf_token prompt[] = {259, 264};

typedef struct {
    rf_context *ctx;
    int calls;
    int cancel_at;
    int take_back;
    int32_t *flag;
} canceller;

static int32_t on_token(void *user, rf_token token, const char *text, size_t len) {
    (void)token, (void)text, (void)len;
    canceller *c = user;
    if (++c->calls == c->cancel_at) {
        if (c->flag) {
            *c->flag = 1;
            return 0;
        }
        NOTHING(rf_context_uncancel(c->ctx));
        OK(rf_context_cancel(c->ctx));
        OK(rf_context_cancel(c->ctx));
        if (c->take_back) {
            OK(rf_context_uncancel(c->ctx));
            NOTHING(rf_context_uncancel(c->ctx));
        }
    }
    return 0;
}

/* Generates 5 tokens; how many came. */
static size_t generate(canceller *c, rf_status wanted, int32_t *flag) {
    rf_sampler *sampler = make_sampler(0, 0);
    rf_generate_params params;
    OK(rf_generate_params_init(&params, sizeof params));
    CHECK(params.cancel == NULL);
    params.max_tokens = 5;
    params.ignore_eog = 1;
    params.cancel = flag;
    rf_generation result = {.size = sizeof result};
    c->calls = 0;
    c->flag = flag;
    rf_status status = rf_generate(c->ctx, sampler, prompt, 2, &params, on_token, c, &result);
    if (status != wanted) FAIL("generating gives %s, not %s", rf_status_name(status), rf_status_name(wanted));
    CHECK((result.stop == RF_STOP_CANCELLED) == (wanted == RF_CANCELLED));
    rf_sampler_release(sampler);
    OK(rf_kv_clear(c->ctx));
    return result.n_tokens;
}

static void this_call_only(void) {
    canceller c = {.ctx = make_context(f.model, 64, 1)};
    /* Too late, or too early: there is no call, and the next one is not touched. */
    NOTHING(rf_context_cancel(c.ctx));
    CHECK(generate(&c, RF_OK, NULL) == 5);
    NOTHING(rf_context_cancel(c.ctx));
    NOTHING(rf_context_uncancel(c.ctx));
    CHECK(generate(&c, RF_OK, NULL) == 5);
    /* In a callback: the call ends, the next does not. */
    c.cancel_at = 2;
    CHECK(generate(&c, RF_CANCELLED, NULL) == 2);
    c.cancel_at = 0;
    CHECK(generate(&c, RF_OK, NULL) == 5);
    /* In the callback of the last token: the call has ended by itself. */
    c.cancel_at = 5;
    CHECK(generate(&c, RF_OK, NULL) == 5);
    c.cancel_at = 0;
    CHECK(generate(&c, RF_OK, NULL) == 5);
    /* Taken back. */
    c.cancel_at = 2;
    c.take_back = 1;
    CHECK(generate(&c, RF_OK, NULL) == 5);
    rf_context_release(c.ctx);
}

/* A flag of the caller's can be set before the call begins, and stays the caller's. */
static void flags(void) {
    canceller c = {.ctx = make_context(f.model, 64, 1)};
    int32_t flag = 1;
    CHECK(generate(&c, RF_CANCELLED, &flag) == 0);
    rf_batch batch = {.size = sizeof batch, .n = 2, .tokens = prompt, .cancel = &flag};
    EXPECT(RF_CANCELLED, rf_decode(c.ctx, &batch));
    CHECK(flag == 1);
    flag = 0;
    OK(rf_decode(c.ctx, &batch));
    OK(rf_kv_clear(c.ctx));
    c.cancel_at = 3;
    CHECK(generate(&c, RF_CANCELLED, &flag) == 3);
    flag = 0;
    c.cancel_at = 0;
    CHECK(generate(&c, RF_OK, &flag) == 5);
    batch.cancel = (const int32_t *)((char *)&flag + 1);
    EXPECT(RF_ERROR_PARAM, rf_decode(c.ctx, &batch));
    MESSAGE("cancel");
    rf_context_release(c.ctx);
}

static rf_context *signalled;
static volatile sig_atomic_t answer = -99;

static void on_signal(int signal) {
    (void)signal;
    answer = rf_context_cancel(signalled);
}

static int32_t raise_on_token(void *user, rf_token token, const char *text, size_t len) {
    (void)user, (void)token, (void)text, (void)len;
    return raise(SIGUSR1);
}

static void from_a_signal_handler(void) {
    struct sigaction action = {.sa_handler = on_signal};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    signalled = make_context(f.model, 64, 1);
    CHECK(raise(SIGUSR1) == 0 && answer == RF_NOT_FOUND);
    rf_sampler *sampler = make_sampler(0, 0);
    rf_generate_params params;
    OK(rf_generate_params_init(&params, sizeof params));
    params.ignore_eog = 1;
    rf_generation result = {.size = sizeof result};
    EXPECT(RF_CANCELLED, rf_generate(signalled, sampler, prompt, 2, &params, raise_on_token, NULL, &result));
    CHECK(answer == RF_OK && result.n_tokens == 1);
    rf_sampler_release(sampler);
    rf_context_release(signalled);
}

/* One context computes step after step; the other's call is cancelled between them, wherever it is. */
static atomic_int over;

static void *keep_busy(void *argument) {
    rf_token tokens[60];
    for (int i = 0; i < 60; i++) tokens[i] = i;
    rf_batch batch = {.size = sizeof batch, .n = 60, .tokens = tokens};
    while (!atomic_load(&over)) {
        OK(rf_decode(argument, &batch));
        OK(rf_kv_clear(argument));
    }
    return NULL;
}

static void *cancel_until_done(void *argument) {
    while (rf_context_cancel(argument) == RF_NOT_FOUND) {}
    return NULL;
}

static void beside_another(void) {
    rf_context *busy = make_context(f.model, 64, 1), *ctx = make_context(f.model, 4096, 1);
    pthread_t worker, canceller;
    CHECK(pthread_create(&worker, NULL, keep_busy, busy) == 0);
    rf_sampler *sampler = make_sampler(0, 0);
    rf_generate_params params;
    OK(rf_generate_params_init(&params, sizeof params));
    params.ignore_eog = 1;
    rf_generation result = {.size = sizeof result};
    for (int i = 0; i < 5; i++) {
        CHECK(pthread_create(&canceller, NULL, cancel_until_done, ctx) == 0);
        EXPECT(RF_CANCELLED, rf_generate(ctx, sampler, prompt, 2, &params, NULL, NULL, &result));
        CHECK(pthread_join(canceller, NULL) == 0);
        OK(rf_kv_clear(ctx));
    }
    atomic_store(&over, 1);
    CHECK(pthread_join(worker, NULL) == 0);
    rf_sampler_release(sampler);
    rf_context_release(ctx);
    rf_context_release(busy);
}

int main(int argc, char **argv) {
    f = set_up(argc, argv);
    this_call_only();
    flags();
    from_a_signal_handler();
    beside_another();
    tear_down(&f);
    return 0;
}
