/* Every order of release, and use of what is left after each. */
#include "check.h"

enum { BACKEND, MODEL, CONTEXT, SAMPLER, N };

static void use(rf_backend *backend, rf_model *model, rf_context *ctx, rf_sampler *sampler) {
    if (backend) {
        rf_device_details info = {.size = sizeof info};
        OK(rf_backend_info(backend, &info));
    }
    if (model) {
        rf_token token;
        size_t n;
        OK(rf_tokenize(model, "hello", 5, 0, &token, 1, &n));
    }
    if (ctx) {
        const rf_token token = 1;
        rf_batch batch = {.size = sizeof batch, .n = 1, .tokens = &token};
        OK(rf_decode(ctx, &batch));
    }
    if (ctx && sampler) {
        rf_token token;
        OK(rf_sample(sampler, ctx, 0, &token));
    }
    if (sampler) OK(rf_sampler_accept(sampler, 1));
}

static void release_in(const int order[N], int32_t kind, const char *path) {
    rf_backend *backend = make_backend(kind);
    rf_model *model = load_model(backend, path);
    rf_context *ctx = make_context(model, 64, 1);
    rf_sampler *sampler = make_sampler(0.7f, 1);
    for (int i = 0; i < N; i++) {
        use(backend, model, ctx, sampler);
        switch (order[i]) {
        case BACKEND: rf_backend_release(backend); backend = NULL; break;
        case MODEL: rf_model_release(model); model = NULL; break;
        case CONTEXT: rf_context_release(ctx); ctx = NULL; break;
        case SAMPLER: rf_sampler_release(sampler); sampler = NULL; break;
        }
    }
}

/* Releases in the middle of the call that calls back: the call still ends well. */
typedef struct {
    rf_context *ctx;
    rf_sampler *sampler;
    int calls;
} releasing;

static int32_t release_on_token(void *user, rf_token token, const char *text, size_t len) {
    (void)token, (void)text, (void)len;
    releasing *r = user;
    if (r->calls++ == 0) {
        rf_context_release(r->ctx);
        rf_sampler_release(r->sampler);
    }
    return 0;
}

int main(int argc, char **argv) {
    int32_t kind = device_kind(argc, argv);
    int orders = 0;
    for (int a = 0; a < N; a++)
        for (int b = 0; b < N; b++)
            for (int c = 0; c < N; c++) {
                int d = BACKEND + MODEL + CONTEXT + SAMPLER - a - b - c;
                if (a == b || a == c || b == c) continue;
                const int order[N] = {a, b, c, d};
                release_in(order, kind, argv[1]);
                orders++;
            }
    CHECK(orders == 24);

    fixture f = set_up(argc, argv);
    releasing r = {make_context(f.model, 64, 1), make_sampler(0, 0), 0};
    rf_generate_params params;
    OK(rf_generate_params_init(&params, sizeof params));
    params.max_tokens = 4;
    params.ignore_eog = 1;
    rf_generation generation = {.size = sizeof generation};
    const rf_token prompt = 1;
    OK(rf_generate(r.ctx, r.sampler, &prompt, 1, &params, release_on_token, &r, &generation));
    CHECK(r.calls == 4);
    /* The text was the context's: none is left to point to. */
    CHECK(generation.n_tokens == 0 && generation.text_len == 0 && generation.text[0] == '\0');
    tear_down(&f);
    return 0;
}
