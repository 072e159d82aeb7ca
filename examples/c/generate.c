/* Answers one question with a chat model: load, apply the chat template, generate, text as it comes.
 *
 *     generate MODEL.gguf "Why is the sky blue?" [MAX_TOKENS]
 *
 * Text goes to stdout, all else to stderr. */
#include <rocmforge.h>
#include <stdio.h>
#include <stdlib.h>

/* Each call gives a status; the first that is not RF_OK ends the program, by way of the releases below. */
#define TRY(call)                                                                                          \
    do {                                                                                                   \
        status = (call);                                                                                   \
        if (status != RF_OK) goto done;                                                                    \
    } while (0)

static int32_t print_text(void *user, rf_token token, const char *text, size_t text_len) {
    (void)user, (void)token;
    fwrite(text, 1, text_len, stdout);
    fflush(stdout);
    return ferror(stdout); /* stop when nobody reads any more */
}

/* The question as the tokens that the model expects, in memory that the caller frees. */
static rf_status make_prompt(const rf_model *model, const char *question, rf_token **tokens, size_t *n) {
    const char *role = "user";
    rf_chat_params chat;
    rf_status status = rf_chat_params_init(&chat, sizeof chat);
    if (status != RF_OK) return status;
    chat.n_messages = 1;
    chat.roles = &role;
    chat.contents = &question;

    /* First how many, then the tokens themselves. */
    status = rf_chat_apply(model, &chat, NULL, 0, n);
    if (status != RF_ERROR_BUFFER) return status;
    *tokens = malloc(*n * sizeof **tokens);
    if (*tokens == NULL) return RF_ERROR_MEMORY;
    return rf_chat_apply(model, &chat, *tokens, *n, n);
}

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: %s MODEL.gguf QUESTION [MAX_TOKENS]\n", argv[0]);
        return 2;
    }
    rf_status status;
    rf_backend *backend = NULL;
    rf_model *model = NULL;
    rf_context *ctx = NULL;
    rf_sampler *sampler = NULL;
    rf_token *prompt = NULL;
    size_t n_prompt = 0;

    rf_backend_params backend_params;
    TRY(rf_backend_params_init(&backend_params, sizeof backend_params));
    TRY(rf_backend_create(&backend_params, &backend));

    rf_model_params model_params;
    TRY(rf_model_params_init(&model_params, sizeof model_params));
    TRY(rf_model_load(backend, argv[1], &model_params, &model));
    TRY(make_prompt(model, argv[2], &prompt, &n_prompt));

    rf_context_params context_params;
    TRY(rf_context_params_init(&context_params, sizeof context_params));
    TRY(rf_context_create(model, &context_params, &ctx));

    rf_sampler_params sampler_params;
    TRY(rf_sampler_params_init(&sampler_params, sizeof sampler_params));
    sampler_params.temperature = 0; /* greedy: the same answer each time */
    TRY(rf_sampler_create(&sampler_params, &sampler));

    rf_generate_params params;
    rf_generation result;
    TRY(rf_generate_params_init(&params, sizeof params));
    params.max_tokens = argc == 4 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
    result.size = sizeof result;
    TRY(rf_generate(ctx, sampler, prompt, n_prompt, &params, print_text, NULL, &result));
    printf("\n");
    fprintf(stderr, "%lu tokens in, %lu out, %.1f per second\n", (unsigned long)result.prompt_tokens,
            (unsigned long)result.n_tokens, 1e6 * (double)result.n_tokens / (double)(result.decode_us + 1));

done:
    if (status != RF_OK) fprintf(stderr, "%s: %s\n", rf_status_name(status), rf_last_error());
    free(prompt);
    rf_sampler_release(sampler);
    rf_context_release(ctx);
    rf_model_release(model);
    rf_backend_release(backend);
    return status == RF_OK ? 0 : 1;
}
