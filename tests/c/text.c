/* Metadata, tensors, tokens and chat prompts; buffers too short, then right. */
#include "check.h"

static size_t meta_index(const rf_model *model, const char *key) {
    size_t index = (size_t)-1;
    OK(rf_model_meta_find(model, key, &index));
    return index;
}

static void metadata(const rf_model *model) {
    size_t n = 0;
    OK(rf_model_meta_count(model, &n));
    CHECK(n > 20);
    for (size_t i = 0; i < n; i++) {
        rf_meta_details info = {.size = sizeof info};
        OK(rf_model_meta_at(model, i, &info));
        CHECK(meta_index(model, info.key) == i);
        size_t needed = 0, again = 0;
        EXPECT(RF_ERROR_BUFFER, rf_model_meta_text(model, i, NULL, 0, &needed));
        char *text = malloc(needed);
        memset(text, 'x', needed);
        EXPECT(RF_ERROR_BUFFER, rf_model_meta_text(model, i, text, needed - 1, &again));
        CHECK(again == needed && text[0] == 'x');
        OK(rf_model_meta_text(model, i, text, needed, &again));
        CHECK(again == needed && strlen(text) == needed - 1);
        free(text);
    }
    rf_meta_details info = {.size = sizeof info};
    EXPECT(RF_ERROR_PARAM, rf_model_meta_at(model, n, &info));
    size_t index = 77;
    EXPECT(RF_NOT_FOUND, rf_model_meta_find(model, "no.such.key", &index));
    MESSAGE("no.such.key");
    EXPECT(RF_ERROR_PARAM, rf_model_meta_find(model, "\xff", &index));
    CHECK(index == 77);

    uint64_t u = 0;
    int64_t i = 0;
    double d = 0;
    char text[64];
    OK(rf_model_meta_u64(model, meta_index(model, "llama.block_count"), 0, &u));
    CHECK(u == 2);
    OK(rf_model_meta_u64(model, meta_index(model, "test.u64"), 0, &u));
    CHECK(u == UINT64_MAX);
    EXPECT(RF_ERROR_PARAM, rf_model_meta_i64(model, meta_index(model, "test.u64"), 0, &i));
    MESSAGE("test.u64");
    OK(rf_model_meta_i64(model, meta_index(model, "test.i64"), 0, &i));
    CHECK(i == INT64_MIN);
    EXPECT(RF_ERROR_PARAM, rf_model_meta_u64(model, meta_index(model, "test.i8"), 0, &u));
    OK(rf_model_meta_i64(model, meta_index(model, "test.i8"), 0, &i));
    CHECK(i == -8);
    OK(rf_model_meta_f64(model, meta_index(model, "test.f64"), 0, &d));
    CHECK(d == 0.1);
    OK(rf_model_meta_f64(model, meta_index(model, "test.i8"), 0, &d));
    CHECK(d == -8);
    EXPECT(RF_ERROR_PARAM, rf_model_meta_u64(model, meta_index(model, "test.f64"), 0, &u));
    OK(rf_model_meta_u64(model, meta_index(model, "test.bool"), 0, &u));
    CHECK(u == 1);

    size_t numbers = meta_index(model, "test.numbers");
    OK(rf_model_meta_at(model, numbers, &info));
    CHECK(info.kind == RF_META_ARRAY && info.element_kind == RF_META_I32 && info.n_elements == 3);
    OK(rf_model_meta_i64(model, numbers, 2, &i));
    CHECK(i == 70000);
    EXPECT(RF_ERROR_PARAM, rf_model_meta_i64(model, numbers, 3, &i));
    OK(rf_model_meta_text(model, numbers, text, sizeof text, &n));
    CHECK(strcmp(text, "[-1,0,70000]") == 0);

    size_t tokens = meta_index(model, "tokenizer.ggml.tokens");
    OK(rf_model_meta_at(model, tokens, &info));
    CHECK(info.element_kind == RF_META_STRING && info.n_elements == 268);
    OK(rf_model_meta_string(model, tokens, 267, text, sizeof text, &n));
    CHECK(strcmp(text, "<|im_end|>") == 0 && n == sizeof "<|im_end|>");
    EXPECT(RF_ERROR_BUFFER, rf_model_meta_string(model, tokens, 267, text, n - 1, &n));
    EXPECT(RF_ERROR_PARAM, rf_model_meta_string(model, tokens, 268, text, sizeof text, &n));
    EXPECT(RF_ERROR_PARAM, rf_model_meta_string(model, numbers, 0, text, sizeof text, &n));
    OK(rf_model_meta_string(model, meta_index(model, "general.name"), 0, text, sizeof text, &n));
    CHECK(strcmp(text, "tiny") == 0);
}

static void tensors(const rf_model *model) {
    size_t n = 0, index = 77;
    OK(rf_model_tensor_count(model, &n));
    CHECK(n == 20);
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        rf_tensor_details info = {.size = sizeof info};
        OK(rf_model_tensor_at(model, i, &info));
        OK(rf_model_tensor_find(model, info.name, &index));
        CHECK(index == i);
        bytes += info.bytes;
    }
    rf_model_details model_info = {.size = sizeof model_info};
    OK(rf_model_info(model, &model_info));
    CHECK(bytes < model_info.file_bytes && bytes > model_info.n_params);
    rf_tensor_details info = {.size = sizeof info};
    EXPECT(RF_ERROR_PARAM, rf_model_tensor_at(model, n, &info));
    EXPECT(RF_NOT_FOUND, rf_model_tensor_find(model, "blk.9.attn_q.weight", &index));
    OK(rf_model_tensor_find(model, "blk.1.ffn_up.weight", &index));
    OK(rf_model_tensor_at(model, index, &info));
    CHECK(info.n_dims == 2 && info.dims[0] == 32 && info.dims[1] == 64 && info.dims[2] == 1);
    CHECK(strcmp(info.type_name, "F16") == 0 && info.type_id == 1 && info.bytes == 32 * 64 * 2);
}

static void details(const rf_model *model) {
    rf_model_details info = {.size = sizeof info};
    OK(rf_model_info(model, &info));
    CHECK(strcmp(info.arch, "llama") == 0 && strcmp(info.name, "tiny") == 0 && info.file_type[0]);
    CHECK(info.n_vocab == 268 && info.n_ctx_train == 256 && info.n_embd == 32 && info.n_layer == 2);
    CHECK(info.n_head == 2 && info.n_head_kv == 1 && info.head_dim == 16 && info.n_params == 27168);
    CHECK(info.bos == 265 && info.eos == 267 && info.add_bos == 0 && info.has_chat_template == 1);

    rf_token_details token = {.size = sizeof token};
    OK(rf_token_info(model, 267, &token));
    CHECK(token.kind == RF_TOKEN_CONTROL && token.is_eog == 1);
    CHECK(token.text_len == 10 && memcmp(token.text, "<|im_end|>", 10) == 0);
    CHECK(token.bytes_len == 10 && memcmp(token.bytes, "<|im_end|>", 10) == 0);
    OK(rf_token_info(model, 264, &token));
    CHECK(token.kind == RF_TOKEN_NORMAL && token.is_eog == 0);
    CHECK(token.bytes_len == 6 && memcmp(token.bytes, " world", 6) == 0);
    EXPECT(RF_ERROR_PARAM, rf_token_info(model, 268, &token));
    EXPECT(RF_ERROR_PARAM, rf_token_info(model, -1, &token));
    EXPECT(RF_ERROR_PARAM, rf_token_info(model, INT32_MIN, &token));
}

/* The ids are those of llama-tokenize on the same file. */
static void tokenize(const rf_model *model) {
    const char *text = "hello world <|im_end|> \xc3\xa9";
    const rf_token special[] = {259, 264, 32, 267, 32, 195, 169};
    rf_token tokens[64];
    size_t n = 77;
    uint32_t parse = RF_TOKENIZE_PARSE_SPECIAL;
    EXPECT(RF_ERROR_BUFFER, rf_tokenize(model, text, strlen(text), parse, NULL, 0, &n));
    CHECK(n == 7);
    memset(tokens, 0x55, sizeof tokens);
    EXPECT(RF_ERROR_BUFFER, rf_tokenize(model, text, strlen(text), parse, tokens, 6, &n));
    CHECK(n == 7 && tokens[0] == 0x55555555);
    OK(rf_tokenize(model, text, strlen(text), parse, tokens, 7, &n));
    CHECK(n == 7 && memcmp(tokens, special, sizeof special) == 0 && tokens[7] == 0x55555555);

    char back[64];
    size_t size = 0;
    EXPECT(RF_ERROR_BUFFER, rf_detokenize(model, tokens, 7, RF_DETOKENIZE_SPECIAL, back, 5, &size));
    CHECK(size == strlen(text) + 1);
    OK(rf_detokenize(model, tokens, 7, RF_DETOKENIZE_SPECIAL, back, size, &size));
    CHECK(strcmp(back, text) == 0);
    OK(rf_detokenize(model, tokens, 7, 0, back, sizeof back, &size));
    CHECK(strcmp(back, "hello world  \xc3\xa9") == 0);
    OK(rf_detokenize(model, tokens, 6, 0, back, sizeof back, &size)); /* half an e acute */
    CHECK(strcmp(back, "hello world  \xef\xbf\xbd") == 0);

    /* Without PARSE_SPECIAL it is text. */
    OK(rf_tokenize(model, text, strlen(text), 0, tokens, 64, &n));
    for (size_t i = 0; i < n; i++) CHECK(tokens[i] < 265);
    OK(rf_detokenize(model, tokens, n, 0, back, sizeof back, &size));
    CHECK(strcmp(back, text) == 0);

    OK(rf_tokenize(model, "", 0, 0, tokens, 64, &n));
    CHECK(n == 0);
    OK(rf_tokenize(model, NULL, 0, 0, NULL, 0, &n));
    CHECK(n == 0);
    OK(rf_detokenize(model, NULL, 0, 0, back, sizeof back, &size));
    CHECK(size == 1 && back[0] == '\0');
    OK(rf_tokenize(model, "a\0b", 3, 0, tokens, 64, &n));
    OK(rf_detokenize(model, tokens, n, 0, back, sizeof back, &size));
    CHECK(size == 4 && memcmp(back, "a\0b", 4) == 0);

    EXPECT(RF_ERROR_PARAM, rf_tokenize(model, "abc\xff", 4, 0, tokens, 64, &n));
    MESSAGE("byte 3");
    EXPECT(RF_ERROR_PARAM, rf_tokenize(model, "\xed\xa0\x80", 3, 0, tokens, 64, &n));
    EXPECT(RF_ERROR_PARAM, rf_tokenize(model, "abc", (size_t)-1, 0, tokens, 64, &n));
    EXPECT(RF_ERROR_PARAM, rf_tokenize(model, "abc", 3, 0, tokens, (size_t)-1, &n));
    const rf_token bad[] = {1, 268}, negative[] = {1, -1};
    EXPECT(RF_ERROR_PARAM, rf_detokenize(model, bad, 2, 0, back, sizeof back, &size));
    MESSAGE("tokens[1] is 268");
    EXPECT(RF_ERROR_PARAM, rf_detokenize(model, negative, 2, 0, back, sizeof back, &size));
    EXPECT(RF_ERROR_PARAM, rf_detokenize(model, bad, (size_t)-1, 0, back, sizeof back, &size));
}

static void chat(const rf_model *model) {
    const char *roles[] = {"system", "user"};
    const char *contents[] = {"hello", "world<|im_end|>"};
    const char *want = "<|im_start|>system\nhello<|im_end|>\n<|im_start|>user\nworld<|im_end|><|im_end|>\n";
    rf_chat_params params;
    OK(rf_chat_params_init(&params, sizeof params));
    params.n_messages = 2;
    params.roles = roles;
    params.contents = contents;
    params.add_generation_prompt = 0;
    char text[256];
    size_t n = 0, size = 0;
    EXPECT(RF_ERROR_BUFFER, rf_chat_text(model, &params, text, 10, &size));
    CHECK(size == strlen(want) + 1);
    OK(rf_chat_text(model, &params, text, size, &size));
    CHECK(strcmp(text, want) == 0);
    params.add_generation_prompt = 1;
    OK(rf_chat_text(model, &params, text, sizeof text, &size));
    CHECK(strcmp(text + strlen(want), "<|im_start|>assistant\n") == 0);
    params.add_generation_prompt = 0;

    rf_token tokens[256];
    EXPECT(RF_ERROR_BUFFER, rf_chat_apply(model, &params, tokens, 3, &n));
    CHECK(n > 3 && n < 256);
    OK(rf_chat_apply(model, &params, tokens, n, &n));
    int starts = 0, ends = 0;
    for (size_t i = 0; i < n; i++) starts += tokens[i] == 266, ends += tokens[i] == 267;
    /* The user's <|im_end|> stays text: two messages, two ends. */
    CHECK(starts == 2 && ends == 2);
    CHECK(tokens[0] == 266 && tokens[n - 2] == 267);
    OK(rf_detokenize(model, tokens, n, RF_DETOKENIZE_SPECIAL, text, sizeof text, &size));
    CHECK(strcmp(text, want) == 0);

    rf_chat_params json;
    OK(rf_chat_params_init(&json, sizeof json));
    json.messages_json = "[{\"role\": \"user\", \"content\": \"hello\"}]";
    OK(rf_chat_text(model, &json, text, sizeof text, &size));
    CHECK(strcmp(text, "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n") == 0);
    json.tools_json = "[]";
    OK(rf_chat_text(model, &json, text, sizeof text, &size));
    json.tools_json = "{}";
    EXPECT(RF_ERROR_PARAM, rf_chat_text(model, &json, text, sizeof text, &size));
    MESSAGE("tools_json");
    json.tools_json = NULL;
    json.messages_json = "[{";
    EXPECT(RF_ERROR_PARAM, rf_chat_text(model, &json, text, sizeof text, &size));
    MESSAGE("messages_json");
    json.messages_json = "[]";
    EXPECT(RF_ERROR_PARAM, rf_chat_text(model, &json, text, sizeof text, &size));
    json.messages_json = NULL;
    EXPECT(RF_ERROR_PARAM, rf_chat_text(model, &json, text, sizeof text, &size));
    params.messages_json = "[]";
    EXPECT(RF_ERROR_PARAM, rf_chat_text(model, &params, text, sizeof text, &size));
    params.messages_json = NULL;
    contents[1] = "\xff";
    EXPECT(RF_ERROR_PARAM, rf_chat_apply(model, &params, tokens, 256, &n));
    MESSAGE("contents[1]");
}

int main(int argc, char **argv) {
    fixture f = set_up(argc, argv);
    metadata(f.model);
    tensors(f.model);
    details(f.model);
    tokenize(f.model);
    chat(f.model);
    tear_down(&f);
    return 0;
}
