/* Sizes of structs, values of enums, flags and parameters out of range. */
#include "check.h"

/* A struct with room behind it, as a caller compiled against a newer header has. */
typedef struct {
    rf_context_params known;
    uint64_t newer;
} newer_params;

static void struct_sizes(const fixture *f) {
    rf_context *ctx = NULL;
    rf_context_params params;
    const size_t wrong[] = {0, 1, sizeof(size_t) - 1, 1 << 20, (size_t)-1};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        EXPECT(RF_ERROR_PARAM, rf_context_params_init(&params, wrong[i]));
        OK(rf_context_params_init(&params, sizeof params));
        params.size = wrong[i];
        EXPECT(RF_ERROR_PARAM, rf_context_create(f->model, &params, &ctx));
        MESSAGE("rf_context_params");
        rf_model_details info;
        memset(&info, 0, sizeof info);
        info.size = wrong[i];
        EXPECT(RF_ERROR_PARAM, rf_model_info(f->model, &info));
        CHECK(info.arch == NULL);
    }

    /* A size that ends inside a field: half a pointer would be taken. */
    ctx = make_context(f->model, 64, 1);
    const rf_token tokens[4] = {1, 2, 3, 4};
    const uint32_t pos[4] = {0, 1, 2, 3};
    rf_batch batch = {.n = 4, .tokens = tokens, .pos = pos};
    for (size_t size = sizeof(size_t); size < sizeof batch; size++) {
        if (size % sizeof(size_t) == 0) continue;
        batch.size = size;
        EXPECT(RF_ERROR_PARAM, rf_decode(ctx, &batch));
        MESSAGE("rf_batch");
    }
    batch.size = offsetof(rf_batch, seq);
    OK(rf_decode(ctx, &batch));
    rf_context_release(ctx);
    ctx = NULL;

    /* Older and shorter: n_seq_max, which it lacks, reads as zero, whatever stands there. */
    OK(rf_context_params_init(&params, sizeof params));
    params.n_ctx = 64;
    params.n_seq_max = 0xffffffff;
    params.size = offsetof(rf_context_params, n_seq_max);
    OK(rf_context_create(f->model, &params, &ctx));
    rf_context_details details = {.size = sizeof details};
    OK(rf_context_info(ctx, &details));
    CHECK(details.n_seq_max == 1);

    /* A shorter result is filled as far as it goes. */
    details.n_ctx = 0;
    details.scratch_bytes = 77;
    details.size = offsetof(rf_context_details, scratch_bytes);
    OK(rf_context_info(ctx, &details));
    CHECK(details.n_ctx == 64 && details.scratch_bytes == 77);
    rf_context_release(ctx);

    /* Newer and longer: zeros behind, or refused; results get zeros. */
    newer_params newer;
    memset(&newer, 0xff, sizeof newer);
    OK(rf_context_params_init(&newer.known, sizeof newer));
    CHECK(newer.known.size == sizeof newer && newer.newer == 0);
    newer.known.n_ctx = 64;
    ctx = NULL;
    OK(rf_context_create(f->model, &newer.known, &ctx));
    rf_context_release(ctx);
    ctx = NULL;
    newer.newer = 1;
    EXPECT(RF_ERROR_PARAM, rf_context_create(f->model, &newer.known, &ctx));
    CHECK(ctx == NULL);
}

static void enums_and_flags(const fixture *f) {
    const int32_t kinds[] = {-1, 4, 99, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        uint32_t n = 77;
        EXPECT(RF_ERROR_PARAM, rf_device_count(kinds[i], &n));
        CHECK(n == 77);
        rf_device_details device = {.size = sizeof device};
        EXPECT(RF_ERROR_PARAM, rf_device_info(kinds[i], 0, &device));
        rf_backend_params params;
        OK(rf_backend_params_init(&params, sizeof params));
        rf_backend *backend = NULL;
        params.kind = kinds[i];
        EXPECT(RF_ERROR_PARAM, rf_backend_create(&params, &backend));
        OK(rf_backend_params_init(&params, sizeof params));
        params.log_level = kinds[i] == 4 ? 6 : kinds[i];
        EXPECT(RF_ERROR_PARAM, rf_backend_create(&params, &backend));
        OK(rf_backend_params_init(&params, sizeof params));
        params.threads = UINT32_MAX;
        EXPECT(RF_ERROR_PARAM, rf_backend_create(&params, &backend));
        CHECK(backend == NULL);
    }
    rf_token tokens[8];
    char text[8];
    size_t n;
    EXPECT(RF_ERROR_PARAM, rf_tokenize(f->model, "a", 1, 8, tokens, 8, &n));
    EXPECT(RF_ERROR_PARAM, rf_tokenize(f->model, "a", 1, 0x80000001u, tokens, 8, &n));
    tokens[0] = 0;
    EXPECT(RF_ERROR_PARAM, rf_detokenize(f->model, tokens, 1, 2, text, 8, &n));

    uint32_t count = 0;
    OK(rf_device_count(RF_DEVICE_REFERENCE, &count));
    CHECK(count == 1);
    rf_device_details device = {.size = sizeof device};
    OK(rf_device_info(RF_DEVICE_REFERENCE, 0, &device));
    CHECK(device.kind == RF_DEVICE_REFERENCE && device.name[0] && device.arch[0] && device.compute_units > 0);
    CHECK(device.warp_size == 0 && device.max_grid[0] == 0 && device.runtime[0] == 0);
    EXPECT(RF_ERROR_PARAM, rf_device_info(RF_DEVICE_REFERENCE, 1, &device));

    CHECK(strcmp(rf_status_name(RF_OK), "RF_OK") == 0);
    CHECK(strcmp(rf_status_name(RF_ERROR_INTERNAL), "RF_ERROR_INTERNAL") == 0);
    CHECK(strcmp(rf_status_name(12345), "RF_UNKNOWN") == 0);
}

/* run.sh names a runtime that is not there: GPUs fail with a status and a message, all else works on. */
static void no_gpu(void) {
    uint32_t count = 77;
    EXPECT(RF_ERROR_NO_RUNTIME, rf_device_count(RF_DEVICE_HIP, &count));
    MESSAGE("not found");
    CHECK(count == 77);
    rf_device_details device = {.size = sizeof device};
    EXPECT(RF_ERROR_NO_RUNTIME, rf_device_info(RF_DEVICE_HIP, 0, &device));
    rf_backend *backend = NULL;
    rf_backend_params params;
    OK(rf_backend_params_init(&params, sizeof params));
    CHECK(params.device_index == -1);
    params.kind = RF_DEVICE_HIP;
    EXPECT(RF_ERROR_NO_RUNTIME, rf_backend_create(&params, &backend));
    params.device_index = -2;
    EXPECT(RF_ERROR_PARAM, rf_backend_create(&params, &backend));
    params.device_index = -1;
    params.device_mask = RF_DEVICES_ALL;
    EXPECT(RF_ERROR_NO_RUNTIME, rf_backend_create(&params, &backend));
    params.device_mask = 5;
    EXPECT(RF_ERROR_NO_RUNTIME, rf_backend_create(&params, &backend));
    params.device_index = 0;
    EXPECT(RF_ERROR_PARAM, rf_backend_create(&params, &backend));
    MESSAGE("device_mask");
    params.kind = RF_DEVICE_CPU;
    params.device_index = -1;
    EXPECT(RF_ERROR_PARAM, rf_backend_create(&params, &backend));
    params.device_mask = 0;
    params.device_index = 1;
    EXPECT(RF_ERROR_PARAM, rf_backend_create(&params, &backend));
    CHECK(backend == NULL);
    params.device_index = 0;
    OK(rf_backend_create(&params, &backend));
    rf_backend_release(backend);

    /* The default takes the CPU and says so. */
    OK(rf_backend_params_init(&params, sizeof params));
    CHECK(params.kind == RF_DEVICE_AUTO && params.device_mask == 0);
    backend = NULL;
    OK(rf_backend_create(&params, &backend));
    device.kind = 77;
    OK(rf_backend_info(backend, &device));
    CHECK(device.kind == RF_DEVICE_CPU);
    rf_backend_release(backend);
    OK(rf_device_count(RF_DEVICE_AUTO, &count));
    OK(rf_device_info(RF_DEVICE_AUTO, 0, &device));
    CHECK(count == 1 && device.kind == RF_DEVICE_CPU);
    EXPECT(RF_ERROR_PARAM, rf_device_info(RF_DEVICE_AUTO, 1, &device));
}

/* Layers on GPUs: numbers that mean something, and older programs that know of none. */
static void placement(const fixture *f) {
    rf_model_params params;
    rf_model *model = NULL;
    OK(rf_model_params_init(&params, sizeof params));
    CHECK(params.gpu_layers == RF_GPU_LAYERS_AUTO && params.n_ctx == 0 && params.n_batch == 0);
    CHECK(params.cpu_experts == RF_CPU_EXPERTS_AUTO);
    const int32_t sensible[] = {RF_GPU_LAYERS_AUTO, RF_GPU_LAYERS_ALL, RF_GPU_LAYERS_NONE, 1, 99, INT32_MAX};
    for (size_t i = 0; i < sizeof sensible / sizeof *sensible; i++) {
        params.gpu_layers = params.cpu_experts = sensible[i]; /* the numbers below 1 are the same */
        OK(rf_model_load(f->backend, f->path, &params, &model));
        rf_model_details info = {.size = sizeof info, .n_gpu_layers = 77, .n_cpu_experts = 77};
        OK(rf_model_info(model, &info));
        CHECK(info.n_gpu_layers == 0 && info.n_cpu_experts == 0); /* the backend has no GPU */
        rf_model_release(model);
        model = NULL;
    }
    const int32_t odd[] = {-3, INT32_MIN};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        params.gpu_layers = odd[i];
        params.cpu_experts = RF_CPU_EXPERTS_NONE;
        EXPECT(RF_ERROR_PARAM, rf_model_load(f->backend, f->path, &params, &model));
        MESSAGE("gpu_layers");
        params.gpu_layers = RF_GPU_LAYERS_ALL;
        params.cpu_experts = odd[i];
        EXPECT(RF_ERROR_PARAM, rf_model_load(f->backend, f->path, &params, &model));
        MESSAGE("cpu_experts");
    }
    params.size = offsetof(rf_model_params, gpu_layers); /* older: what stands there is not looked at */
    OK(rf_model_load(f->backend, f->path, &params, &model));
    rf_model_release(model);
    model = NULL;
    OK(rf_model_params_init(&params, sizeof params));
    params.n_ctx = UINT32_MAX;
    EXPECT(RF_ERROR_PARAM, rf_model_load(f->backend, f->path, &params, &model));
    params.n_ctx = 64;
    params.n_batch = UINT32_MAX;
    EXPECT(RF_ERROR_PARAM, rf_model_load(f->backend, f->path, &params, &model));
    CHECK(model == NULL);
}

/* Counts that were never set: refused before anything is read or collected. */
static void wild_counts(const fixture *f) {
    rf_context *ctx = make_context(f->model, 64, 1);
    rf_sampler *sampler = make_sampler(0, 0);
    rf_generate_params params;
    rf_chat_params chat;
    OK(rf_generate_params_init(&params, sizeof params));
    OK(rf_chat_params_init(&chat, sizeof chat));
    const rf_token token = 1;
    const uint8_t want = 1;
    const uint32_t zero = 0;
    const char *text = "a";
    size_t n;
    const size_t wild[] = {(size_t)-1, (size_t)1 << 63, (size_t)1 << 61, (size_t)1 << 40, (size_t)0x7ffe12345678, 65};
    for (size_t i = 0; i < sizeof wild / sizeof *wild; i++) {
        rf_status wanted = wild[i] > (size_t)PTRDIFF_MAX / sizeof token ? RF_ERROR_PARAM : RF_CACHE_FULL;
        rf_batch batch = {.size = sizeof batch, .n = wild[i], .tokens = &token};
        EXPECT(wanted, rf_decode(ctx, &batch));
        batch.want = &want;
        batch.pos = batch.seq = &zero;
        EXPECT(wanted, rf_decode(ctx, &batch));
        rf_generation result = {.size = sizeof result};
        EXPECT(wanted, rf_generate(ctx, sampler, &token, wild[i], &params, NULL, NULL, &result));
        CHECK(result.stop == (wanted == RF_CACHE_FULL ? RF_STOP_CACHE_FULL : 0) && result.n_tokens == 0);
        if (wild[i] == 65) continue;
        params.stop = &text;
        params.n_stop = wild[i];
        EXPECT(RF_ERROR_PARAM, rf_generate(ctx, sampler, &token, 1, &params, NULL, NULL, &result));
        MESSAGE("stop");
        params.n_stop = 0;
        chat.roles = chat.contents = &text;
        chat.n_messages = wild[i];
        EXPECT(RF_ERROR_PARAM, rf_chat_apply(f->model, &chat, NULL, 0, &n));
        MESSAGE("messages");
    }
    const float in = 1;
    float out = 0;
    EXPECT(RF_ERROR_PARAM, rf_op_transpose(f->backend, &in, &out, (size_t)1 << 32, (size_t)1 << 32));
    EXPECT(RF_ERROR_PARAM, rf_op_transpose(f->backend, &in, &out, (size_t)1 << 31, (size_t)1 << 30));
    const size_t longest[] = {(size_t)-1, (size_t)1 << 63};
    for (size_t i = 0; i < 2; i++) {
        EXPECT(RF_ERROR_PARAM, rf_tokenize(f->model, "a", longest[i], 0, NULL, 0, &n));
        EXPECT(RF_ERROR_PARAM, rf_detokenize(f->model, &token, longest[i], 0, NULL, 0, &n));
        EXPECT(RF_ERROR_PARAM, rf_detokenize(f->model, &token, 1, 0, (char *)&out, longest[i], &n));
    }
    OK(rf_decode(ctx, &(rf_batch){.size = sizeof(rf_batch), .n = 1, .tokens = &token}));
    rf_sampler_release(sampler);
    rf_context_release(ctx);
}

static void sampler_ranges(void) {
    rf_sampler_params good;
    OK(rf_sampler_params_init(&good, sizeof good));
    const float nan = strtof("nan", NULL);
    float rf_sampler_params_bad[] = {nan, -1, 2};
    for (size_t i = 0; i < 3; i++) {
        rf_sampler *sampler = NULL;
        rf_sampler_params params = good;
        params.top_p = rf_sampler_params_bad[i];
        EXPECT(RF_ERROR_PARAM, rf_sampler_create(&params, &sampler));
        params = good;
        params.min_p = rf_sampler_params_bad[i];
        EXPECT(RF_ERROR_PARAM, rf_sampler_create(&params, &sampler));
        CHECK(sampler == NULL);
    }
    rf_sampler *sampler = NULL;
    rf_sampler_params params = good;
    params.temperature = nan;
    EXPECT(RF_ERROR_PARAM, rf_sampler_create(&params, &sampler));
    params = good;
    params.repeat_penalty = 0;
    EXPECT(RF_ERROR_PARAM, rf_sampler_create(&params, &sampler));
}

static void context_ranges(const fixture *f) {
    rf_context_params params;
    rf_context *ctx = NULL;
    OK(rf_context_params_init(&params, sizeof params));
    params.n_ctx = UINT32_MAX;
    rf_status status = rf_context_create(f->model, &params, &ctx);
    if (status == RF_OK) FAIL("4 billion positions of cache");
    CHECK(ctx == NULL && rf_last_error()[0]);
    params.n_ctx = 1u << 28; /* allowed, and more than there is */
    EXPECT(RF_ERROR_MEMORY, rf_context_create(f->model, &params, &ctx));
    OK(rf_context_params_init(&params, sizeof params));
    params.n_seq_max = UINT32_MAX;
    status = rf_context_create(f->model, &params, &ctx);
    if (status == RF_OK) FAIL("4 billion sequences");
    CHECK(ctx == NULL && rf_last_error()[0]);
}

static void last_error_fields(void) {
    EXPECT(RF_ERROR_PARAM, rf_device_count(99, NULL));
    rf_error_info info = {.size = sizeof info};
    OK(rf_last_error_info(&info));
    CHECK(info.status == RF_ERROR_PARAM && info.message == rf_last_error());
    CHECK(info.kernel == NULL && info.hip_name == NULL && info.hip_call == NULL && info.device == -1);
}

int main(int argc, char **argv) {
    CHECK(strcmp(rf_last_error(), "") == 0);
    fixture f = set_up(argc, argv);
    struct_sizes(&f);
    enums_and_flags(&f);
    no_gpu();
    placement(&f);
    wild_counts(&f);
    sampler_ranges();
    context_ranges(&f);
    last_error_fields();
    tear_down(&f);
    return 0;
}
