/* Evaluating, the cache, sampling and generating, and what wrong input to them gets. */
#include "check.h"

#define N_VOCAB 268

static rf_status decode(rf_context *ctx, const rf_token *tokens, size_t n) {
    rf_batch batch = {.size = sizeof batch, .n = n, .tokens = tokens};
    return rf_decode(ctx, &batch);
}

static uint32_t length(rf_context *ctx, uint32_t seq) {
    uint32_t first = 77, end = 77;
    OK(rf_kv_range(ctx, seq, &first, &end));
    CHECK(first == 0);
    return end;
}

/* A token of each of several sequences is what decoding is; several of one are a prompt. */
static void counters(const fixture *f) {
    rf_context *ctx = make_context(f->model, 192, 3);
    const rf_token tokens[] = {1, 2, 3};
    const uint32_t seq[] = {0, 1, 2}, one[] = {1, 1, 2};
    rf_batch batch = {.size = sizeof batch, .n = 3, .tokens = tokens, .seq = seq};
    OK(rf_decode(ctx, &batch));
    OK(rf_kv_clear(ctx));
    OK(decode(ctx, tokens, 1));
    OK(rf_kv_clear(ctx));
    rf_perf_counters perf = {.size = sizeof perf};
    OK(rf_perf(ctx, &perf));
    CHECK(perf.decode_tokens == 4 && perf.prefill_tokens == 0);
    batch.seq = one;
    OK(rf_decode(ctx, &batch));
    OK(rf_perf(ctx, &perf));
    CHECK(perf.decode_tokens == 4 && perf.prefill_tokens == 3);
    rf_context_release(ctx);
}

static void batches(const fixture *f) {
    rf_context *ctx = make_context(f->model, 128, 3);
    const rf_token tokens[] = {1, 2, 3, 4, 5, 6};
    const uint32_t pos[] = {0, 1, 2, 0, 1, 2}, seq[] = {0, 0, 0, 2, 2, 2};
    const uint8_t want[] = {1, 0, 1, 0, 0, 255};
    rf_batch batch = {.size = sizeof batch, .n = 6, .tokens = tokens, .pos = pos, .seq = seq, .want = want};
    OK(rf_decode(ctx, &batch));
    const float *logits = NULL;
    size_t n = 0;
    float rows[3][N_VOCAB];
    for (size_t row = 0; row < 3; row++) {
        OK(rf_logits(ctx, row, &logits, &n));
        CHECK(n == N_VOCAB);
        memcpy(rows[row], logits, sizeof rows[row]);
    }
    EXPECT(RF_ERROR_PARAM, rf_logits(ctx, 3, &logits, &n));
    EXPECT(RF_ERROR_PARAM, rf_logits(ctx, (size_t)-1, &logits, &n));
    CHECK(length(ctx, 0) == 3 && length(ctx, 1) == 0 && length(ctx, 2) == 3);

    /* The same tokens alone give the same logits. */
    OK(rf_kv_clear(ctx));
    CHECK(length(ctx, 0) == 0);
    OK(decode(ctx, tokens, 3));
    OK(rf_logits(ctx, 0, &logits, &n));
    for (size_t i = 0; i < N_VOCAB; i++) {
        float distance = logits[i] - rows[1][i];
        if (distance > 1e-3f || distance < -1e-3f) FAIL("logit %zu is %g, not %g", i, logits[i], rows[1][i]);
    }
    EXPECT(RF_ERROR_PARAM, rf_logits(ctx, 1, &logits, &n));

    /* A copy goes on as its source would; removing gives the positions back. */
    OK(rf_kv_copy(ctx, 0, 1, 2));
    CHECK(length(ctx, 1) == 2);
    const uint32_t seq1[] = {1};
    batch = (rf_batch){.size = sizeof batch, .n = 1, .tokens = tokens + 2, .seq = seq1};
    OK(rf_decode(ctx, &batch));
    OK(rf_logits(ctx, 0, &logits, &n));
    for (size_t i = 0; i < N_VOCAB; i++) {
        float distance = logits[i] - rows[1][i];
        if (distance > 1e-3f || distance < -1e-3f) FAIL("logit %zu is %g, not %g", i, logits[i], rows[1][i]);
    }
    EXPECT(RF_ERROR_PARAM, rf_kv_remove(ctx, 1, 4));
    MESSAGE("which holds 3");
    OK(rf_kv_remove(ctx, 1, 3)); /* its end: nothing to forget */
    CHECK(length(ctx, 1) == 3);
    OK(rf_kv_remove(ctx, 1, 1));
    CHECK(length(ctx, 1) == 1);
    OK(rf_kv_remove(ctx, 1, 0));
    CHECK(length(ctx, 1) == 0);
    // a cache without recurrent state goes back to any position
    uint32_t reachable;
    OK(rf_kv_reachable(ctx, 0, 1000, &reachable));
    CHECK(reachable == length(ctx, 0));

    rf_context_details info = {.size = sizeof info};
    OK(rf_context_info(ctx, &info));
    CHECK(info.n_ctx == 128 && info.n_seq_max == 3 && info.n_used == 3 && info.cache_bytes > 0);

    rf_perf_counters perf = {.size = sizeof perf};
    OK(rf_perf(ctx, &perf));
    CHECK(perf.prefill_tokens == 9 && perf.decode_tokens == 1);
    OK(rf_perf_reset(ctx));
    OK(rf_perf(ctx, &perf));
    CHECK(perf.prefill_tokens == 0 && perf.prefill_us == 0 && perf.decode_tokens == 0);
    rf_context_release(ctx);
}

static void bad_batches(const fixture *f) {
    rf_context *ctx = make_context(f->model, 64, 2);
    const rf_token good[] = {1, 2}, high[] = {1, N_VOCAB}, negative[] = {-1, 1};
    const uint32_t gap[] = {0, 2}, late[] = {5, 6}, no_seq[] = {0, 2};
    EXPECT(RF_ERROR_PARAM, decode(ctx, good, 0));
    CHECK(strcmp(rf_context_error(ctx), rf_last_error()) == 0 && rf_context_error(ctx)[0]);
    EXPECT(RF_ERROR_PARAM, decode(ctx, high, 2));
    MESSAGE("268");
    EXPECT(RF_ERROR_PARAM, decode(ctx, negative, 2));
    EXPECT(RF_ERROR_PARAM, decode(ctx, good, (size_t)-1));
    EXPECT(RF_ERROR_PARAM, decode(ctx, good, (size_t)1 << 61));
    rf_batch batch = {.size = sizeof batch, .n = 2, .tokens = good, .pos = gap};
    EXPECT(RF_ERROR_PARAM, rf_decode(ctx, &batch));
    batch.pos = late;
    EXPECT(RF_ERROR_PARAM, rf_decode(ctx, &batch));
    batch.pos = NULL;
    batch.seq = no_seq;
    EXPECT(RF_ERROR_PARAM, rf_decode(ctx, &batch));
    EXPECT(RF_ERROR_PARAM, rf_kv_remove(ctx, 2, 0));
    EXPECT(RF_ERROR_PARAM, rf_kv_copy(ctx, 0, 2, 0));
    EXPECT(RF_ERROR_PARAM, rf_kv_copy(ctx, 0, 1, 1));
    uint32_t first, end;
    EXPECT(RF_ERROR_PARAM, rf_kv_range(ctx, 2, &first, &end));
    EXPECT(RF_ERROR_PARAM, rf_kv_reachable(ctx, 2, 0, &end));
    const float *logits;
    size_t n;
    EXPECT(RF_ERROR_PARAM, rf_logits(ctx, 0, &logits, &n));
    rf_sampler *sampler = make_sampler(0, 0);
    rf_token token = 77;
    EXPECT(RF_ERROR_PARAM, rf_sample(sampler, ctx, 0, &token));
    EXPECT(RF_ERROR_PARAM, rf_sampler_accept(sampler, -1));
    CHECK(token == 77 && length(ctx, 0) == 0);
    rf_sampler_release(sampler);

    /* Longer than the context: nothing changes, and a shorter one still fits. */
    rf_token *many = calloc(65, sizeof *many);
    EXPECT(RF_CACHE_FULL, decode(ctx, many, 65));
    MESSAGE("65");
    CHECK(length(ctx, 0) == 0);
    OK(decode(ctx, many, 64));
    EXPECT(RF_CACHE_FULL, decode(ctx, many, 1));
    CHECK(length(ctx, 0) == 64);
    free(many);
    CHECK(strcmp(rf_context_error(ctx), rf_last_error()) == 0);
    rf_context_release(ctx);
}

typedef struct {
    rf_context *ctx;
    rf_sampler *sampler;
    char text[4096];
    size_t text_len;
    rf_token tokens[256];
    size_t n;
    size_t stop_at;
    int cancel;
} stream;

static int32_t collect(void *user, rf_token token, const char *text, size_t len) {
    stream *s = user;
    CHECK(text[len] == '\0' && s->text_len + len < sizeof s->text);
    memcpy(s->text + s->text_len, text, len);
    s->text_len += len;
    s->tokens[s->n++] = token;
    /* Both handles are in use by the call that called back. */
    rf_token other = 77;
    EXPECT(RF_ERROR_BUSY, rf_kv_clear(s->ctx));
    EXPECT(RF_ERROR_BUSY, rf_sample(s->sampler, s->ctx, 0, &other));
    EXPECT(RF_ERROR_BUSY, rf_sampler_accept(s->sampler, 1));
    if (s->n == s->stop_at && s->cancel) OK(rf_context_cancel(s->ctx));
    return s->n == s->stop_at && !s->cancel;
}

/* Several rows in one call: what one by one gives, with the samplers gone on by one draw each. */
static void sample_rows(const fixture *f) {
    rf_context *ctx = make_context(f->model, 64, 1);
    const rf_token prompt[] = {259, 20, 31};
    const uint8_t want[] = {1, 1, 1};
    rf_batch batch = {.size = sizeof batch, .n = 3, .tokens = prompt, .want = want};
    OK(rf_decode(ctx, &batch));
    const size_t rows[] = {2, 0, 2, 1};
    rf_sampler *samplers[4], *alike[4];
    for (int i = 0; i < 4; i++) {
        samplers[i] = make_sampler(1.5f, i);
        alike[i] = make_sampler(1.5f, i);
    }
    for (int round = 0; round < 3; round++) {
        rf_token tokens[4] = {-1, -1, -1, -1};
        OK(rf_sample_rows(samplers, ctx, rows, 4, tokens));
        for (int i = 0; i < 4; i++) {
            rf_token token = -1;
            OK(rf_sample(alike[i], ctx, rows[i], &token));
            if (token != tokens[i]) FAIL("round %d: token %d is %d, not %d", round, i, tokens[i], token);
        }
        OK(rf_sample_rows(NULL, ctx, NULL, 0, NULL));
        const size_t beyond[] = {2, 0, 3, 1};
        EXPECT(RF_ERROR_PARAM, rf_sample_rows(samplers, ctx, beyond, 4, tokens));
        MESSAGE("row 3");
        EXPECT(RF_ERROR_PARAM, rf_sample_rows(samplers, ctx, rows, (size_t)1 << 61, tokens));
        rf_sampler *const twice[] = {samplers[0], samplers[1], samplers[0], samplers[2]};
        EXPECT(RF_ERROR_BUSY, rf_sample_rows(twice, ctx, rows, 4, tokens));
    }
    for (int i = 0; i < 4; i++) {
        rf_sampler_release(samplers[i]);
        rf_sampler_release(alike[i]);
    }
    rf_context_release(ctx);
}

static void generate(const fixture *f) {
    rf_context *ctx = make_context(f->model, 128, 2);
    rf_sampler *sampler = make_sampler(0, 0);
    const rf_token prompt[] = {259, 20}; /* goes on with a good deal of ASCII */
    rf_generate_params params;
    OK(rf_generate_params_init(&params, sizeof params));
    params.max_tokens = 20;
    params.ignore_eog = 1;
    rf_generation result = {.size = sizeof result};
    stream s = {.ctx = ctx, .sampler = sampler};
    OK(rf_generate(ctx, sampler, prompt, 2, &params, collect, &s, &result));
    CHECK(result.stop == RF_STOP_LENGTH && result.n_tokens == 20 && result.prompt_tokens == 2);
    CHECK(s.n == 20 && memcmp(s.tokens, result.tokens, 20 * sizeof(rf_token)) == 0);
    CHECK(s.text_len == result.text_len && memcmp(s.text, result.text, s.text_len) == 0);
    CHECK(result.text[result.text_len] == '\0' && result.prompt_us > 0 && result.decode_us > 0);

    /* Token by token: the same tokens. */
    OK(rf_kv_clear(ctx));
    OK(rf_sampler_reset(sampler));
    OK(decode(ctx, prompt, 2));
    for (size_t i = 0; i < 20; i++) {
        rf_token token = -1;
        OK(rf_sample(sampler, ctx, 0, &token));
        if (token != s.tokens[i]) FAIL("token %zu is %d, not %d", i, token, s.tokens[i]);
        OK(rf_sampler_accept(sampler, token));
        OK(decode(ctx, &token, 1));
    }

    /* A seed gives the same tokens again; without a callback, too. */
    rf_token first[20];
    for (int run = 0; run < 2; run++) {
        rf_sampler *hot = make_sampler(1.5f, 42);
        OK(rf_kv_clear(ctx));
        OK(rf_generate(ctx, hot, prompt, 2, &params, NULL, NULL, &result));
        if (run == 0) memcpy(first, result.tokens, sizeof first);
        CHECK(memcmp(first, result.tokens, sizeof first) == 0);
        rf_sampler_release(hot);
    }

    /* Stopped by the callback, and by cancelling inside it. */
    for (int cancel = 0; cancel < 2; cancel++) {
        OK(rf_kv_clear(ctx));
        OK(rf_sampler_reset(sampler));
        stream stopped = {.ctx = ctx, .sampler = sampler, .stop_at = 3, .cancel = cancel};
        EXPECT(RF_CANCELLED, rf_generate(ctx, sampler, prompt, 2, &params, collect, &stopped, &result));
        CHECK(result.stop == RF_STOP_CANCELLED && result.n_tokens == 3 && stopped.n == 3);
        CHECK(memcmp(result.tokens, s.tokens, 3 * sizeof(rf_token)) == 0);
        CHECK(strcmp(rf_context_error(ctx), rf_last_error()) == 0);
    }
    OK(decode(ctx, prompt, 1)); /* the flag is clear again */

    /* The cache fills up. */
    OK(rf_kv_clear(ctx));
    params.max_tokens = 0;
    EXPECT(RF_CACHE_FULL, rf_generate(ctx, sampler, prompt, 2, &params, NULL, NULL, &result));
    CHECK(result.stop == RF_STOP_CACHE_FULL && result.n_tokens == 127);

    /* A stop text that a first run gave out. */
    OK(rf_kv_clear(ctx));
    OK(rf_sampler_reset(sampler));
    params.max_tokens = 20;
    s.text[s.text_len] = '\0';
    char needle[16] = "";
    for (size_t at = s.text_len / 2; at + 2 < s.text_len; at++)
        if ((unsigned char)s.text[at] < 0x80 && s.text[at] > ' ') {
            needle[0] = s.text[at];
            break;
        }
    CHECK(needle[0]);
    const char *stops[] = {"not to be found in there", needle};
    params.stop = stops;
    params.n_stop = 2;
    OK(rf_generate(ctx, sampler, prompt, 2, &params, NULL, NULL, &result));
    CHECK(result.stop == RF_STOP_TEXT && !strstr(result.text, needle));
    CHECK(strncmp(result.text, s.text, result.text_len) == 0 && s.text[result.text_len] == needle[0]);

    /* Wrong input. */
    rf_generation untouched = {.size = sizeof untouched};
    EXPECT(RF_ERROR_PARAM, rf_generate(ctx, sampler, prompt, 0, &params, NULL, NULL, &untouched));
    stops[1] = "";
    EXPECT(RF_ERROR_PARAM, rf_generate(ctx, sampler, prompt, 2, &params, NULL, NULL, &untouched));
    MESSAGE("stop[1]");
    stops[1] = "\xff";
    EXPECT(RF_ERROR_PARAM, rf_generate(ctx, sampler, prompt, 2, &params, NULL, NULL, &untouched));
    params.n_stop = 0;
    params.seq = 2;
    EXPECT(RF_ERROR_PARAM, rf_generate(ctx, sampler, prompt, 2, &params, NULL, NULL, &untouched));
    params.seq = 0;
    const rf_token bad[] = {N_VOCAB};
    EXPECT(RF_ERROR_PARAM, rf_generate(ctx, sampler, bad, 1, &params, NULL, NULL, &untouched));
    CHECK(untouched.stop == 0 && untouched.tokens == NULL);
    rf_token *many = calloc(129, sizeof *many);
    OK(rf_kv_clear(ctx));
    EXPECT(RF_CACHE_FULL, rf_generate(ctx, sampler, many, 129, &params, NULL, NULL, &result));
    CHECK(result.stop == RF_STOP_CACHE_FULL && result.n_tokens == 0 && result.text[0] == '\0');
    free(many);

    rf_sampler_release(sampler);
    rf_context_release(ctx);
}

static void transpose(const fixture *f) {
    enum { ROWS = 37, COLS = 53 };
    static float in[ROWS * COLS], out[ROWS * COLS + 1];
    for (int i = 0; i < ROWS * COLS; i++) in[i] = (float)i;
    out[ROWS * COLS] = 77;
    OK(rf_op_transpose(f->backend, in, out, ROWS, COLS));
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) CHECK(out[c * ROWS + r] == in[r * COLS + c]);
    CHECK(out[ROWS * COLS] == 77);
    EXPECT(RF_ERROR_PARAM, rf_op_transpose(f->backend, in, out, (size_t)-1, 2));
    EXPECT(RF_ERROR_PARAM, rf_op_transpose(f->backend, in, out, (size_t)1 << 62, 1));
    EXPECT(RF_ERROR_PARAM, rf_op_transpose(f->backend, in, in + 1, 2, 2));
    EXPECT(RF_ERROR_PARAM, rf_op_transpose(f->backend, (float *)((char *)in + 1), out, 2, 2));
}

int main(int argc, char **argv) {
    fixture f = set_up(argc, argv);
    counters(&f);
    batches(&f);
    bad_batches(&f);
    sample_rows(&f);
    generate(&f);
    transpose(&f);
    tear_down(&f);
    return 0;
}
