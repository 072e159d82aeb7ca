/* rf_error: errors reach a caller that does not know which thread its call ran on. */
#include "check.h"
#include <pthread.h>

static fixture f;

enum { THREADS = 4, CALLS = 50 };

typedef struct {
    int number;
    rf_status status[CALLS];
    rf_error errors[CALLS];
} caller;

static void path_of(char path[64], int number, int call) { snprintf(path, 64, "/no such file/%d-%d.", number, call); }

/* What a goroutine or an asynchronous call does: it runs wherever there is a thread, and takes its error along. */
static void *call_all(void *argument) {
    caller *c = argument;
    rf_model_params params;
    OK(rf_model_params_init(&params, sizeof params));
    for (int i = 0; i < CALLS; i++) {
        char path[64];
        path_of(path, c->number, i);
        rf_model *model = NULL;
        c->errors[i].size = sizeof(rf_error);
        c->status[i] = rf_model_load_e(f.backend, path, &params, &model, &c->errors[i]);
    }
    return NULL;
}

static void errors_are_read_on_another_thread(void) {
    static caller callers[THREADS];
    pthread_t threads[THREADS];
    for (int t = 0; t < THREADS; t++) {
        callers[t].number = t;
        CHECK(pthread_create(&threads[t], NULL, call_all, &callers[t]) == 0);
    }
    for (int t = 0; t < THREADS; t++) CHECK(pthread_join(threads[t], NULL) == 0);
    for (int t = 0; t < THREADS; t++)
        for (int i = 0; i < CALLS; i++) {
            const rf_error *error = &callers[t].errors[i];
            char path[64];
            path_of(path, t, i);
            CHECK(callers[t].status[i] == RF_ERROR_IO && error->status == RF_ERROR_IO);
            CHECK(strstr(error->message, path) && strlen(error->message) == error->message_len);
            CHECK(error->device == -1 && error->hip_code == 0 && error->kernel[0] == '\0');
        }
    CHECK(strcmp(rf_last_error(), "") == 0);
}

/* The struct always tells of the call that got it last. */
static void success_clears_and_outcomes_fill(void) {
    rf_error error;
    memset(&error, 0x7f, sizeof error);
    error.size = sizeof error;
    size_t n = 0;
    OK(rf_model_meta_count_e(f.model, &n, &error));
    CHECK(error.status == RF_OK && error.message[0] == '\0' && error.message_len == 0 && error.device == -1);
    CHECK(error.size == sizeof error && n > 0);
    EXPECT(RF_NOT_FOUND, rf_model_meta_find_e(f.model, "no.such.key", &n, &error));
    CHECK(error.status == RF_NOT_FOUND && strstr(error.message, "no.such.key"));
    EXPECT(RF_ERROR_BUFFER, rf_tokenize_e(f.model, "hello world", 11, 0, NULL, 0, &n, &error));
    CHECK(error.status == RF_ERROR_BUFFER && n == 2);
    OK(rf_model_meta_count_e(f.model, &n, &error));
    CHECK(error.status == RF_OK && error.message[0] == '\0');
}

/* A message that does not fit is cut between characters, and says how long it was. */
static void long_messages_are_cut(void) {
    for (size_t shift = 0; shift < 2; shift++) { /* one of the two cuts a character in half */
        char path[3001] = "/x";
        size_t end = 1 + shift;
        for (; end + 2 <= 3000; end += 2) memcpy(path + end, end % 200 < 2 ? "//" : "\xc3\xa9", 2);
        path[end] = '\0';
        rf_error error = {.size = sizeof error};
        rf_model *model = NULL;
        rf_model_params params;
        OK(rf_model_params_init(&params, sizeof params));
        EXPECT(RF_ERROR_IO, rf_model_load_e(f.backend, path, &params, &model, &error));
        size_t len = strlen(error.message);
        CHECK(len == sizeof error.message - 1 || len == sizeof error.message - 2);
        CHECK(((unsigned char)error.message[len - 1] & 0xc0) == 0x80);
        CHECK(error.message_len == strlen(rf_last_error()) && error.message_len >= sizeof error.message);
        CHECK(strncmp(error.message, rf_last_error(), len) == 0);
    }
}

/* As every struct with a size: a shorter one is not written beyond its end, a wrong size is refused before the call. */
static void sizes(void) {
    struct {
        rf_error error;
        char behind[16];
    } room;
    memset(&room, 0x55, sizeof room);
    room.error.size = 16; /* size, status, hip_code */
    size_t n = 77;
    EXPECT(RF_ERROR_PARAM, rf_model_meta_count_e(NULL, &n, &room.error));
    CHECK(room.error.status == RF_ERROR_PARAM && room.error.hip_code == 0 && room.error.size == 16);
    for (const char *p = (char *)&room + 16; p < (char *)(&room + 1); p++) CHECK(*p == 0x55);

    for (size_t size = 0; size < 8; size++) {
        room.error.size = size;
        EXPECT(RF_ERROR_PARAM, rf_model_meta_count_e(f.model, &n, &room.error));
        MESSAGE("rf_error");
    }
    CHECK(n == 77);
}

int main(int argc, char **argv) {
    f = set_up(argc, argv);
    errors_are_read_on_another_thread();
    success_clears_and_outcomes_fill();
    long_messages_are_cut();
    sizes();
    tear_down(&f);
    return 0;
}
