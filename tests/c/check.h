/* What the C tests share: assertions with messages, and the tiny model loaded. */
#ifndef CHECK_H
#define CHECK_H

#include <rocmforge.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAIL(...)                                                                                          \
    do {                                                                                                   \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                                    \
        fprintf(stderr, __VA_ARGS__);                                                                      \
        fprintf(stderr, " (last error: %s)\n", rf_last_error());                                           \
        exit(1);                                                                                           \
    } while (0)

#define CHECK(condition)                                                                                   \
    do {                                                                                                   \
        if (!(condition)) FAIL("%s", #condition);                                                          \
    } while (0)

/* The call's status is the wanted one; where that is not RF_OK there is a message. */
#define EXPECT(wanted, call)                                                                               \
    do {                                                                                                   \
        rf_status got_ = (call);                                                                           \
        if (got_ != (wanted)) FAIL("%s gives %s, not %s", #call, rf_status_name(got_), #wanted);           \
        if (got_ != RF_OK && rf_last_error()[0] == '\0') FAIL("%s leaves no message", #call);              \
    } while (0)

#define OK(call) EXPECT(RF_OK, call)

/* The last message has the text in it. */
#define MESSAGE(text)                                                                                      \
    do {                                                                                                   \
        if (!strstr(rf_last_error(), text)) FAIL("the message lacks '%s'", text);                          \
    } while (0)

/* argv of every test: MODEL DEVICE, the tiny model's path and "cpu" or "reference". */
typedef struct {
    const char *path;
    rf_backend *backend;
    rf_model *model;
} fixture;

static inline int32_t device_kind(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL cpu|reference\n", argv[0]);
        exit(2);
    }
    return strcmp(argv[2], "reference") == 0 ? RF_DEVICE_REFERENCE : RF_DEVICE_CPU;
}

static inline rf_backend *make_backend(int32_t kind) {
    rf_backend_params params;
    OK(rf_backend_params_init(&params, sizeof params));
    params.kind = kind;
    params.threads = 2;
    rf_backend *backend = NULL;
    OK(rf_backend_create(&params, &backend));
    CHECK(backend != NULL);
    return backend;
}

static inline rf_model *load_model(const rf_backend *backend, const char *path) {
    rf_model_params params;
    OK(rf_model_params_init(&params, sizeof params));
    rf_model *model = NULL;
    OK(rf_model_load(backend, path, &params, &model));
    CHECK(model != NULL);
    return model;
}

static inline rf_context *make_context(const rf_model *model, uint32_t n_ctx, uint32_t n_seq) {
    rf_context_params params;
    OK(rf_context_params_init(&params, sizeof params));
    params.n_ctx = n_ctx;
    params.n_seq_max = n_seq;
    rf_context *ctx = NULL;
    OK(rf_context_create(model, &params, &ctx));
    CHECK(ctx != NULL);
    return ctx;
}

static inline rf_sampler *make_sampler(float temperature, uint64_t seed) {
    rf_sampler_params params;
    OK(rf_sampler_params_init(&params, sizeof params));
    params.temperature = temperature;
    params.seed = seed;
    rf_sampler *sampler = NULL;
    OK(rf_sampler_create(&params, &sampler));
    CHECK(sampler != NULL);
    return sampler;
}

static inline fixture set_up(int argc, char **argv) {
    fixture f;
    f.path = argc > 1 ? argv[1] : NULL;
    f.backend = make_backend(device_kind(argc, argv));
    f.model = load_model(f.backend, f.path);
    return f;
}

static inline void tear_down(fixture *f) {
    rf_model_release(f->model);
    rf_backend_release(f->backend);
}

#endif
