/* Memory that fails: this program's malloc family stands before the C library's and refuses, while a call runs,
 *   - the n-th request alone, for n = 1, 2, 3, ...;
 *   - the n-th and all after it;
 *   - all of more than so many bytes.
 * Whatever it is, the call comes to the status that it comes to undisturbed, with the same result, or to
 * RF_ERROR_MEMORY; afterwards the same handles give the same result. Nothing leaks, prints or aborts.
 *
 *     alloc MODEL cpu|reference [POINTS]
 *
 * POINTS (400): most numbers n that are tried of a case; all where it makes no more requests than that. */
#define _GNU_SOURCE
#include "check.h"
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the memory ---- */

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

typedef enum { NONE, NTH, FROM, ABOVE } mode;
static _Atomic mode failing = NONE;
static atomic_size_t limit, requests, refusals;
static atomic_llong live; /* bytes */

static int refused(size_t size) {
    mode how = failing;
    if (how == NONE) return 0;
    size_t n = ++requests;
    int no = how == NTH ? n == limit : how == FROM ? n >= limit : size > limit;
    refusals += (size_t)no;
    if (no) errno = ENOMEM;
    return no;
}
static void *given(void *p) {
    if (p) live += (long long)malloc_usable_size(p);
    return p;
}
void *malloc(size_t n) { return refused(n) ? NULL : given(__libc_malloc(n)); }
void *calloc(size_t a, size_t b) { return refused(a * b) ? NULL : given(__libc_calloc(a, b)); }
void *realloc(void *p, size_t n) {
    if (refused(n)) return NULL;
    long long before = p ? (long long)malloc_usable_size(p) : 0;
    void *moved = __libc_realloc(p, n);
    if (moved || n == 0) live -= before;
    return given(moved);
}
int posix_memalign(void **p, size_t a, size_t n) {
    void *block = refused(n) ? NULL : given(__libc_memalign(a, n));
    if (block) *p = block;
    return block ? 0 : ENOMEM;
}
void *aligned_alloc(size_t a, size_t n) { return refused(n) ? NULL : given(__libc_memalign(a, n)); }
void *memalign(size_t a, size_t n) { return aligned_alloc(a, n); }
void free(void *p) {
    if (p) live -= (long long)malloc_usable_size(p);
    __libc_free(p);
}

static void arm(mode how, size_t n) {
    limit = n;
    requests = refusals = 0;
    failing = how;
}
static void disarm(void) { failing = NONE; }

/* ---- what is tried ---- */

typedef struct {
    const char *path;
    int32_t kind;
    rf_backend *backend;
    rf_model *model;
    rf_context *ctx;
    rf_sampler *sampler;
} world;

static const char *now = "";        /* the case, for messages */
static mode how_now;
static size_t n_now;
static int short_of_memory;         /* a call of the case came to RF_ERROR_MEMORY */
static uint64_t digest;             /* of the case's results */

static void mix(const void *p, size_t n) {
    for (const uint8_t *b = p, *end = b + n; b < end; b++) digest = (digest ^ *b) * 1099511628211u;
}
#define BAD(...)                                                                                           \
    do {                                                                                                   \
        disarm();                                                                                          \
        fprintf(stderr, "%s, %s %zu: ", now, how_now == NTH ? "request" : how_now == FROM ? "requests from"  \
                : how_now == ABOVE ? "requests above" : "undisturbed", n_now);                              \
        FAIL(__VA_ARGS__);                                                                                  \
    } while (0)

/* The call came to `normal`, or, while memory fails, to RF_ERROR_MEMORY. Nonzero: to `normal`. */
static int came(rf_status normal, rf_status got) {
    if (got != RF_OK && !rf_last_error()[0]) BAD("%s leaves no message", rf_status_name(got));
    if (got == normal) {
        mix(&got, sizeof got);
        return 1;
    }
    if (got != RF_ERROR_MEMORY || failing == NONE) BAD("%s, not %s", rf_status_name(got), rf_status_name(normal));
    short_of_memory = 1;
    return 0;
}

#define TEXT_LEN 3000
static char text[TEXT_LEN + 1];
static rf_token tokens[TEXT_LEN + 2];
static char out[1 << 16];
static char *large; /* for the file's longest array as text */
static size_t large_len;
static size_t tokens_key;

static void new_model(world *w) { w->model = load_model(w->backend, w->path); }
static void new_context(world *w) {
    rf_context_params p;
    OK(rf_context_params_init(&p, sizeof p));
    p.n_ctx = 256, p.n_batch = 32, p.n_seq_max = 4;
    OK(rf_context_create(w->model, &p, &w->ctx));
}
static void new_sampler(world *w) {
    rf_sampler_params p;
    OK(rf_sampler_params_init(&p, sizeof p));
    p.top_k = 0, p.repeat_penalty = 1.2f, p.penalty_last_n = 300, p.seed = 5;
    OK(rf_sampler_create(&p, &w->sampler));
}
static void model_context(world *w) { new_model(w), new_context(w); }
static void context_sampler(world *w) { new_context(w), new_sampler(w); }
static void take_line(void *user, int32_t level, const char *line) {
    (void)user, (void)level;
    if (!line[0]) abort();
}
static rf_backend *logging_backend(int32_t kind) {
    rf_backend_params p;
    OK(rf_backend_params_init(&p, sizeof p));
    p.kind = kind, p.threads = 2, p.log = take_line, p.log_level = RF_LOG_TRACE;
    rf_backend *b = NULL;
    OK(rf_backend_create(&p, &b));
    return b;
}
static void everything(world *w) {
    w->backend = logging_backend(w->kind);
    model_context(w);
    new_sampler(w);
}

static rf_status decode(world *w) {
    static rf_token ids[100];
    static uint32_t seq[100];
    static uint8_t want[100];
    for (int i = 0; i < 100; i++) ids[i] = i % 60, seq[i] = i % 3, want[i] = i % 7 == 0;
    rf_batch batch = {.size = sizeof batch, .n = 100, .tokens = ids, .seq = seq, .want = want};
    return rf_decode(w->ctx, &batch);
}
static void mix_logits(world *w) {
    for (size_t row = 0; row < 15; row++) {
        const float *logits;
        size_t n;
        if (came(RF_OK, rf_logits(w->ctx, row, &logits, &n))) mix(logits, n * sizeof *logits);
    }
}

static void backend(world *w) {
    rf_backend_params p;
    OK(rf_backend_params_init(&p, sizeof p));
    p.kind = w->kind, p.threads = 3, p.log = take_line, p.log_level = RF_LOG_TRACE;
    rf_backend *b = NULL;
    if (came(RF_OK, rf_backend_create(&p, &b))) rf_backend_release(b);
}
static void load(world *w) {
    rf_model_params p;
    OK(rf_model_params_init(&p, sizeof p));
    w->model = NULL;
    came(RF_OK, rf_model_load(w->backend, w->path, &p, &w->model));
}
static void loaded(world *w) {
    new_context(w);
    OK(decode(w));
    mix_logits(w);
}
static void context(world *w) {
    rf_context_params p;
    OK(rf_context_params_init(&p, sizeof p));
    p.n_ctx = 200, p.n_batch = 64, p.n_seq_max = 3;
    w->ctx = NULL;
    came(RF_OK, rf_context_create(w->model, &p, &w->ctx));
}
static void created(world *w) {
    OK(decode(w));
    mix_logits(w);
}
static void sampler(world *w) {
    rf_sampler_params p;
    OK(rf_sampler_params_init(&p, sizeof p));
    p.repeat_penalty = 1.1f;
    w->sampler = NULL;
    came(RF_OK, rf_sampler_create(&p, &w->sampler));
}
static void tokenize(world *w) {
    size_t n;
    if (came(RF_OK, rf_tokenize(w->model, text, TEXT_LEN, 3, tokens, TEXT_LEN + 2, &n))) mix(tokens, n * sizeof *tokens);
    came(RF_ERROR_BUFFER, rf_tokenize(w->model, text, TEXT_LEN, 0, NULL, 0, &n));
}
static void detokenize(world *w) {
    static rf_token ids[1000];
    for (int i = 0; i < 1000; i++) ids[i] = (i * 37) % 260;
    size_t n;
    if (came(RF_OK, rf_detokenize(w->model, ids, 1000, 1, out, sizeof out, &n))) mix(out, n);
}
static void chat(world *w) {
    rf_chat_params p;
    OK(rf_chat_params_init(&p, sizeof p));
    p.messages_json = "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"hello <|im_end|> \\u00e9\"}]";
    size_t n;
    if (came(RF_OK, rf_chat_apply(w->model, &p, tokens, TEXT_LEN, &n))) mix(tokens, n * sizeof *tokens);
    const char *roles[] = {"user", "assistant", "user"}, *contents[] = {"hi", "hello", text};
    OK(rf_chat_params_init(&p, sizeof p));
    p.n_messages = 3, p.roles = roles, p.contents = contents;
    if (came(RF_OK, rf_chat_text(w->model, &p, out, sizeof out, &n))) mix(out, n);
    p.contents = NULL, p.roles = NULL, p.n_messages = 0, p.messages_json = "[{]";
    came(RF_ERROR_PARAM, rf_chat_text(w->model, &p, out, sizeof out, &n));
}
static void evaluate(world *w) {
    rf_kv_clear(w->ctx);
    if (came(RF_OK, decode(w))) mix_logits(w);
    rf_token one = 5;
    rf_batch batch = {.size = sizeof batch, .n = 1, .tokens = &one};
    came(RF_OK, rf_decode(w->ctx, &batch));
    one = 1 << 30;
    came(RF_ERROR_PARAM, rf_decode(w->ctx, &batch));
    if (failing != NONE && rf_context_error(w->ctx)[0] == 0) BAD("the context has no message");
}
static void evaluated(world *w) {
    OK(rf_kv_clear(w->ctx));
    OK(decode(w));
    mix_logits(w);
}
static void new_decoded(world *w) {
    context_sampler(w);
    OK(decode(w));
    for (rf_token id = 0; id < 200; id++) OK(rf_sampler_accept(w->sampler, id));
}
static void sample(world *w) {
    for (size_t row = 0; row < 3; row++) {
        rf_token token;
        if (!came(RF_OK, rf_sample(w->sampler, w->ctx, row, &token))) return;
        mix(&token, sizeof token);
        if (!came(RF_OK, rf_sampler_accept(w->sampler, token))) return;
    }
    const size_t row = 0;
    rf_token token;
    if (came(RF_OK, rf_sample_rows(&w->sampler, w->ctx, &row, 1, &token))) mix(&token, sizeof token);
}
static void sampled(world *w) {
    OK(rf_sampler_reset(w->sampler));
    for (rf_token id = 0; id < 200; id++) OK(rf_sampler_accept(w->sampler, id));
    sample(w);
}
static int32_t on_token(void *user, rf_token token, const char *piece, size_t len) {
    (void)user;
    mix(&token, sizeof token);
    mix(piece, len + 1);
    return 0;
}
static void generate(world *w) {
    rf_generate_params p;
    OK(rf_generate_params_init(&p, sizeof p));
    const char *stop[] = {"never to be seen", "nor this"};
    p.max_tokens = 12, p.ignore_eog = 1, p.special = 1, p.seq = 1, p.stop = stop, p.n_stop = 2;
    rf_generation g = {.size = sizeof g};
    static rf_token prompt[60];
    for (int i = 0; i < 60; i++) prompt[i] = i;
    if (!came(RF_OK, rf_generate(w->ctx, w->sampler, prompt, 60, &p, on_token, NULL, &g))) return;
    mix(g.tokens, g.n_tokens * sizeof *g.tokens);
    mix(g.text, g.text_len + 1);
}
static void generated(world *w) {
    OK(rf_kv_clear(w->ctx));
    OK(rf_sampler_reset(w->sampler));
    generate(w);
}
static void metadata(world *w) {
    size_t n, at;
    rf_meta_details meta = {.size = sizeof meta};
    if (came(RF_OK, rf_model_meta_at(w->model, tokens_key, &meta))) mix(meta.key, strlen(meta.key));
    if (came(RF_OK, rf_model_meta_text(w->model, tokens_key, large, large_len, &n))) mix(large, n);
    for (size_t i = 0; i < 20; i++) {
        if (i != tokens_key && came(RF_OK, rf_model_meta_text(w->model, i, large, large_len, &n))) mix(large, n);
    }
    if (came(RF_OK, rf_model_meta_string(w->model, tokens_key, 7, out, sizeof out, &n))) mix(out, n);
    uint64_t number;
    came(RF_ERROR_PARAM, rf_model_meta_u64(w->model, tokens_key, 7, &number));
    came(RF_NOT_FOUND, rf_model_meta_find(w->model, text, &at));
    rf_tensor_details tensor = {.size = sizeof tensor};
    if (came(RF_OK, rf_model_tensor_at(w->model, 3, &tensor)) &&
        came(RF_OK, rf_model_tensor_find(w->model, tensor.name, &at))) {
        mix(tensor.name, strlen(tensor.name));
        mix(tensor.type_name, strlen(tensor.type_name));
        mix(&at, sizeof at);
    }
    rf_model_details info = {.size = sizeof info};
    if (came(RF_OK, rf_model_info(w->model, &info))) mix(info.arch, strlen(info.arch));
    rf_token_details token = {.size = sizeof token};
    if (came(RF_OK, rf_token_info(w->model, 40, &token))) mix(token.bytes, token.bytes_len);
    came(RF_ERROR_PARAM, rf_token_info(w->model, -7, &token));
}
static void cache(world *w) {
    uint32_t first, end;
    if (came(RF_OK, rf_kv_copy(w->ctx, 0, 3, 20))) {
        if (came(RF_OK, rf_kv_range(w->ctx, 3, &first, &end))) mix(&end, sizeof end);
        came(RF_OK, rf_kv_remove(w->ctx, 3, 2));
    }
    came(RF_ERROR_PARAM, rf_kv_remove(w->ctx, 99, 0));
    rf_context_details info = {.size = sizeof info};
    came(RF_OK, rf_context_info(w->ctx, &info));
    rf_perf_counters perf = {.size = sizeof perf};
    came(RF_OK, rf_perf(w->ctx, &perf));
    came(RF_OK, rf_kv_clear(w->ctx));
}
static void cached(world *w) {
    OK(rf_kv_clear(w->ctx));
    OK(decode(w));
    cache(w);
}
static void new_cache(world *w) {
    new_context(w);
    OK(decode(w));
}
static void devices(world *w) {
    uint32_t n;
    came(RF_OK, rf_device_count(w->kind, &n));
    rf_device_details info = {.size = sizeof info};
    came(RF_OK, rf_device_info(w->kind, 0, &info));
    came(RF_OK, rf_backend_info(w->backend, &info));
    uint64_t free, total;
    came(RF_OK, rf_backend_memory(w->backend, &free, &total));
    static float a[600], b[600];
    for (int i = 0; i < 600; i++) a[i] = (float)i;
    if (came(RF_OK, rf_op_transpose(w->backend, a, b, 20, 30))) mix(b, sizeof b);
}
static void release(world *w) {
    rf_context_release(w->ctx);
    rf_sampler_release(w->sampler);
    rf_model_release(w->model);
    rf_backend_release(w->backend);
    w->ctx = NULL, w->sampler = NULL, w->model = NULL, w->backend = NULL;
}

/* `set_up`, undisturbed, adds handles to the world's; `call` runs while memory fails; `after`, undisturbed, shows that the
 * handles give what they should. What is in the world then and was not before is released. */
typedef struct {
    const char *name;
    void (*set_up)(world *), (*call)(world *), (*after)(world *);
    int new_handles; /* `call` makes handles: none where it fails */
} trial;

static const trial trials[] = {
    {"backend", NULL, backend, backend, 0},
    {"load", NULL, load, loaded, 1},
    {"context", NULL, context, created, 1},
    {"sampler", NULL, sampler, NULL, 1},
    {"first tokenize", new_model, tokenize, tokenize, 0},
    {"tokenize", NULL, tokenize, tokenize, 0},
    {"detokenize", NULL, detokenize, detokenize, 0},
    {"first chat", new_model, chat, chat, 0},
    {"chat", NULL, chat, chat, 0},
    {"first metadata", new_model, metadata, metadata, 0},
    {"metadata", NULL, metadata, metadata, 0},
    {"devices", NULL, devices, devices, 0},
    {"decode", new_context, evaluate, evaluated, 0},
    {"sample", new_decoded, sample, sampled, 0},
    {"generate", context_sampler, generate, generated, 0},
    {"cache", new_cache, cache, cached, 0},
    {"release", everything, release, NULL, 0},
};

/* Runs it once; nonzero: memory was refused. */
static int attempt(const trial *t, const world *base, mode how, size_t n, uint64_t want[2]) {
    how_now = how, n_now = n;
    world w = *base;
    if (t->set_up) t->set_up(&w);
    digest = 14695981039346656037u, short_of_memory = 0;
    arm(how, n);
    t->call(&w);
    disarm();
    int was_refused = refusals > 0;
    if (how == NONE) want[0] = digest;
    if (!short_of_memory && digest != want[0]) BAD("another result");
    if (short_of_memory && !was_refused) BAD("RF_ERROR_MEMORY though nothing was refused");
    if (t->after && !(t->new_handles && short_of_memory)) {
        digest = 14695981039346656037u, short_of_memory = 0;
        t->after(&w);
        if (how == NONE) want[1] = digest;
        if (digest != want[1]) BAD("another result afterwards");
    }
    if (w.ctx != base->ctx) rf_context_release(w.ctx);
    if (w.sampler != base->sampler) rf_sampler_release(w.sampler);
    if (w.model != base->model) rf_model_release(w.model);
    if (w.backend != base->backend) rf_backend_release(w.backend);
    return was_refused;
}

/* Every n that brings a refusal, or some spread over them. */
static size_t next_point(size_t n, size_t all, size_t points) {
    if (all <= points || n < points / 4) return n + 1;
    return n + 1 + all / points * 4 / 3;
}

static void sweep(const trial *t, const world *base, size_t points) {
    now = t->name;
    uint64_t want[2];
    attempt(t, base, NONE, 0, want);
    attempt(t, base, NONE, 0, want);
    long long before = live;
    attempt(t, base, FROM, SIZE_MAX, want); /* counts */
    size_t all = requests + requests / 4 + 8; /* a call that goes on where it was refused may ask more often */
    for (mode how = NTH; how <= FROM; how++)
        for (size_t n = 1; n <= all; n = next_point(n, all, points))
            if (!attempt(t, base, how, n, want) && n > requests) break;
    size_t step = points < 10 ? 256 : points < 100 ? 16 : 2;
    for (size_t n = 0; n <= 1 << 21; n = n ? step * n : 1) attempt(t, base, ABOVE, n, want);
    attempt(t, base, NONE, 0, want);
    if (live > before + 256) /* texts made anew, an allocator rounds */
        BAD("%lld bytes leak", live - before);
}

/* A process's first calls, memory failing from the start: each in a process of its own, on the main thread or another. */
static void *first_calls(void *user) {
    world *w = user;
    arm(how_now, n_now);
    rf_backend_params p = {.size = 0};
    came(RF_OK, rf_backend_params_init(&p, sizeof p));
    p.size = sizeof p, p.kind = w->kind, p.threads = 3, p.device_index = -1;
    came(RF_OK, rf_backend_create(&p, &w->backend));
    if (w->backend) load(w);
    if (w->model) tokenize(w), context(w), sampler(w);
    if (w->ctx) generate(w), evaluate(w);
    release(w);
    return NULL;
}
static int first(const world *base, mode how, size_t n, int thread) {
    pid_t child = fork();
    if (child == 0) {
        world w = *base;
        now = "a process's first calls", how_now = how, n_now = n;
        if (thread) {
            pthread_t other;
            pthread_create(&other, NULL, first_calls, &w);
            pthread_join(other, NULL);
        } else {
            first_calls(&w);
        }
        disarm();
        _exit(refusals > 0 ? 0 : 42);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) FAIL("fork");
    now = "a process's first calls", how_now = how, n_now = n;
    if (!WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 42)) BAD("wait status %#x", status);
    return WEXITSTATUS(status) == 0;
}

int main(int argc, char **argv) {
    size_t points = 400;
    if (argc == 4) points = strtoul(argv[3], NULL, 10), argc = 3;
    for (int i = 0; i < TEXT_LEN; i++) text[i] = i % 6 == 5 ? ' ' : i % 97 == 3 ? '4' : "hello world, it's"[i % 17];
    world base = {.path = argv[1], .kind = device_kind(argc, argv)};
    const char *only = getenv("ALLOC_ONLY");

    if (!only || !strcmp(only, "first")) {
        for (mode how = NTH; how <= FROM; how++) {
            size_t n = 1;
            while (first(&base, how, n, n % 2)) n += 1 + n / (points / 4);
        }
        for (size_t n = 0; n <= 1 << 20; n = n ? 4 * n : 1) first(&base, ABOVE, n, 1);
    }

    base.backend = logging_backend(base.kind);
    new_model(&base);
    new_context(&base);
    new_sampler(&base);
    OK(rf_model_meta_find(base.model, "tokenizer.ggml.tokens", &tokens_key));
    EXPECT(RF_ERROR_BUFFER, rf_model_meta_text(base.model, tokens_key, NULL, 0, &large_len));
    large = malloc(large_len += 4096);
    for (size_t i = 0; i < 20; i++) { /* a long one may be among them */
        size_t n;
        rf_status got = rf_model_meta_text(base.model, i, large, large_len, &n);
        if (got == RF_ERROR_BUFFER) large = realloc(large, large_len = n);
    }
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++)
        if (!only || !strcmp(only, trials[i].name)) sweep(&trials[i], &base, points);
    free(large);
    release(&base);
    return 0;
}
