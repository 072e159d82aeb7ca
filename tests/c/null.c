/* NULL for every pointer of every function: RF_ERROR_PARAM and a message, or the meaning that the header gives it. */
#include "check.h"

#define REFUSED(call) EXPECT(RF_ERROR_PARAM, call)

/* The call ends in `_e(..., &error)`: the struct tells the same as the last error. */
#define REFUSED_E(call)                                                                                    \
    do {                                                                                                   \
        memset(error.message, 0, sizeof error.message);                                                    \
        REFUSED(call);                                                                                     \
        CHECK(error.status == RF_ERROR_PARAM && strcmp(error.message, rf_last_error()) == 0);              \
    } while (0)

int main(int argc, char **argv) {
    fixture f = set_up(argc, argv);
    rf_context *ctx = make_context(f.model, 64, 1);
    rf_sampler *sampler = make_sampler(0, 0);

    rf_backend_params backend_params;
    rf_model_params model_params;
    rf_context_params context_params;
    rf_sampler_params sampler_params;
    rf_generate_params generate_params;
    rf_chat_params chat_params;
    OK(rf_backend_params_init(&backend_params, sizeof backend_params));
    OK(rf_model_params_init(&model_params, sizeof model_params));
    OK(rf_context_params_init(&context_params, sizeof context_params));
    OK(rf_sampler_params_init(&sampler_params, sizeof sampler_params));
    OK(rf_generate_params_init(&generate_params, sizeof generate_params));
    OK(rf_chat_params_init(&chat_params, sizeof chat_params));
    rf_device_details device = {.size = sizeof device};
    rf_model_details model_details = {.size = sizeof model_details};
    rf_tensor_details tensor = {.size = sizeof tensor};
    rf_meta_details meta = {.size = sizeof meta};
    rf_token_details token_details = {.size = sizeof token_details};
    rf_context_details context_details = {.size = sizeof context_details};
    rf_perf_counters perf = {.size = sizeof perf};
    rf_generation generation = {.size = sizeof generation};
    rf_token tokens[4] = {1, 2, 3, 4};
    const char *one_text[] = {"user"}, *null_text[] = {NULL};
    rf_batch batch = {.size = sizeof batch, .n = 4, .tokens = tokens};
    rf_batch no_tokens = {.size = sizeof batch, .n = 4};
    uint32_t u = 77, v = 77;
    uint64_t u64 = 77;
    int64_t i64 = 77;
    double f64 = 77;
    size_t n = 77;
    float in[4] = {1, 2, 3, 4}, out[4];
    char text[64];
    rf_token token = 77;
    const float *logits = in;
    rf_backend *backend = NULL;
    rf_model *model = NULL;
    rf_context *context = NULL;
    rf_sampler *other = NULL;

    /* Library: nothing to pass, or never NULL. */
    CHECK(rf_abi_version() == RF_ABI_VERSION);
    CHECK(rf_version() != NULL && rf_status_name(-99) != NULL && rf_last_error() != NULL);
    REFUSED(rf_last_error_info(NULL));

    REFUSED(rf_device_count(RF_DEVICE_CPU, NULL));
    REFUSED(rf_device_info(RF_DEVICE_CPU, 0, NULL));

    REFUSED(rf_backend_params_init(NULL, sizeof backend_params));
    REFUSED(rf_backend_create(NULL, &backend));
    REFUSED(rf_backend_create(&backend_params, NULL));
    REFUSED(rf_backend_info(NULL, &device));
    REFUSED(rf_backend_info(f.backend, NULL));
    REFUSED(rf_backend_memory(NULL, &u64, &u64));
    REFUSED(rf_backend_memory(f.backend, NULL, &u64));
    REFUSED(rf_backend_memory(f.backend, &u64, NULL));
    rf_backend_release(NULL);
    REFUSED(rf_op_transpose(NULL, in, out, 2, 2));
    REFUSED(rf_op_transpose(f.backend, NULL, out, 2, 2));
    REFUSED(rf_op_transpose(f.backend, in, NULL, 2, 2));
    OK(rf_op_transpose(f.backend, NULL, NULL, 0, 2));

    REFUSED(rf_model_params_init(NULL, sizeof model_params));
    REFUSED(rf_model_load(NULL, f.path, &model_params, &model));
    REFUSED(rf_model_load(f.backend, NULL, &model_params, &model));
    REFUSED(rf_model_load(f.backend, f.path, NULL, &model));
    REFUSED(rf_model_load(f.backend, f.path, &model_params, NULL));
    REFUSED(rf_model_info(NULL, &model_details));
    REFUSED(rf_model_info(f.model, NULL));
    REFUSED(rf_model_tensor_count(NULL, &n));
    REFUSED(rf_model_tensor_count(f.model, NULL));
    REFUSED(rf_model_tensor_at(NULL, 0, &tensor));
    REFUSED(rf_model_tensor_at(f.model, 0, NULL));
    REFUSED(rf_model_tensor_find(NULL, "token_embd.weight", &n));
    REFUSED(rf_model_tensor_find(f.model, NULL, &n));
    REFUSED(rf_model_tensor_find(f.model, "token_embd.weight", NULL));
    rf_model_release(NULL);

    REFUSED(rf_model_meta_count(NULL, &n));
    REFUSED(rf_model_meta_count(f.model, NULL));
    REFUSED(rf_model_meta_at(NULL, 0, &meta));
    REFUSED(rf_model_meta_at(f.model, 0, NULL));
    REFUSED(rf_model_meta_find(NULL, "general.name", &n));
    REFUSED(rf_model_meta_find(f.model, NULL, &n));
    REFUSED(rf_model_meta_find(f.model, "general.name", NULL));
    REFUSED(rf_model_meta_text(NULL, 0, text, sizeof text, &n));
    REFUSED(rf_model_meta_text(f.model, 0, NULL, sizeof text, &n));
    REFUSED(rf_model_meta_text(f.model, 0, text, sizeof text, NULL));
    REFUSED(rf_model_meta_string(NULL, 0, 0, text, sizeof text, &n));
    REFUSED(rf_model_meta_string(f.model, 0, 0, NULL, sizeof text, &n));
    REFUSED(rf_model_meta_string(f.model, 0, 0, text, sizeof text, NULL));
    REFUSED(rf_model_meta_u64(NULL, 0, 0, &u64));
    REFUSED(rf_model_meta_u64(f.model, 0, 0, NULL));
    REFUSED(rf_model_meta_i64(NULL, 0, 0, &i64));
    REFUSED(rf_model_meta_i64(f.model, 0, 0, NULL));
    REFUSED(rf_model_meta_f64(NULL, 0, 0, &f64));
    REFUSED(rf_model_meta_f64(f.model, 0, 0, NULL));

    REFUSED(rf_tokenize(NULL, "a", 1, 0, tokens, 4, &n));
    REFUSED(rf_tokenize(f.model, NULL, 1, 0, tokens, 4, &n));
    REFUSED(rf_tokenize(f.model, "a", 1, 0, NULL, 4, &n));
    REFUSED(rf_tokenize(f.model, "a", 1, 0, tokens, 4, NULL));
    REFUSED(rf_detokenize(NULL, tokens, 4, 0, text, sizeof text, &n));
    REFUSED(rf_detokenize(f.model, NULL, 4, 0, text, sizeof text, &n));
    REFUSED(rf_detokenize(f.model, tokens, 4, 0, NULL, sizeof text, &n));
    REFUSED(rf_detokenize(f.model, tokens, 4, 0, text, sizeof text, NULL));
    REFUSED(rf_token_info(NULL, 0, &token_details));
    REFUSED(rf_token_info(f.model, 0, NULL));
    REFUSED(rf_chat_params_init(NULL, sizeof chat_params));
    chat_params.n_messages = 1;
    REFUSED(rf_chat_apply(f.model, &chat_params, tokens, 4, &n)); /* roles, contents */
    chat_params.roles = one_text;
    REFUSED(rf_chat_apply(f.model, &chat_params, tokens, 4, &n)); /* contents */
    chat_params.contents = null_text;
    REFUSED(rf_chat_apply(f.model, &chat_params, tokens, 4, &n)); /* contents[0] */
    chat_params.contents = one_text;
    chat_params.roles = null_text;
    REFUSED(rf_chat_apply(f.model, &chat_params, tokens, 4, &n)); /* roles[0] */
    chat_params.roles = one_text;
    REFUSED(rf_chat_apply(NULL, &chat_params, tokens, 4, &n));
    REFUSED(rf_chat_apply(f.model, NULL, tokens, 4, &n));
    REFUSED(rf_chat_apply(f.model, &chat_params, NULL, 4, &n));
    REFUSED(rf_chat_apply(f.model, &chat_params, tokens, 4, NULL));
    REFUSED(rf_chat_text(NULL, &chat_params, text, sizeof text, &n));
    REFUSED(rf_chat_text(f.model, NULL, text, sizeof text, &n));
    REFUSED(rf_chat_text(f.model, &chat_params, NULL, sizeof text, &n));
    REFUSED(rf_chat_text(f.model, &chat_params, text, sizeof text, NULL));

    REFUSED(rf_context_params_init(NULL, sizeof context_params));
    REFUSED(rf_context_create(NULL, &context_params, &context));
    REFUSED(rf_context_create(f.model, NULL, &context));
    REFUSED(rf_context_create(f.model, &context_params, NULL));
    REFUSED(rf_context_info(NULL, &context_details));
    REFUSED(rf_context_info(ctx, NULL));
    CHECK(strcmp(rf_context_error(NULL), "") == 0);
    REFUSED(rf_context_cancel(NULL));
    REFUSED(rf_context_uncancel(NULL));
    rf_context_release(NULL);
    REFUSED(rf_decode(NULL, &batch));
    REFUSED(rf_decode(ctx, NULL));
    REFUSED(rf_decode(ctx, &no_tokens));
    REFUSED(rf_kv_clear(NULL));
    REFUSED(rf_kv_remove(NULL, 0, 0));
    REFUSED(rf_kv_copy(NULL, 0, 0, 0));
    REFUSED(rf_kv_reachable(NULL, 0, 0, &u));
    REFUSED(rf_kv_reachable(ctx, 0, 0, NULL));
    REFUSED(rf_kv_range(NULL, 0, &u, &v));
    REFUSED(rf_kv_range(ctx, 0, NULL, &v));
    REFUSED(rf_kv_range(ctx, 0, &u, NULL));
    REFUSED(rf_perf(NULL, &perf));
    REFUSED(rf_perf(ctx, NULL));
    REFUSED(rf_perf_reset(NULL));

    OK(rf_decode(ctx, &batch)); /* so that row 0 exists, and only the NULL is wrong */
    REFUSED(rf_logits(NULL, 0, &logits, &n));
    REFUSED(rf_logits(ctx, 0, NULL, &n));
    REFUSED(rf_logits(ctx, 0, &logits, NULL));
    REFUSED(rf_sampler_params_init(NULL, sizeof sampler_params));
    REFUSED(rf_sampler_create(NULL, &other));
    REFUSED(rf_sampler_create(&sampler_params, NULL));
    REFUSED(rf_sample(NULL, ctx, 0, &token));
    REFUSED(rf_sample(sampler, NULL, 0, &token));
    REFUSED(rf_sample(sampler, ctx, 0, NULL));
    rf_sampler *const samplers[1] = {sampler}, *const no_samplers[1] = {NULL};
    const size_t row = 0;
    REFUSED(rf_sample_rows(NULL, ctx, &row, 1, &token));
    REFUSED(rf_sample_rows(no_samplers, ctx, &row, 1, &token));
    REFUSED(rf_sample_rows(samplers, NULL, &row, 1, &token));
    REFUSED(rf_sample_rows(samplers, ctx, NULL, 1, &token));
    REFUSED(rf_sample_rows(samplers, ctx, &row, 1, NULL));
    REFUSED(rf_sampler_accept(NULL, 1));
    REFUSED(rf_sampler_reset(NULL));
    rf_sampler_release(NULL);

    REFUSED(rf_generate_params_init(NULL, sizeof generate_params));
    REFUSED(rf_generate(NULL, sampler, tokens, 4, &generate_params, NULL, NULL, &generation));
    REFUSED(rf_generate(ctx, NULL, tokens, 4, &generate_params, NULL, NULL, &generation));
    REFUSED(rf_generate(ctx, sampler, NULL, 4, &generate_params, NULL, NULL, &generation));
    REFUSED(rf_generate(ctx, sampler, tokens, 4, NULL, NULL, NULL, &generation));
    REFUSED(rf_generate(ctx, sampler, tokens, 4, &generate_params, NULL, NULL, NULL));
    generate_params.n_stop = 1;
    REFUSED(rf_generate(ctx, sampler, tokens, 4, &generate_params, NULL, NULL, &generation));
    generate_params.stop = null_text;
    REFUSED(rf_generate(ctx, sampler, tokens, 4, &generate_params, NULL, NULL, &generation));

    /* The calls that give their error to the caller: a NULL each, and no error at all once. */
    rf_error error = {.size = sizeof error};
    REFUSED(rf_model_meta_count_e(NULL, &n, NULL));
    REFUSED_E(rf_backend_create_e(NULL, &backend, &error));
    REFUSED_E(rf_backend_info_e(NULL, &device, &error));
    REFUSED_E(rf_backend_memory_e(f.backend, NULL, &u64, &error));
    REFUSED_E(rf_op_transpose_e(f.backend, NULL, out, 2, 2, &error));
    REFUSED_E(rf_device_count_e(RF_DEVICE_CPU, NULL, &error));
    REFUSED_E(rf_device_info_e(RF_DEVICE_CPU, 0, NULL, &error));
    REFUSED_E(rf_model_load_e(f.backend, NULL, &model_params, &model, &error));
    REFUSED_E(rf_model_info_e(NULL, &model_details, &error));
    REFUSED_E(rf_model_tensor_count_e(NULL, &n, &error));
    REFUSED_E(rf_model_tensor_at_e(f.model, 0, NULL, &error));
    REFUSED_E(rf_model_tensor_find_e(f.model, NULL, &n, &error));
    REFUSED_E(rf_model_meta_count_e(NULL, &n, &error));
    REFUSED_E(rf_model_meta_at_e(f.model, 0, NULL, &error));
    REFUSED_E(rf_model_meta_find_e(f.model, NULL, &n, &error));
    REFUSED_E(rf_model_meta_text_e(f.model, 0, NULL, sizeof text, &n, &error));
    REFUSED_E(rf_model_meta_string_e(NULL, 0, 0, text, sizeof text, &n, &error));
    REFUSED_E(rf_model_meta_u64_e(f.model, 0, 0, NULL, &error));
    REFUSED_E(rf_model_meta_i64_e(f.model, 0, 0, NULL, &error));
    REFUSED_E(rf_model_meta_f64_e(f.model, 0, 0, NULL, &error));
    REFUSED_E(rf_tokenize_e(f.model, NULL, 1, 0, tokens, 4, &n, &error));
    REFUSED_E(rf_detokenize_e(f.model, NULL, 4, 0, text, sizeof text, &n, &error));
    REFUSED_E(rf_token_info_e(f.model, 0, NULL, &error));
    REFUSED_E(rf_chat_apply_e(f.model, NULL, tokens, 4, &n, &error));
    REFUSED_E(rf_chat_text_e(f.model, NULL, text, sizeof text, &n, &error));
    REFUSED_E(rf_context_create_e(f.model, NULL, &context, &error));
    REFUSED_E(rf_sampler_create_e(NULL, &other, &error));
    REFUSED_E(rf_sampler_accept_e(NULL, 1, &error));
    REFUSED_E(rf_sampler_reset_e(NULL, &error));

    /* Nothing was written on the way. */
    CHECK(u == 77 && v == 77 && u64 == 77 && i64 == 77 && f64 == 77 && token == 77 && logits == in);
    CHECK(!backend && !model && !context && !other);
    CHECK(generation.tokens == NULL && model_details.n_vocab == 0);

    rf_sampler_release(sampler);
    rf_context_release(ctx);
    tear_down(&f);
    return 0;
}
