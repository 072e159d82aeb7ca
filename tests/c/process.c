/* What the library does to its process: signals, stacks, threads that cannot be had, memory. */
#define _GNU_SOURCE
#include "check.h"
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The signals that a thread of this process blocks, by the kernel's account. */
static unsigned long long blocked_by(const char *thread) {
    char path[300], line[256];
    snprintf(path, sizeof path, "/proc/self/task/%s/status", thread);
    unsigned long long mask = 0;
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "SigBlk: %llx", &mask) == 1) break;
    fclose(file);
    return mask;
}

/* Threads of the library beside the calling one; each blocks whatever can be sent to the process. */
static int workers(void) {
    const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    unsigned long long all = 0;
    for (int s = 1; s <= 31; s++)
        if (s != SIGKILL && s != SIGSTOP) all |= 1ull << (s - 1);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) all &= ~(1ull << (faults[i] - 1));
    char own[32];
    snprintf(own, sizeof own, "%ld", (long)getpid());
    int n = 0;
    DIR *threads = opendir("/proc/self/task");
    CHECK(threads != NULL);
    for (struct dirent *entry; (entry = readdir(threads));) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, own) == 0) continue;
        n++;
        unsigned long long mask = blocked_by(entry->d_name);
        if ((mask & all) != all) FAIL("thread %s blocks %#llx", entry->d_name, mask);
    }
    closedir(threads);
    return n;
}

/* A daemon that blocks SIGTERM after it has made a backend, and waits for it. */
static void signals(int32_t kind) {
    sigset_t before, after, term;
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &before) == 0);
    rf_backend *backend = make_backend(kind);
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &after) == 0);
    for (int s = 1; s <= 31; s++) CHECK(sigismember(&before, s) == sigismember(&after, s));
    usleep(50000); /* a thread that is only starting blocks everything, in glibc */
    CHECK(workers() >= (kind == RF_DEVICE_CPU));
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    CHECK(pthread_sigmask(SIG_BLOCK, &term, NULL) == 0);
    CHECK(kill(getpid(), SIGTERM) == 0);
    int signal = 0;
    CHECK(sigwait(&term, &signal) == 0 && signal == SIGTERM);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    rf_backend_release(backend);
}

/* To describe the processor takes none of its threads. */
static void descriptions(void) {
    int before = workers();
    rf_device_details cpu = {.size = sizeof cpu};
    OK(rf_device_info(RF_DEVICE_CPU, 0, &cpu));
    CHECK(cpu.compute_units > 0 && cpu.name[0] && cpu.memory_total > 0);
    CHECK(workers() == before);
}

/* In a process that may have no more threads: a status. As root the limit does not count, so the child is nobody. */
static void no_threads(void) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct rlimit none = {0, 0};
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(3);
        if (setrlimit(RLIMIT_NPROC, &none) != 0) _exit(4);
        rf_backend_params params;
        rf_backend *backend = NULL;
        OK(rf_backend_params_init(&params, sizeof params));
        params.kind = RF_DEVICE_CPU;
        params.threads = 4;
        EXPECT(RF_ERROR_MEMORY, rf_backend_create(&params, &backend)); /* EAGAIN, as for a stack that is not to be had */
        MESSAGE("thread rocmforge-");
        params.threads = 1; /* none beside the caller's */
        OK(rf_backend_create(&params, &backend));
        rf_backend_release(backend);
        execl("/bin/true", "true", (char *)NULL);
        _exit(5);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) FAIL("the child ended with status %#x", status);
}

/* All there is to do, on a thread with the stack that the header asks for. */
typedef struct {
    int32_t kind;
    const char *path;
} job;

static void *work(void *argument) {
    const job *j = argument;
    rf_backend *backend = make_backend(j->kind);
    rf_model *model = load_model(backend, j->path);
    rf_context *ctx = make_context(model, 128, 1);
    rf_sampler *sampler = make_sampler(0.8f, 1);
    rf_generate_params params;
    OK(rf_generate_params_init(&params, sizeof params));
    params.max_tokens = 8;
    rf_generation result = {.size = sizeof result};
    rf_token tokens[32];
    rf_error error = {.size = sizeof error};
    char text[64];
    size_t n;
    OK(rf_tokenize(model, "hello world", 11, 0, tokens, 32, &n));
    OK(rf_detokenize(model, tokens, n, 0, text, sizeof text, &n));
    OK(rf_generate(ctx, sampler, tokens, 2, &params, NULL, NULL, &result));
    rf_chat_params chat;
    OK(rf_chat_params_init(&chat, sizeof chat));
    chat.messages_json = "[{\"role\": \"user\", \"content\": \"hello\"}]";
    rf_status status = rf_chat_apply_e(model, &chat, NULL, 0, &n, &error);
    CHECK(status == RF_ERROR_BUFFER || status == RF_ERROR_TEMPLATE);
    EXPECT(RF_ERROR_IO, rf_model_load(backend, "/nonexistent", &(rf_model_params){.size = sizeof(rf_model_params)}, &model));
    rf_sampler_release(sampler);
    rf_context_release(ctx);
    rf_model_release(model);
    rf_backend_release(backend);
    return NULL;
}

static void small_stack(int32_t kind, const char *path) {
    job j = {kind, path};
    pthread_attr_t attributes;
    pthread_t thread;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, 64 << 10) == 0);
    CHECK(pthread_create(&thread, &attributes, work, &j) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    pthread_attr_destroy(&attributes);
}

int main(int argc, char **argv) {
    int32_t kind = device_kind(argc, argv);
    signals(kind);
    descriptions();
    no_threads();
    small_stack(kind, argv[1]);
    return 0;
}
