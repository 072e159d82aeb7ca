/* The logits that llama.cpp computes for given tokens, to hold ours against.
 *
 *     peer_logits [--exact] MODEL OUT ID,ID,...
 *
 * OUT gets little-endian f32, one row of n_vocab per token; standard output gets "n_tokens n_vocab", as
 * `rocmforge logits` does. --exact keeps the cache in f32 and computes attention without the fused kernel, which
 * rounds to f16: with a model file of F32 tensors, that makes everything f32.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama.h"

static void errors_only(enum ggml_log_level level, const char *text, void *unused) {
    (void)unused;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static int fail(const char *what) {
    fprintf(stderr, "peer_logits: %s\n", what);
    return 1;
}

/* Reads "1,2,3" into a batch that wants the logits of each; returns the count, or -1. */
static int parse_tokens(const char *list, struct llama_batch *batch, int capacity) {
    int n = 0;
    while (n < capacity) {
        char *end;
        errno = 0;
        long id = strtol(list, &end, 10);
        if (end == list || errno || id < 0) return -1;
        batch->token[n] = (llama_token)id;
        batch->pos[n] = n;
        batch->n_seq_id[n] = 1;
        batch->seq_id[n][0] = 0;
        batch->logits[n] = 1;
        n++;
        if (*end == 0) return n;
        if (*end != ',') return -1;
        list = end + 1;
    }
    return -1;
}

int main(int argc, char **argv) {
    const int exact = argc == 5 && strcmp(argv[1], "--exact") == 0;
    if (argc != 4 + exact) {
        fprintf(stderr, "usage: peer_logits [--exact] MODEL OUT ID,ID,...\n");
        return 2;
    }
    const char *model_path = argv[1 + exact], *out_path = argv[2 + exact], *list = argv[3 + exact];

    llama_log_set(errors_only, NULL);
    llama_backend_init();

    const int capacity = (int)strlen(list) / 2 + 1;
    struct llama_batch batch = llama_batch_init(capacity, 0, 1);
    batch.n_tokens = parse_tokens(list, &batch, capacity);
    if (batch.n_tokens < 0) return fail("the tokens are not numbers with commas between");

    struct llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    struct llama_model *model = llama_model_load_from_file(model_path, model_params);
    if (!model) return fail("cannot load the model");

    /* one step for all tokens, so that nothing depends on how they are cut */
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = batch.n_tokens < 256 ? 256 : (uint32_t)batch.n_tokens;
    params.n_threads = params.n_threads_batch = 1; /* threads that spin wait for each other on a machine that is busy */
    if (exact) {
        params.type_k = params.type_v = GGML_TYPE_F32;
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    }
    struct llama_context *context = llama_init_from_model(model, params);
    if (!context) return fail("cannot make a context");
    if (llama_decode(context, batch) != 0) return fail("cannot evaluate the tokens");

    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    FILE *out = fopen(out_path, "wb");
    if (!out) return fail(strerror(errno));
    for (int i = 0; i < batch.n_tokens; i++) {
        if (fwrite(llama_get_logits_ith(context, i), sizeof(float), n_vocab, out) != (size_t)n_vocab)
            return fail(strerror(errno));
    }
    if (fclose(out) != 0) return fail(strerror(errno));
    printf("%d %d\n", batch.n_tokens, n_vocab);

    llama_free(context);
    llama_model_free(model);
    llama_batch_free(batch);
    llama_backend_free();
    return 0;
}
