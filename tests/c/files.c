/* Files that are missing, damaged or of an unknown kind; progress that says stop; the log. */
#include "check.h"
#include <unistd.h>

static char scratch[] = "/tmp/rocmforge-files-XXXXXX";

static unsigned char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*size);
    CHECK(fread(bytes, 1, *size, file) == *size);
    fclose(file);
    return bytes;
}

static void write_file(const unsigned char *bytes, size_t size) {
    FILE *file = fopen(scratch, "wb");
    CHECK(file != NULL && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
}

static rf_status try_load(const rf_backend *backend, const char *path) {
    rf_model_params params;
    OK(rf_model_params_init(&params, sizeof params));
    rf_model *model = NULL;
    rf_status status = rf_model_load(backend, path, &params, &model);
    CHECK((status == RF_OK) == (model != NULL));
    rf_model_release(model);
    return status;
}

static void missing(const rf_backend *backend) {
    EXPECT(RF_ERROR_IO, try_load(backend, "/nonexistent/model.gguf"));
    MESSAGE("/nonexistent/model.gguf");
    EXPECT(RF_ERROR_IO, try_load(backend, ""));
    if (try_load(backend, "/tmp") >= 0) FAIL("a folder loads");
    EXPECT(RF_ERROR_IO, try_load(backend, "\xff\xfe not utf-8"));
}

static void damaged(const rf_backend *backend, const char *path) {
    size_t size;
    unsigned char *bytes = read_file(path, &size);
    const size_t lengths[] = {0, 3, 4, 20, 100, 1000, size / 2, size - 1000, size - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        write_file(bytes, lengths[i]);
        EXPECT(RF_ERROR_FORMAT, try_load(backend, scratch));
        MESSAGE(scratch);
    }
    unsigned char *arch = NULL;
    for (size_t i = 0; i + 5 < size && !arch; i++)
        if (memcmp(bytes + i, "llama", 5) == 0) arch = bytes + i;
    CHECK(arch != NULL);
    memcpy(arch, "lamas", 5);
    write_file(bytes, size);
    EXPECT(RF_ERROR_UNSUPPORTED, try_load(backend, scratch));
    MESSAGE("lamas");
    MESSAGE("llama");
    memcpy(arch, "llama", 5);
    bytes[0] = 'X';
    write_file(bytes, size);
    EXPECT(RF_ERROR_FORMAT, try_load(backend, scratch));
    bytes[0] = 'G';
    write_file(bytes, size);
    OK(try_load(backend, scratch));
    free(bytes);
}

static int32_t stop_at_once(void *user, uint64_t done, uint64_t total) {
    CHECK(done <= total);
    ++*(int *)user;
    return 1;
}

static int32_t go_on(void *user, uint64_t done, uint64_t total) {
    uint64_t *last = user;
    CHECK(done >= last[0] && done <= total);
    last[0] = done;
    last[1] = total;
    return 0;
}

static void progress(const rf_backend *backend, const char *path) {
    rf_model_params params;
    OK(rf_model_params_init(&params, sizeof params));
    rf_model *model = NULL;
    int calls = 0;
    params.progress = stop_at_once;
    params.progress_user = &calls;
    EXPECT(RF_CANCELLED, rf_model_load(backend, path, &params, &model));
    CHECK(model == NULL && calls == 1);
    uint64_t last[2] = {0, 0};
    params.progress = go_on;
    params.progress_user = last;
    OK(rf_model_load(backend, path, &params, &model));
    CHECK(last[0] == last[1] && last[1] > 0);
    rf_model_release(model);
}

static void count_line(void *user, int32_t level, const char *message) {
    CHECK(level >= RF_LOG_ERROR && level <= RF_LOG_TRACE && message[0] && !strchr(message, '\n'));
    ++*(int *)user;
}

static void log_lines(int32_t kind, const char *path) {
    rf_backend_params params;
    OK(rf_backend_params_init(&params, sizeof params));
    int lines = 0;
    params.kind = kind;
    params.log = count_line;
    params.log_user = &lines;
    params.log_level = RF_LOG_TRACE;
    rf_backend *backend = NULL;
    OK(rf_backend_create(&params, &backend));
    rf_model_release(load_model(backend, path));
    CHECK(lines > 0);
    rf_backend_release(backend);
}

int main(int argc, char **argv) {
    fixture f = set_up(argc, argv);
    int descriptor = mkstemp(scratch);
    CHECK(descriptor >= 0 && close(descriptor) == 0);
    missing(f.backend);
    damaged(f.backend, f.path);
    progress(f.backend, f.path);
    log_lines(device_kind(argc, argv), f.path);
    unlink(scratch);
    tear_down(&f);
    return 0;
}
