/* A process that forks while its threads compute: in the child every call on the parent's handles is a status, every
   release returns, nothing hangs, and a new backend works. */
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of so many children one makes handles of its own. */
enum { WHOLE = 8 };

static fixture f;
static rf_context *ctx, *idle_ctx;
static rf_sampler *sampler;
static atomic_int over;
static const rf_token prompt[] = {259, 264, 1, 2, 3, 4, 5, 6};

static void *decode_for_ever(void *argument) {
    (void)argument;
    rf_batch batch = {.size = sizeof batch, .n = 8, .tokens = prompt};
    while (!atomic_load(&over)) {
        OK(rf_decode(ctx, &batch));
        OK(rf_kv_clear(ctx));
        size_t n;
        rf_tensor_details tensor = {.size = sizeof tensor};
        OK(rf_model_tensor_at(f.model, 0, &tensor));
        OK(rf_tokenize(f.model, "hello", 5, 0, NULL, 0, &n) == RF_ERROR_BUFFER ? RF_OK : RF_ERROR_INTERNAL);
    }
    return NULL;
}

static void parents_handles(void) {
    rf_error error = {.size = sizeof error};
    rf_batch batch = {.size = sizeof batch, .n = 8, .tokens = prompt};
    rf_device_details device = {.size = sizeof device};
    rf_context_params params;
    rf_context *other = NULL;
    rf_token token;
    size_t n;
    EXPECT(RF_ERROR_FORKED, rf_decode(ctx, &batch));
    MESSAGE("rf_context");
    MESSAGE("forked");
    EXPECT(RF_ERROR_FORKED, rf_decode(idle_ctx, &batch));
    EXPECT(RF_ERROR_FORKED, rf_kv_clear(idle_ctx));
    EXPECT(RF_ERROR_FORKED, rf_tokenize_e(f.model, "hello", 5, 0, &token, 1, &n, &error));
    CHECK(error.status == RF_ERROR_FORKED && strstr(error.message, "rf_model"));
    EXPECT(RF_ERROR_FORKED, rf_backend_info(f.backend, &device));
    OK(rf_context_params_init(&params, sizeof params));
    EXPECT(RF_ERROR_FORKED, rf_context_create(f.model, &params, &other));
    EXPECT(RF_ERROR_FORKED, rf_sampler_reset(sampler));
    CHECK(rf_context_cancel(ctx) == RF_ERROR_FORKED);
    CHECK(strcmp(rf_context_error(ctx), "") == 0);
    rf_sampler_release(sampler);
    rf_context_release(ctx);
    rf_context_release(idle_ctx);
    tear_down(&f);
}

static void own_handles(int32_t kind, const char *path) {
    rf_backend *backend = make_backend(kind);
    rf_model *model = load_model(backend, path);
    rf_context *own = make_context(model, 64, 1);
    rf_sampler *greedy = make_sampler(0, 0);
    rf_generate_params params;
    OK(rf_generate_params_init(&params, sizeof params));
    params.max_tokens = 4;
    params.ignore_eog = 1;
    rf_generation result = {.size = sizeof result};
    OK(rf_generate(own, greedy, prompt, 8, &params, NULL, NULL, &result));
    CHECK(result.n_tokens == 4);
    rf_tensor_details tensor = {.size = sizeof tensor};
    OK(rf_model_tensor_at(model, 1, &tensor));
    rf_sampler_release(greedy);
    rf_context_release(own);
    rf_model_release(model);
    rf_backend_release(backend);
}

/* A child ends as another program: what it leaves of the parent's memory is no leak. */
static void forked(void (*child)(int32_t, const char *), int32_t kind, const char *path) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(120); /* a hang is a death by SIGALRM */
        child(kind, path);
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        FAIL("the child ended with status %#x%s", status, WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? ": it hung" : "");
}

static void use_parents(int32_t kind, const char *path) {
    (void)kind, (void)path;
    parents_handles();
}

static void use_both(int32_t kind, const char *path) {
    parents_handles();
    own_handles(kind, path);
}

/* A fork from inside a callback: the call that called back ends in the child too. */
static pid_t callback_child = -1;

static int32_t fork_on_token(void *user, rf_token token, const char *text, size_t len) {
    (void)user, (void)token, (void)text, (void)len;
    if (callback_child < 0) callback_child = fork();
    return 0;
}

static void fork_in_a_callback(int32_t kind) {
    rf_generate_params params;
    OK(rf_generate_params_init(&params, sizeof params));
    params.max_tokens = 4;
    params.ignore_eog = 1;
    rf_generation result = {.size = sizeof result};
    rf_status status = rf_generate(idle_ctx, sampler, prompt, 8, &params, fork_on_token, NULL, &result);
    if (callback_child == 0) {
        alarm(120);
        /* the reference device has no threads that could be missing */
        CHECK(status == (kind == RF_DEVICE_CPU ? RF_ERROR_FORKED : RF_OK));
        parents_handles();
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    CHECK(status == RF_OK && callback_child > 0);
    int ended = 0;
    CHECK(waitpid(callback_child, &ended, 0) == callback_child);
    CHECK(WIFEXITED(ended) && WEXITSTATUS(ended) == 0);
}

int main(int argc, char **argv) {
    f = set_up(argc, argv);
    int32_t kind = device_kind(argc, argv);
    ctx = make_context(f.model, 64, 1);
    idle_ctx = make_context(f.model, 64, 1);
    sampler = make_sampler(0, 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, decode_for_ever, NULL) == 0);
    /* Few under valgrind, which runs one thread at a time; run.sh asks for many without it. */
    const char *forks = getenv("FORKS");
    int n = forks ? atoi(forks) : 16;
    for (int i = 0; i < n; i++) forked(i % WHOLE ? use_parents : use_both, kind, argv[1]);
    atomic_store(&over, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    fork_in_a_callback(kind);

    /* The parent goes on. */
    rf_batch batch = {.size = sizeof batch, .n = 8, .tokens = prompt};
    OK(rf_decode(ctx, &batch));
    rf_sampler_release(sampler);
    rf_context_release(ctx);
    rf_context_release(idle_ctx);
    tear_down(&f);
    return 0;
}
