/*
 * rocmforge: language models from GGUF files.
 *
 * Generated from src/ffi by cbindgen; do not edit. docs/c-api.md is the guide. What holds everywhere:
 *
 * Status    Every function that can fail returns an rf_status: RF_OK (0), a positive outcome (RF_CANCELLED,
 *           RF_CACHE_FULL, RF_NOT_FOUND) or a negative error; rf_last_error() then has the message. Results are written
 *           on RF_OK only, where a function does not say otherwise. Nothing prints, aborts or unwinds.
 * Errors    are kept per thread (rf_last_error), per context (rf_context_error), and given to the caller by the
 *           functions with _e at the end of their names: for languages whose calls move between threads.
 * Handles   rf_backend, rf_model, rf_context, rf_sampler: made by _create or _load, given back by _release, NULL
 *           is fine. A context keeps its model alive, a model its backend: release them in any order.
 * Threads   A const handle may be used by many threads at once, any other by one at a time; a second caller gets
 *           RF_ERROR_BUSY. rf_context_cancel may come from any thread. A thread that calls needs 64 KiB of stack.
 * Processes A handle belongs to the process that made it: in a child that forked calls give RF_ERROR_FORKED, releases
 *           do nothing, and new handles work.
 * Structs   start with their size. Parameters are filled by their _init function; of the others set `size` to sizeof.
 * Pointers  must not be NULL where a function does not say otherwise; an array may be NULL when its length is 0.
 * Buffers   take results of variable size: pointer and capacity; the size that suffices comes back in *n. Where it
 *           is more than the capacity the call returns RF_ERROR_BUFFER and writes nothing else.
 * Text      is UTF-8.
 * Callbacks return 0 to go on and anything else to stop. They must not throw.
 */


#ifndef ROCMFORGE_H
#define ROCMFORGE_H

#include <stddef.h>
#include <stdint.h>

/**
 * The interface this header describes: major version in the upper 16 bits, minor in the lower. Before
 * 1.0 each minor version is an interface of its own (and has its own SONAME).
 */
#define RF_ABI_VERSION 1

/**
 * Done.
 */
#define RF_OK 0

/**
 * Outcome: stopped by a callback, by rf_context_cancel or by a flag of the caller's.
 */
#define RF_CANCELLED 1

/**
 * Outcome: the context's cache has no room for the step.
 */
#define RF_CACHE_FULL 2

/**
 * Outcome: there is nothing of that name, or no call to cancel.
 */
#define RF_NOT_FOUND 3

/**
 * An argument is wrong: NULL, out of range, of a wrong size, not UTF-8.
 */
#define RF_ERROR_PARAM -1

/**
 * The buffer is too short; the size that suffices is in *n.
 */
#define RF_ERROR_BUFFER -2

/**
 * The handle is in use by another call, from another thread or from inside a callback.
 */
#define RF_ERROR_BUSY -3

/**
 * The operating system refused.
 */
#define RF_ERROR_IO -4

/**
 * The file is not a well-formed GGUF file.
 */
#define RF_ERROR_FORMAT -5

/**
 * The file is well formed, but no model can be run from it.
 */
#define RF_ERROR_MODEL -6

/**
 * An architecture, type or tokenizer that this library does not know.
 */
#define RF_ERROR_UNSUPPORTED -7

/**
 * Text could not be turned into tokens or back.
 */
#define RF_ERROR_TOKENIZER -8

/**
 * The model's chat template failed, ran too long or printed too much; or the model has none.
 */
#define RF_ERROR_TEMPLATE -9

/**
 * Memory could not be had.
 */
#define RF_ERROR_MEMORY -10

/**
 * A bug in this library, or a panic in a callback. A context in which it happened only takes rf_context_release.
 */
#define RF_ERROR_INTERNAL -11

/**
 * No GPU runtime (libamdhip64.so, libcuda.so.1) can be opened here.
 */
#define RF_ERROR_NO_RUNTIME -12

/**
 * A GPU runtime is there, but no GPU, or not the one asked for.
 */
#define RF_ERROR_NO_DEVICE -13

/**
 * The GPU's runtime is too old for this library.
 */
#define RF_ERROR_RUNTIME_TOO_OLD -14

/**
 * This library carries no kernels for the GPU, or the ones it was pointed to are missing or damaged.
 */
#define RF_ERROR_KERNELS -15

/**
 * The GPU fell out of use; its backend must be released.
 */
#define RF_ERROR_DEVICE_LOST -16

/**
 * A call into the GPU's runtime failed; rf_last_error_info tells which.
 */
#define RF_ERROR_GPU -17

/**
 * This process was forked after the handle, or the GPU's runtime, came into use: they stay with the parent. In the child
 * make a new backend.
 */
#define RF_ERROR_FORKED -18

/**
 * Log levels, each with those before it: nothing.
 */
#define RF_LOG_OFF 0

/**
 * What failed.
 */
#define RF_LOG_ERROR 1

/**
 * What may surprise.
 */
#define RF_LOG_WARN 2

/**
 * What was loaded and created.
 */
#define RF_LOG_INFO 3

/**
 * Choices and sizes.
 */
#define RF_LOG_DEBUG 4

/**
 * Each step.
 */
#define RF_LOG_TRACE 5

/**
 * The best GPU that this library has kernels for, or else the CPU; rf_backend_info tells which it became, the log why.
 */
#define RF_DEVICE_AUTO 0

/**
 * The CPU, with the widest instructions it has.
 */
#define RF_DEVICE_CPU 1

/**
 * The CPU, every operation in plain f32 from its definition: slow, for checking other devices.
 */
#define RF_DEVICE_REFERENCE 2

/**
 * GPUs: AMD's through libamdhip64.so, or else NVIDIA's through libcuda.so.1, looked for when first asked for. What they
 * have no room for the CPU computes (gpu_layers of rf_model_params).
 *
 * Calls that use a GPU make it the calling thread's current one (hipSetDevice, cuCtxSetCurrent); a program that uses
 * the runtime itself sets its own again afterwards.
 */
#define RF_DEVICE_HIP 3

/**
 * Every GPU that this library has kernels for; integrated ones only where there is no other.
 */
#define RF_DEVICES_ALL 18446744073709551615ull

/**
 * No token.
 */
#define RF_TOKEN_NONE -1

/**
 * Kinds of token, as GGUF numbers them: none is given.
 */
#define RF_TOKEN_UNDEFINED 0

/**
 * Text.
 */
#define RF_TOKEN_NORMAL 1

/**
 * Stands for text that the vocabulary lacks.
 */
#define RF_TOKEN_UNKNOWN 2

/**
 * Marks the structure of a text, such as its end or the beginning of a message.
 */
#define RF_TOKEN_CONTROL 3

/**
 * Text that is always one token.
 */
#define RF_TOKEN_USER_DEFINED 4

/**
 * A placeholder.
 */
#define RF_TOKEN_UNUSED 5

/**
 * One byte, for text that the vocabulary lacks.
 */
#define RF_TOKEN_BYTE 6

/**
 * As much as the GPUs' free memory holds of weights, cache and scratch, less a margin: a twentieth, but 32 to 512 MiB.
 */
#define RF_GPU_LAYERS_AUTO 0

/**
 * All layers and the output, or RF_ERROR_MEMORY.
 */
#define RF_GPU_LAYERS_ALL -1

/**
 * Nothing.
 */
#define RF_GPU_LAYERS_NONE -2

/**
 * With RF_GPU_LAYERS_AUTO as few as there must be for the rest to fit on the GPUs, where that leaves the CPU fewer bytes
 * a token to read than whole layers would; else none.
 */
#define RF_CPU_EXPERTS_AUTO 0

/**
 * Those of all layers.
 */
#define RF_CPU_EXPERTS_ALL -1

/**
 * Those of no layer.
 */
#define RF_CPU_EXPERTS_NONE -2

/**
 * Types of metadata values, as GGUF numbers them: u8, 8 bits, unsigned.
 */
#define RF_META_U8 0

/**
 * i8: 8 bits, signed.
 */
#define RF_META_I8 1

/**
 * u16.
 */
#define RF_META_U16 2

/**
 * i16.
 */
#define RF_META_I16 3

/**
 * u32.
 */
#define RF_META_U32 4

/**
 * i32.
 */
#define RF_META_I32 5

/**
 * f32: single precision.
 */
#define RF_META_F32 6

/**
 * True or false.
 */
#define RF_META_BOOL 7

/**
 * UTF-8 text.
 */
#define RF_META_STRING 8

/**
 * An array of one of these types.
 */
#define RF_META_ARRAY 9

/**
 * u64.
 */
#define RF_META_U64 10

/**
 * i64.
 */
#define RF_META_I64 11

/**
 * f64: double precision.
 */
#define RF_META_F64 12

/**
 * Flags of rf_tokenize. ADD_SPECIAL: begin and end with BOS and EOS as the model's file asks. For a whole text; a
 * prompt takes RF_TOKENIZE_ADD_BOS.
 */
#define RF_TOKENIZE_ADD_SPECIAL 1

/**
 * PARSE_SPECIAL: control tokens written out in the text become those tokens. Never for text that a user typed: it
 * could then pose as another speaker.
 */
#define RF_TOKENIZE_PARSE_SPECIAL 2

/**
 * ADD_BOS: begin with BOS as the model's file asks, and never end with EOS: for a prompt, which is to go on.
 */
#define RF_TOKENIZE_ADD_BOS 4

/**
 * Flag of rf_detokenize: write control tokens out, too.
 */
#define RF_DETOKENIZE_SPECIAL 1

/**
 * Why a generation ended: an end-of-generation token.
 */
#define RF_STOP_EOG 1

/**
 * Why a generation ended: one of the stop texts.
 */
#define RF_STOP_TEXT 2

/**
 * Why a generation ended: max_tokens.
 */
#define RF_STOP_LENGTH 3

/**
 * Why a generation ended: no room left in the cache.
 */
#define RF_STOP_CACHE_FULL 4

/**
 * Why a generation ended: the callback, or rf_context_cancel.
 */
#define RF_STOP_CANCELLED 5

/**
 * A device in use: what models are loaded on. Callable from many threads at once.
 */
typedef struct rf_backend rf_backend;

/**
 * A user's caches. One thread at a time: a call that finds the context in use by another returns RF_ERROR_BUSY.
 * rf_context_cancel comes from any thread. Keeps its model alive.
 */
typedef struct rf_context rf_context;

/**
 * A loaded model. It never changes: callable from many threads at once. Keeps its backend alive.
 */
typedef struct rf_model rf_model;

/**
 * One stream's way of choosing tokens. One thread at a time (RF_ERROR_BUSY otherwise).
 */
typedef struct rf_sampler rf_sampler;

/**
 * What a call came to: RF_OK (0), an outcome (positive) or an error (negative). New codes may be added:
 * judge unknown ones by their sign.
 */
typedef int32_t rf_status;

/**
 * The last error, field by field.
 */
typedef struct rf_error_info {
    /**
     * sizeof(rf_error_info), set by the caller.
     */
    size_t size;
    /**
     * RF_OK if there was no error yet.
     */
    rf_status status;
    /**
     * Failed calls into a GPU's runtime only, else 0: the number that the runtime gave (HIP's, or CUDA's for NVIDIA);
     * 0 also for a launch that was refused before the call.
     */
    int32_t hip_code;
    /**
     * What rf_last_error returns. Never NULL; valid as long.
     */
    const char *message;
    /**
     * The kernel of the launch that failed, or of the last one before a failed synchronization; NULL if there is none.
     * Valid as `message` is.
     */
    const char *kernel;
    /**
     * The name of `hip_code`: "hipErrorInvalidValue". NULL where `hip_code` is 0. Valid as `message` is.
     */
    const char *hip_name;
    /**
     * Where there is a kernel: the launch's blocks and threads of a block along each axis, UINT32_MAX where they were
     * more, and the block's shared memory in bytes.
     */
    uint32_t grid[3];
    uint32_t block[3];
    uint64_t shared_bytes;
    /**
     * The GPU's number; -1 if it was no GPU's failure.
     */
    int32_t device;
    /**
     * The runtime's function that failed, or was not called for a refused launch: "hipModuleLaunchKernel"; NULL if it
     * was no GPU's failure. Valid as `message` is.
     */
    const char *hip_call;
} rf_error_info;

/**
 * What there is to know of a device.
 */
typedef struct rf_device_details {
    /**
     * sizeof(rf_device_details), set by the caller.
     */
    size_t size;
    /**
     * RF_DEVICE_CPU, RF_DEVICE_REFERENCE or RF_DEVICE_HIP.
     */
    int32_t kind;
    /**
     * CPU: the threads it computes with. GPU: its compute units as its runtime counts them, on RDNA in pairs.
     */
    uint32_t compute_units;
    /**
     * Bytes of memory in all and free now; 0 where unknown.
     */
    uint64_t memory_total;
    uint64_t memory_free;
    /**
     * The device's own name, cut where it does not fit.
     */
    char name[128];
    /**
     * The instructions in use, "avx512vnni", "avx2", "scalar"; the GPU's architecture, "gfx1100", "sm_90".
     */
    char arch[64];
    /**
     * GPUs only, from here on; else 0. What the runtime states, read once: threads of a block in all and along each
     * axis, blocks of a grid along each axis (UINT32_MAX where more), shared memory of a block in bytes, threads in
     * lockstep (32 or 64).
     */
    uint32_t max_threads_per_block;
    uint32_t max_block[3];
    uint32_t max_grid[3];
    uint32_t warp_size;
    uint64_t shared_bytes_per_block;
    /**
     * 1: it shares the processor's memory.
     */
    int32_t integrated;
    /**
     * 1: this library carries kernels for it. 0: rf_backend_create would fail with RF_ERROR_KERNELS.
     */
    int32_t has_kernels;
    /**
     * The runtime's library and version: "libamdhip64.so.6 6.3.42131".
     */
    char runtime[128];
} rf_device_details;

/**
 * Takes one line of log, without a line break; `message` is valid during the call. It runs on the thread that
 * called the library, several at once if several threads call, and must not unwind.
 */
typedef void (*rf_log_callback)(void *user, int32_t level, const char *message);

/**
 * How to create a backend. Fill it with rf_backend_params_init first.
 */
typedef struct rf_backend_params {
    /**
     * sizeof(rf_backend_params), set by rf_backend_params_init.
     */
    size_t size;
    /**
     * RF_DEVICE_AUTO (default), RF_DEVICE_CPU, RF_DEVICE_REFERENCE or RF_DEVICE_HIP.
     */
    int32_t kind;
    /**
     * Threads the CPU computes with, the calling one included; 0 (default): one per core this process may use.
     */
    uint32_t threads;
    /**
     * Takes log lines; NULL (default): nothing is logged. It may be called, with `log_user`, until the backend and
     * all that was made from it are released.
     */
    rf_log_callback log;
    void *log_user;
    /**
     * Lines up to this level are logged: RF_LOG_ERROR to RF_LOG_TRACE, RF_LOG_OFF for none; default RF_LOG_INFO.
     */
    int32_t log_level;
    /**
     * Which device of the kind, by its number in rf_device_info; -1 (default): the best, of GPUs that this library has
     * kernels for the one with the most memory (an integrated one only where there is no other).
     */
    int32_t device_index;
    /**
     * RF_DEVICE_HIP: several GPUs, bit i for number i; the model's layers go through them in order of number.
     * RF_DEVICES_ALL: each that there are kernels for. 0 (default): device_index alone counts.
     */
    uint64_t device_mask;
} rf_backend_params;

/**
 * Takes the progress of a load: bytes done, and bytes in all. Return 0 to go on, anything else to stop. It runs on the
 * thread that called rf_model_load, and must not unwind.
 */
typedef int32_t (*rf_progress_callback)(void *user, uint64_t done, uint64_t total);

/**
 * How to load a model. Fill it with rf_model_params_init first.
 */
typedef struct rf_model_params {
    /**
     * sizeof(rf_model_params), set by rf_model_params_init.
     */
    size_t size;
    /**
     * Called during the load, with `progress_user`; NULL (default): not called.
     */
    rf_progress_callback progress;
    void *progress_user;
    /**
     * How much of the model goes on the backend's GPUs: RF_GPU_LAYERS_AUTO (0, default), RF_GPU_LAYERS_ALL,
     * RF_GPU_LAYERS_NONE, or the last so many layers (more than there are: as RF_GPU_LAYERS_ALL). The CPU computes the
     * rest. Means nothing where the backend has no GPU.
     */
    int32_t gpu_layers;
    /**
     * The context that room on GPUs is planned for: n_ctx and n_batch of rf_context_params, with the same defaults
     * for 0. A larger one may be made, and is RF_ERROR_MEMORY where it does not fit.
     */
    uint32_t n_ctx;
    uint32_t n_batch;
    /**
     * Of how many layers on GPUs the CPU computes the experts, whose weights then take no memory of a GPU:
     * RF_CPU_EXPERTS_AUTO (0, default), RF_CPU_EXPERTS_ALL, RF_CPU_EXPERTS_NONE, or the model's first so many layers that
     * have experts (more than there are: as RF_CPU_EXPERTS_ALL). Means nothing where the backend has no GPU or the model no
     * experts.
     */
    int32_t cpu_experts;
} rf_model_params;

/**
 * A token's id, 0 to n_vocab - 1.
 */
typedef int32_t rf_token;

/**
 * What there is to know of a model.
 */
typedef struct rf_model_details {
    /**
     * sizeof(rf_model_details), set by the caller.
     */
    size_t size;
    /**
     * The architecture, "llama". Valid as long as the model.
     */
    const char *arch;
    /**
     * The file's general.name, or "". Valid as long as the model.
     */
    const char *name;
    /**
     * How the file is quantized, "Q4_K - Medium". Valid as long as the model.
     */
    const char *file_type;
    /**
     * Parameters (weights), counted.
     */
    uint64_t n_params;
    /**
     * Bytes of the file, all parts.
     */
    uint64_t file_bytes;
    /**
     * Bytes of weights held in memory beside the mapped file, on all devices.
     */
    uint64_t weight_bytes;
    /**
     * Tokens in the vocabulary: the length of a row of logits.
     */
    uint32_t n_vocab;
    /**
     * Positions the model was trained on.
     */
    uint32_t n_ctx_train;
    /**
     * Width of the residual stream.
     */
    uint32_t n_embd;
    uint32_t n_layer;
    uint32_t n_head;
    uint32_t n_head_kv;
    uint32_t head_dim;
    /**
     * The tokens that begin and end a text; RF_TOKEN_NONE where the file names none. More tokens may end a
     * generation: see is_eog of rf_token_info.
     */
    rf_token bos;
    rf_token eos;
    /**
     * 1 if RF_TOKENIZE_ADD_SPECIAL puts them there, else 0.
     */
    int32_t add_bos;
    int32_t add_eos;
    /**
     * 1 if the file has a chat template (rf_chat_apply), else 0.
     */
    int32_t has_chat_template;
    /**
     * How long the load took, in all, microseconds.
     */
    uint64_t load_us;
    /**
     * Layers that GPUs compute, up to n_layer; one more: the output too.
     */
    uint32_t n_gpu_layers;
    /**
     * Of these so many whose experts the CPU computes.
     */
    uint32_t n_cpu_experts;
} rf_model_details;

/**
 * One tensor of the file.
 */
typedef struct rf_tensor_details {
    /**
     * sizeof(rf_tensor_details), set by the caller.
     */
    size_t size;
    /**
     * "blk.0.attn_q.weight". Valid as long as the model.
     */
    const char *name;
    /**
     * The element type, "Q4_K". Static.
     */
    const char *type_name;
    /**
     * The element type's number in GGUF files.
     */
    uint32_t type_id;
    uint32_t n_dims;
    /**
     * `dims[0]` is the length of a row (the fastest dimension); those the tensor lacks are 1.
     */
    uint64_t dims[4];
    /**
     * Bytes of data.
     */
    uint64_t bytes;
} rf_tensor_details;

/**
 * One pair of the metadata.
 */
typedef struct rf_meta_details {
    /**
     * sizeof(rf_meta_details), set by the caller.
     */
    size_t size;
    /**
     * "llama.block_count". Valid as long as the model.
     */
    const char *key;
    /**
     * RF_META_U8 to RF_META_F64.
     */
    int32_t kind;
    /**
     * Of an array: the type of its elements. Otherwise the same as `kind`.
     */
    int32_t element_kind;
    /**
     * Of an array: how many elements. Otherwise 1.
     */
    size_t n_elements;
} rf_meta_details;

/**
 * One token of the vocabulary.
 */
typedef struct rf_token_details {
    /**
     * sizeof(rf_token_details), set by the caller.
     */
    size_t size;
    /**
     * The token as the file spells it, `text_len` bytes of UTF-8, not NUL-terminated. Valid as long as the model.
     */
    const char *text;
    size_t text_len;
    /**
     * The bytes it stands for in text, control tokens written out; often not whole characters. Valid as long as the model.
     */
    const uint8_t *bytes;
    size_t bytes_len;
    /**
     * RF_TOKEN_NORMAL, RF_TOKEN_CONTROL, ...
     */
    int32_t kind;
    /**
     * 1 if the token ends a generation, else 0.
     */
    int32_t is_eog;
    /**
     * The tokenizer's score; 0 where the file has none.
     */
    float score;
} rf_token_details;

/**
 * A conversation to be put into the form that the model was trained on. Fill it with rf_chat_params_init first, then
 * give either `roles` and `contents`, or `messages_json`.
 */
typedef struct rf_chat_params {
    /**
     * sizeof(rf_chat_params), set by rf_chat_params_init.
     */
    size_t size;
    /**
     * Messages in `roles` ("system", "user", "assistant", ...) and `contents`: NUL-terminated UTF-8.
     */
    size_t n_messages;
    const char *const *roles;
    const char *const *contents;
    /**
     * Instead of these: a JSON array of objects with "role", "content" and what else the template knows ("tool_calls",
     * ...); NULL (default) for none. A content is text, a list of parts ({"type": "text", "text": ...}), null or absent;
     * where the template knows text only, parts of text are joined by newlines, and null and absent are empty.
     */
    const char *messages_json;
    /**
     * A JSON array of the tools that the model may call; NULL (default) for none.
     */
    const char *tools_json;
    /**
     * 1 (default): end where the assistant's answer begins. 0: after the last message.
     */
    int32_t add_generation_prompt;
} rf_chat_params;

/**
 * How to create a context. Fill it with rf_context_params_init first.
 */
typedef struct rf_context_params {
    /**
     * sizeof(rf_context_params), set by rf_context_params_init.
     */
    size_t size;
    /**
     * Positions of cache in all, shared by the sequences, rounded up to whole blocks; 0 (default): what the model was
     * trained on, at most 4096. A model with a table of positions has no more of them in a sequence.
     */
    uint32_t n_ctx;
    /**
     * Most tokens computed in one step; longer batches are cut into several. 0 (default): 512.
     */
    uint32_t n_batch;
    /**
     * Most sequences at once, numbered from 0. 0 (default): 1.
     */
    uint32_t n_seq_max;
    /**
     * Positions between checkpoints of a model with recurrent state, to which rf_kv_remove and rf_kv_copy can go back
     * (rf_kv_reachable). Each of the last 3 takes the state's memory. 0 (default): 512. Other models keep none.
     */
    uint32_t checkpoint_interval;
} rf_context_params;

/**
 * A context's sizes.
 */
typedef struct rf_context_details {
    /**
     * sizeof(rf_context_details), set by the caller.
     */
    size_t size;
    uint32_t n_ctx;
    uint32_t n_batch;
    uint32_t n_seq_max;
    /**
     * Positions in use, over all sequences; those that sequences share are counted once.
     */
    uint32_t n_used;
    /**
     * Bytes of cache, and of working memory. The CPU's part is reserved, and takes memory as it is first used.
     */
    uint64_t cache_bytes;
    uint64_t scratch_bytes;
} rf_context_details;

/**
 * Tokens to evaluate, of any number of sequences. All arrays have `n` entries; each optional one may be NULL. Set `size`, zero the
 * rest, then fill in.
 */
typedef struct rf_batch {
    /**
     * sizeof(rf_batch), set by the caller.
     */
    size_t size;
    size_t n;
    const rf_token *tokens;
    /**
     * Position of each token in its sequence, which must go on exactly where the sequence ends; NULL: there.
     */
    const uint32_t *pos;
    /**
     * Sequence of each token, below n_seq_max; NULL: all 0.
     */
    const uint32_t *seq;
    /**
     * Nonzero where the token's logits are wanted; NULL: the last token's only.
     */
    const uint8_t *want;
    /**
     * A flag of the caller's; the call returns RF_CANCELLED once it is not 0, also if it is so from the beginning. Any
     * thread may set it meanwhile; the library only reads it. NULL: none.
     */
    const int32_t *cancel;
} rf_batch;

/**
 * What a context has done since its creation or rf_perf_reset.
 */
typedef struct rf_perf_counters {
    /**
     * sizeof(rf_perf_counters), set by the caller.
     */
    size_t size;
    /**
     * Tokens evaluated in batches with several tokens of a sequence, and the time those took, microseconds.
     */
    uint64_t prefill_tokens;
    uint64_t prefill_us;
    /**
     * The same for batches of one token of each of their sequences.
     */
    uint64_t decode_tokens;
    uint64_t decode_us;
    /**
     * Tokens chosen by rf_sample, rf_sample_rows and rf_generate, and the time that took.
     */
    uint64_t sampled_tokens;
    uint64_t sample_us;
} rf_perf_counters;

/**
 * How to choose tokens. Fill it with rf_sampler_params_init first.
 */
typedef struct rf_sampler_params {
    /**
     * sizeof(rf_sampler_params), set by rf_sampler_params_init.
     */
    size_t size;
    /**
     * 0 or below: greedy, always the most likely token. Default 0.8.
     */
    float temperature;
    /**
     * Keep the k most likely tokens; 0: all. Default 40.
     */
    uint32_t top_k;
    /**
     * Keep the smallest set of tokens whose probability reaches p; 1: all. Default 0.95.
     */
    float top_p;
    /**
     * Drop tokens less likely than min_p times the most likely; 0: none. Default 0.05.
     */
    float min_p;
    /**
     * Accepted tokens that the penalties look back at; 0: none. Default 64.
     */
    uint32_t penalty_last_n;
    /**
     * Divides positive and multiplies negative logits of tokens seen there; 1 (default): off.
     */
    float repeat_penalty;
    /**
     * Subtracted from a token's logit once for each time it was seen; 0 (default): off.
     */
    float frequency_penalty;
    /**
     * Subtracted once if it was seen at all; 0 (default): off.
     */
    float presence_penalty;
    /**
     * Same seed, same logits: same tokens. Default 0.
     */
    uint64_t seed;
} rf_sampler_params;

/**
 * How to generate. Fill it with rf_generate_params_init first.
 */
typedef struct rf_generate_params {
    /**
     * sizeof(rf_generate_params), set by rf_generate_params_init.
     */
    size_t size;
    /**
     * Most tokens to generate; 0 (default): until something else ends it.
     */
    uint32_t max_tokens;
    /**
     * The sequence to go on with; default 0.
     */
    uint32_t seq;
    /**
     * Texts that end the generation, NUL-terminated UTF-8, not empty; they are not part of the text given out. They are
     * looked for in all that is generated, control tokens too, given out or not. Default none.
     */
    const char *const *stop;
    size_t n_stop;
    /**
     * 1: go on past end-of-generation tokens. Default 0.
     */
    int32_t ignore_eog;
    /**
     * 1: give out the text of control tokens too. Default 0.
     */
    int32_t special;
    /**
     * A flag of the caller's; the call stops as by rf_context_cancel once it is not 0, also if it is so from the
     * beginning. Any thread may set it meanwhile; the library only reads it. Default NULL: none.
     */
    const int32_t *cancel;
} rf_generate_params;

/**
 * Takes each token as it is generated, with the text it completed: whole characters, `text_len` bytes of UTF-8 and a NUL, often none. Text
 * that might become a stop text is held back until it is clear. Return 0 to go on, anything else to stop.
 *
 * It runs on the thread that called rf_generate; `text` is valid during the call. It must not unwind. Calls on the same context
 * return RF_ERROR_BUSY, except rf_context_cancel and rf_context_uncancel. Handles may be released, also the context.
 */
typedef int32_t (*rf_token_callback)(void *user, rf_token token, const char *text, size_t text_len);

/**
 * What a generation came to.
 */
typedef struct rf_generation {
    /**
     * sizeof(rf_generation), set by the caller.
     */
    size_t size;
    /**
     * RF_STOP_EOG, RF_STOP_TEXT, ...
     */
    int32_t stop;
    /**
     * The generated tokens, the one that ended it included. Owned by the context, valid until its next rf_generate or
     * its release; none, and no text either, if the context was released in the callback.
     */
    const rf_token *tokens;
    size_t n_tokens;
    /**
     * Their text, `text_len` bytes of UTF-8 and a NUL. Valid as `tokens` is.
     */
    const char *text;
    size_t text_len;
    /**
     * Tokens of the prompt, the time they took, and the time of the rest, microseconds.
     */
    size_t prompt_tokens;
    uint64_t prompt_us;
    uint64_t decode_us;
} rf_generation;

/**
 * What a call came to, in memory of the caller's: for the functions with `_e` at the end of their names. Such a call
 * writes the whole struct, also when it comes to RF_OK: `status` is then RF_OK and the rest is empty.
 *
 * Set `size` to sizeof(rf_error) once. The struct belongs to one call at a time. It is plain memory without pointers:
 * copy it, keep it, hand it to another thread.
 */
typedef struct rf_error {
    /**
     * sizeof(rf_error), set by the caller.
     */
    size_t size;
    /**
     * What the call returned.
     */
    rf_status status;
    /**
     * Failed calls into a GPU's runtime only, else 0: as in rf_error_info.
     */
    int32_t hip_code;
    /**
     * The GPU's number; -1 if it was no GPU's failure.
     */
    int32_t device;
    /**
     * The launch's blocks and threads of a block, as in rf_error_info; 0 where there is no kernel.
     */
    uint32_t grid[3];
    uint32_t block[3];
    /**
     * Bytes of the message as rf_last_error has it, without its NUL; from 1024 on `message` is cut.
     */
    uint32_t message_len;
    /**
     * Shared memory of the launch's blocks in bytes.
     */
    uint64_t shared_bytes;
    /**
     * Texts, NUL-terminated UTF-8, cut between characters where they do not fit; "" where rf_error_info has NULL.
     */
    char message[1024];
    char kernel[128];
    char hip_name[64];
    char hip_call[64];
} rf_error;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The interface the loaded library offers; compare with RF_ABI_VERSION. Any thread.
 */
uint32_t rf_abi_version(void);

/**
 * The library's version, "0.1.0". Static, any thread.
 */
const char *rf_version(void);

/**
 * The status's name, "RF_ERROR_PARAM"; "RF_UNKNOWN" for a number that is none. Static, any thread.
 */
const char *rf_status_name(rf_status status);

/**
 * The message of this thread's last call that did not come to RF_OK; "" if there was none. Never NULL.
 *
 * Calls that succeed leave it as it is. The text stays valid until this thread's next call that does not
 * come to RF_OK.
 *
 * Where the next call may run on another thread (Go without runtime.LockOSThread, asynchronous calls of Node) this is
 * another call's message, or none. Use rf_context_error there and, of functions that take no context, those with `_e`:
 * they put the error into an rf_error of the caller's.
 */
const char *rf_last_error(void);

/**
 * Describes this thread's last call that did not come to RF_OK. The call itself changes the last error only when
 * `info` is NULL or of a wrong size (RF_ERROR_PARAM).
 */
rf_status rf_last_error_info(struct rf_error_info *info);

/**
 * How many devices of the kind there are, at least 1; of RF_DEVICE_AUTO the one that it would become. Any thread.
 *
 * RF_ERROR_PARAM: an unknown kind, a NULL. No GPU is a failure that says why: RF_ERROR_NO_RUNTIME, no runtime's library
 * can be opened; RF_ERROR_NO_DEVICE, it shows no GPU; RF_ERROR_RUNTIME_TOO_OLD; RF_ERROR_UNSUPPORTED, this library was
 * built without GPUs. The other devices are there all the same.
 */
rf_status rf_device_count(int32_t kind,
                          uint32_t *n);

/**
 * Describes device `index` (from 0) of the kind as a backend with default parameters would use it. Set info->size
 * first. Any thread.
 *
 * RF_ERROR_PARAM: an unknown kind, an index beyond the last, a NULL or a wrong size. For a GPU also the failures of
 * rf_device_count, and RF_ERROR_GPU or RF_ERROR_NO_DEVICE where the runtime does not tell of it, or nothing sensible.
 */
rf_status rf_device_info(int32_t kind,
                         uint32_t index,
                         struct rf_device_details *info);

/**
 * Fills `params` (of `size` = sizeof *params bytes) with defaults. RF_ERROR_PARAM: NULL, or `size` makes no sense.
 */
rf_status rf_backend_params_init(struct rf_backend_params *params,
                                 size_t size);

/**
 * Takes a device into use. On RF_OK *backend is a new handle, to be given to rf_backend_release. Any thread.
 *
 * RF_ERROR_PARAM: a NULL, an unknown kind or log level, an index or mask where there is one device, both of them, or
 * ROCMFORGE_CPU_ISA names instructions that the processor lacks. RF_ERROR_MEMORY, RF_ERROR_IO: threads could not be had.
 *
 * RF_DEVICE_HIP: RF_ERROR_NO_RUNTIME, RF_ERROR_NO_DEVICE (none, or not that one), RF_ERROR_RUNTIME_TOO_OLD,
 * RF_ERROR_KERNELS (this library carries none for it), RF_ERROR_GPU, RF_ERROR_DEVICE_LOST, RF_ERROR_UNSUPPORTED (built
 * without GPUs), RF_ERROR_FORKED (the parent process uses one). After each of them the other kinds work as ever, and a later attempt starts anew. RF_DEVICE_AUTO logs
 * such a failure and takes the CPU.
 */
rf_status rf_backend_create(const struct rf_backend_params *params,
                            struct rf_backend **backend);

/**
 * Describes the backend's device, of several GPUs the first; `compute_units` is the number of threads that the CPU
 * computes with, or the GPU's compute units. Set info->size first. RF_ERROR_PARAM: a NULL or a wrong size. Any thread.
 */
rf_status rf_backend_info(const struct rf_backend *backend,
                          struct rf_device_details *info);

/**
 * The memory of rf_backend_info's device in bytes, now: free and in all (of the machine, for CPU devices); 0 where unknown.
 * RF_ERROR_PARAM: a NULL. Any thread.
 */
rf_status rf_backend_memory(const struct rf_backend *backend,
                            uint64_t *free,
                            uint64_t *total);

/**
 * Gives the handle back; NULL is fine. Models and contexts made from it stay usable. Any thread, once; no
 * other call may be using the handle, except one that is in a callback on this thread.
 */
void rf_backend_release(struct rf_backend *backend);

/**
 * dst (cols x rows) = transpose of src (rows x cols), both row-major, in host memory, computed on the device.
 *
 * RF_ERROR_PARAM: a NULL, or `rows * cols` floats are more than memory can hold, or src and dst overlap. On a GPU also
 * RF_ERROR_MEMORY, RF_ERROR_GPU and RF_ERROR_DEVICE_LOST; dst is undefined then. Any thread.
 */
rf_status rf_op_transpose(const struct rf_backend *backend,
                          const float *src,
                          float *dst,
                          size_t rows,
                          size_t cols);

/**
 * Fills `params` (of `size` = sizeof *params bytes) with defaults. RF_ERROR_PARAM: NULL, or `size` makes no sense.
 */
rf_status rf_model_params_init(struct rf_model_params *params,
                               size_t size);

/**
 * Loads a GGUF file; of a split model, its first part. On RF_OK *model is a new handle, to be given to
 * rf_model_release. The file stays mapped: it must not be changed while the model lives. Any thread.
 *
 * A file of a vocabulary alone, without a tensor, gives a model for text: all that takes a model works but
 * rf_context_create, which comes to RF_ERROR_MODEL.
 *
 * RF_CANCELLED: the progress callback said stop. RF_ERROR_IO: the file cannot be opened or read. RF_ERROR_FORMAT: it is
 * damaged; the message names field and offset. RF_ERROR_MODEL: keys or tensors are missing or do not fit.
 * RF_ERROR_UNSUPPORTED: an unknown architecture, type or tokenizer. RF_ERROR_MEMORY: it does not fit, or the GPUs do not
 * hold the layers asked for. RF_ERROR_PARAM: a NULL, a wrong size, numbers out of range. On a GPU also RF_ERROR_GPU and
 * RF_ERROR_DEVICE_LOST.
 */
rf_status rf_model_load(const struct rf_backend *backend,
                        const char *path,
                        const struct rf_model_params *params,
                        struct rf_model **model);

/**
 * Describes the model. Set info->size first. RF_ERROR_PARAM: a NULL or a wrong size. Any thread.
 */
rf_status rf_model_info(const struct rf_model *model, struct rf_model_details *info);

/**
 * How many tensors the file has. RF_ERROR_PARAM: a NULL. Any thread.
 */
rf_status rf_model_tensor_count(const struct rf_model *model, size_t *n);

/**
 * Describes tensor `index`, from 0, in file order. Set info->size first.
 * RF_ERROR_PARAM: an index beyond the last, a NULL or a wrong size. Any thread.
 */
rf_status rf_model_tensor_at(const struct rf_model *model, size_t index, struct rf_tensor_details *info);

/**
 * Finds a tensor by name. RF_NOT_FOUND: there is none; *index is untouched. RF_ERROR_PARAM: a NULL, or the name is not
 * UTF-8. Any thread.
 */
rf_status rf_model_tensor_find(const struct rf_model *model,
                               const char *name,
                               size_t *index);

/**
 * Gives the handle back; NULL is fine. Contexts made from it stay usable; pointers that the model owned do not.
 * Any thread, once; no other call may be using the handle.
 */
void rf_model_release(struct rf_model *model);

/**
 * How many pairs of metadata the file has. RF_ERROR_PARAM: a NULL. Any thread.
 */
rf_status rf_model_meta_count(const struct rf_model *model, size_t *n);

/**
 * Describes pair `index`, from 0, in file order. Set info->size first.
 * RF_ERROR_PARAM: an index beyond the last, a NULL or a wrong size. Any thread.
 */
rf_status rf_model_meta_at(const struct rf_model *model, size_t index, struct rf_meta_details *info);

/**
 * Finds a pair by key. RF_NOT_FOUND: there is none; *index is untouched. RF_ERROR_PARAM: a NULL, or the key is not UTF-8.
 * Any thread.
 */
rf_status rf_model_meta_find(const struct rf_model *model,
                             const char *key,
                             size_t *index);

/**
 * The whole value as text: a string as it is, numbers in decimal, booleans as true and false, arrays as JSON.
 *
 * `buffer` takes `capacity` bytes; *n is the size that suffices, the closing NUL included. RF_ERROR_BUFFER: it is more
 * than `capacity`; nothing else is written (ask with NULL and 0 for the size). RF_ERROR_PARAM: an index beyond the last, a NULL.
 * Any thread.
 */
rf_status rf_model_meta_text(const struct rf_model *model,
                             size_t index,
                             char *buffer,
                             size_t capacity,
                             size_t *n);

/**
 * One string: the value itself (`element` 0), or an element of an array of strings. Buffer and errors as in
 * rf_model_meta_text; RF_ERROR_PARAM also when it is no string. Any thread.
 */
rf_status rf_model_meta_string(const struct rf_model *model,
                               size_t index,
                               size_t element,
                               char *buffer,
                               size_t capacity,
                               size_t *n);

/**
 * One number: the value itself (`element` 0), or an element of an array; booleans are 0 and 1.
 * RF_ERROR_PARAM: it is no integer or does not fit, an index beyond the last, a NULL. Any thread.
 */
rf_status rf_model_meta_u64(const struct rf_model *model, size_t index, size_t element, uint64_t *number);

/**
 * As rf_model_meta_u64, for numbers that may be negative. Any thread.
 */
rf_status rf_model_meta_i64(const struct rf_model *model, size_t index, size_t element, int64_t *number);

/**
 * As rf_model_meta_u64, for any number (integers beyond 2^53 are rounded). Any thread.
 */
rf_status rf_model_meta_f64(const struct rf_model *model, size_t index, size_t element, double *number);

/**
 * Turns `text_len` bytes of UTF-8 into tokens. `flags`: RF_TOKENIZE_*.
 *
 * `tokens` takes `capacity` ids; *n is how many there are. RF_ERROR_BUFFER: more than `capacity`; nothing else is
 * written (ask with NULL and 0 for the count). RF_ERROR_TOKENIZER: the model
 * has no vocabulary, or no token for a character. RF_ERROR_PARAM: not UTF-8, unknown flags, a NULL. Any thread.
 */
rf_status rf_tokenize(const struct rf_model *model,
                      const char *text,
                      size_t text_len,
                      uint32_t flags,
                      rf_token *tokens,
                      size_t capacity,
                      size_t *n);

/**
 * Turns tokens into text, bytes that are not UTF-8 replaced by U+FFFD. `flags`: RF_DETOKENIZE_SPECIAL or 0.
 *
 * `buffer` takes `capacity` bytes; *n is the size that suffices, the closing NUL included. RF_ERROR_BUFFER: more than
 * `capacity`; nothing else is written. RF_ERROR_PARAM: an id that is no token, unknown flags, a NULL. Any thread.
 *
 * For text that is still growing, take it from rf_generate, or the bytes of each token from rf_token_info: a
 * character may be spread over several tokens.
 */
rf_status rf_detokenize(const struct rf_model *model,
                        const rf_token *tokens,
                        size_t n_tokens,
                        uint32_t flags,
                        char *buffer,
                        size_t capacity,
                        size_t *n);

/**
 * Describes a token. Set info->size first. RF_ERROR_PARAM: no such token, a NULL or a wrong size. Any thread.
 */
rf_status rf_token_info(const struct rf_model *model, rf_token token, struct rf_token_details *info);

/**
 * Fills `params` (of `size` = sizeof *params bytes) with defaults. RF_ERROR_PARAM: NULL, or `size` makes no sense.
 */
rf_status rf_chat_params_init(struct rf_chat_params *params,
                              size_t size);

/**
 * Puts a conversation into the model's chat template and gives the tokens to evaluate. Control tokens come from
 * the template only: those that a message spells out stay text.
 *
 * `tokens` takes `capacity` ids; *n is how many there are; RF_ERROR_BUFFER as in rf_tokenize. RF_ERROR_TEMPLATE: the
 * model has no template, or it refuses these messages; the message says why. RF_ERROR_PARAM: no messages, both kinds of
 * them, not UTF-8, not JSON, a NULL. Any thread.
 */
rf_status rf_chat_apply(const struct rf_model *model,
                        const struct rf_chat_params *params,
                        rf_token *tokens,
                        size_t capacity,
                        size_t *n);

/**
 * As rf_chat_apply, but gives the prompt's text, for people to read. To evaluate it take the tokens of
 * rf_chat_apply: the text no longer tells the template's control tokens from a user's.
 *
 * `buffer` takes `capacity` bytes; *n is the size that suffices, the closing NUL included. Any thread.
 */
rf_status rf_chat_text(const struct rf_model *model,
                       const struct rf_chat_params *params,
                       char *buffer,
                       size_t capacity,
                       size_t *n);

/**
 * Fills `params` (of `size` = sizeof *params bytes) with defaults. RF_ERROR_PARAM: NULL, or `size` makes no sense.
 */
rf_status rf_context_params_init(struct rf_context_params *params,
                                 size_t size);

/**
 * Makes a context over a model. On RF_OK *ctx is a new handle, to be given to rf_context_release; the model's own
 * handle may be released before it. RF_ERROR_MEMORY: the cache does not fit into what the machine has. RF_ERROR_PARAM: a NULL, a wrong size,
 * counts out of range. Any thread.
 */
rf_status rf_context_create(const struct rf_model *model,
                            const struct rf_context_params *params,
                            struct rf_context **ctx);

/**
 * Describes the context. Set info->size first. RF_ERROR_PARAM: a NULL or a wrong size. RF_ERROR_BUSY: the context is
 * in use. One thread at a time.
 */
rf_status rf_context_info(struct rf_context *ctx,
                          struct rf_context_details *info);

/**
 * The message of the last call on this context that did not come to RF_OK, whichever thread made it (RF_ERROR_BUSY
 * excepted); "" if there was none, or for NULL. Never NULL. Valid until the next such call or rf_context_release. One thread
 * at a time.
 */
const char *rf_context_error(struct rf_context *ctx);

/**
 * Stops the rf_decode or rf_generate in progress on the context: it returns RF_CANCELLED after the operation under way
 * (on a GPU: the layers under way), or as it would have if it is about to. Also while it waits for another context's step.
 *
 * RF_OK: a call is in progress, and asked. RF_NOT_FOUND: none is; later ones are not affected (for a request that may come
 * before its call set `cancel` of rf_batch or rf_generate_params). RF_ERROR_PARAM: NULL. RF_ERROR_FORKED.
 *
 * Any thread, also from a callback or a signal handler. It leaves rf_last_error as it is.
 */
rf_status rf_context_cancel(struct rf_context *ctx);

/**
 * Takes an rf_context_cancel back that has not taken effect: the call in progress goes on. RF_NOT_FOUND: nothing to take
 * back. RF_ERROR_PARAM: NULL. RF_ERROR_FORKED. Any thread, as rf_context_cancel.
 */
rf_status rf_context_uncancel(struct rf_context *ctx);

/**
 * Gives the handle back; NULL is fine. Any thread, once; no other call may be using the handle, except one that is in a
 * callback on this thread.
 */
void rf_context_release(struct rf_context *ctx);

/**
 * Evaluates a batch: appends it to its sequences and computes the logits that are wanted. All of it, or on any status
 * but RF_OK nothing.
 *
 * RF_CANCELLED: rf_context_cancel or batch->cancel. RF_CACHE_FULL: more positions than are free; the message has the
 * numbers.
 * RF_ERROR_PARAM: an empty batch, an id that is no token, a sequence or position out of place, a NULL, a wrong size.
 * RF_ERROR_BUSY: the context is in use. One thread at a time.
 */
rf_status rf_decode(struct rf_context *ctx,
                    const struct rf_batch *batch);

/**
 * Row `row` (from 0, in batch order) of the logits that the last rf_decode left: *n = n_vocab numbers at *logits,
 * owned by the context and valid until the next call on it that evaluates or changes the cache.
 * RF_ERROR_PARAM: no such row, a NULL. RF_ERROR_BUSY: the context is in use. One thread at a time.
 */
rf_status rf_logits(struct rf_context *ctx,
                    size_t row,
                    const float **logits,
                    size_t *n);

/**
 * Forgets all sequences. RF_ERROR_PARAM: NULL. RF_ERROR_BUSY: the context is in use. One thread at a time.
 */
rf_status rf_kv_clear(struct rf_context *ctx);

/**
 * Forgets the sequence's positions from `from` to its end; 0: the whole sequence; the end itself: nothing.
 * A model with a recurrent state (qwen35) or with windows (gemma3, gpt-oss) goes back only to some positions: see
 * rf_kv_reachable.
 * RF_ERROR_PARAM: no such sequence, `from` beyond its end or where the model cannot go back to, NULL. RF_ERROR_BUSY: the context
 * is in use. One thread at a time.
 */
rf_status rf_kv_remove(struct rf_context *ctx,
                       uint32_t seq,
                       uint32_t from);

/**
 * Makes sequence `to` (emptied first) a copy of the first `len` positions of sequence `from`. Whole blocks of positions are
 * shared until one of the two changes them: a common prefix takes its room once.
 *
 * RF_CACHE_FULL: no room for the part that cannot be shared. RF_ERROR_PARAM: no such sequence or length, a length that
 * rf_kv_reachable would not give, NULL.
 * RF_ERROR_BUSY: the context is in use. One thread at a time.
 */
rf_status rf_kv_copy(struct rf_context *ctx,
                     uint32_t from,
                     uint32_t to,
                     uint32_t len);

/**
 * The longest beginning of the sequence, up to `most` positions, that rf_kv_remove can leave and rf_kv_copy can copy: `most`
 * or all that the sequence holds; of a model with a recurrent state perhaps less, which is kept at the sequence's end and,
 * the last 3 times, where its length is a multiple of rf_context_params.checkpoint_interval; of one with windows 0 where
 * `most` is before what they still hold.
 * RF_ERROR_PARAM: no such sequence, a NULL. RF_ERROR_BUSY: the context is in use. One thread at a time.
 */
rf_status rf_kv_reachable(struct rf_context *ctx,
                          uint32_t seq,
                          uint32_t most,
                          uint32_t *len);

/**
 * The positions that the sequence holds: from *first up to, not including, *end (equal: none).
 * RF_ERROR_PARAM: no such sequence, a NULL. RF_ERROR_BUSY: the context is in use. One thread at a time.
 */
rf_status rf_kv_range(struct rf_context *ctx, uint32_t seq, uint32_t *first, uint32_t *end);

/**
 * Reads the context's counters. Set counters->size first. RF_ERROR_PARAM: a NULL or a wrong size. RF_ERROR_BUSY: the context
 * is in use. One thread at a time.
 */
rf_status rf_perf(struct rf_context *ctx,
                  struct rf_perf_counters *counters);

/**
 * Sets the context's counters to 0. RF_ERROR_PARAM: NULL. RF_ERROR_BUSY: the context is in use. One thread at a time.
 */
rf_status rf_perf_reset(struct rf_context *ctx);

/**
 * Fills `params` (of `size` = sizeof *params bytes) with defaults. RF_ERROR_PARAM: NULL, or `size` makes no sense.
 */
rf_status rf_sampler_params_init(struct rf_sampler_params *params,
                                 size_t size);

/**
 * Makes a sampler. On RF_OK *sampler is a new handle, to be given to rf_sampler_release; it belongs to no model.
 * RF_ERROR_PARAM: a parameter out of range (the message names it), a NULL, a wrong size. Any thread.
 */
rf_status rf_sampler_create(const struct rf_sampler_params *params,
                            struct rf_sampler **sampler);

/**
 * Chooses a token from row `row` of the logits that the context's last rf_decode left. The sampler does not remember it: see
 * rf_sampler_accept.
 *
 * RF_ERROR_MODEL: a logit is NaN or plus infinity, or none is above minus infinity; the file's weights are damaged, or beyond
 * what f16 holds. RF_ERROR_PARAM: no such row, a NULL. RF_ERROR_BUSY: either handle is in use. One thread at a time for both.
 */
rf_status rf_sample(struct rf_sampler *sampler,
                    struct rf_context *ctx,
                    size_t row,
                    rf_token *token);

/**
 * Chooses a token from each of `n` rows of the logits that the context's last rf_decode left, as rf_sample does: for each index
 * of `tokens` from the row and by the sampler of the same index. A GPU chooses all of them before it is waited for. A row may be named several times, a
 * sampler once. After an error no sampler has gone on, and what `tokens` holds is of no use.
 *
 * Errors as rf_sample; RF_ERROR_PARAM also: an array is NULL and n is not 0. RF_ERROR_BUSY also: a sampler is named twice. One
 * thread at a time for all handles.
 */
rf_status rf_sample_rows(struct rf_sampler *const *samplers,
                         struct rf_context *ctx,
                         const size_t *rows,
                         size_t n,
                         rf_token *tokens);

/**
 * Remembers a token for the penalties: each one chosen, and those of the prompt if they shall count.
 * RF_ERROR_PARAM: a negative id, a NULL. RF_ERROR_BUSY: the handle is in use. One thread at a time.
 */
rf_status rf_sampler_accept(struct rf_sampler *sampler, rf_token token);

/**
 * Forgets the tokens and starts the seed's sequence anew. RF_ERROR_PARAM: NULL. RF_ERROR_BUSY: the handle is in use. One thread
 * at a time.
 */
rf_status rf_sampler_reset(struct rf_sampler *sampler);

/**
 * Gives the handle back; NULL is fine. Any thread, once; no other call may be using the handle.
 */
void rf_sampler_release(struct rf_sampler *sampler);

/**
 * Fills `params` (of `size` = sizeof *params bytes) with defaults. RF_ERROR_PARAM: NULL, or `size` makes no sense.
 */
rf_status rf_generate_params_init(struct rf_generate_params *params,
                                  size_t size);

/**
 * Evaluates the prompt after what the sequence holds, then chooses and evaluates token after token until something
 * says stop. `on_token` may be NULL: `result` has the whole text. Set result->size first.
 *
 * RF_OK: ended by a token, a stop text or max_tokens. RF_CANCELLED: by the callback, rf_context_cancel or params->cancel.
 * RF_CACHE_FULL: the cache has no room for more, or not for the prompt. In all three cases *result is written, with what there is.
 * RF_ERROR_MODEL: the logits are no numbers, as in rf_sample. RF_ERROR_PARAM: an empty prompt, an id that is no token, parameters out of range, a NULL, a wrong size. RF_ERROR_BUSY: either handle
 * is in use. One thread at a time for both.
 */
rf_status rf_generate(struct rf_context *ctx,
                      struct rf_sampler *sampler,
                      const rf_token *prompt,
                      size_t n_prompt,
                      const struct rf_generate_params *params,
                      rf_token_callback on_token,
                      void *user,
                      struct rf_generation *result);

/**
 * As rf_backend_create, with the error in *error.
 */
rf_status rf_backend_create_e(const struct rf_backend_params *params,
                              struct rf_backend **backend,
                              struct rf_error *error);

/**
 * As rf_backend_info, with the error in *error.
 */
rf_status rf_backend_info_e(const struct rf_backend *backend,
                            struct rf_device_details *info,
                            struct rf_error *error);

/**
 * As rf_backend_memory, with the error in *error.
 */
rf_status rf_backend_memory_e(const struct rf_backend *backend,
                              uint64_t *free,
                              uint64_t *total,
                              struct rf_error *error);

/**
 * As rf_op_transpose, with the error in *error.
 */
rf_status rf_op_transpose_e(const struct rf_backend *backend,
                            const float *src,
                            float *dst,
                            size_t rows,
                            size_t cols,
                            struct rf_error *error);

/**
 * As rf_device_count, with the error in *error.
 */
rf_status rf_device_count_e(int32_t kind, uint32_t *n, struct rf_error *error);

/**
 * As rf_device_info, with the error in *error.
 */
rf_status rf_device_info_e(int32_t kind,
                           uint32_t index,
                           struct rf_device_details *info,
                           struct rf_error *error);

/**
 * As rf_model_load, with the error in *error.
 */
rf_status rf_model_load_e(const struct rf_backend *backend,
                          const char *path,
                          const struct rf_model_params *params,
                          struct rf_model **model,
                          struct rf_error *error);

/**
 * As rf_model_info, with the error in *error.
 */
rf_status rf_model_info_e(const struct rf_model *model,
                          struct rf_model_details *info,
                          struct rf_error *error);

/**
 * As rf_model_tensor_count, with the error in *error.
 */
rf_status rf_model_tensor_count_e(const struct rf_model *model, size_t *n, struct rf_error *error);

/**
 * As rf_model_tensor_at, with the error in *error.
 */
rf_status rf_model_tensor_at_e(const struct rf_model *model,
                               size_t index,
                               struct rf_tensor_details *info,
                               struct rf_error *error);

/**
 * As rf_model_tensor_find, with the error in *error.
 */
rf_status rf_model_tensor_find_e(const struct rf_model *model,
                                 const char *name,
                                 size_t *index,
                                 struct rf_error *error);

/**
 * As rf_model_meta_count, with the error in *error.
 */
rf_status rf_model_meta_count_e(const struct rf_model *model, size_t *n, struct rf_error *error);

/**
 * As rf_model_meta_at, with the error in *error.
 */
rf_status rf_model_meta_at_e(const struct rf_model *model,
                             size_t index,
                             struct rf_meta_details *info,
                             struct rf_error *error);

/**
 * As rf_model_meta_find, with the error in *error.
 */
rf_status rf_model_meta_find_e(const struct rf_model *model,
                               const char *key,
                               size_t *index,
                               struct rf_error *error);

/**
 * As rf_model_meta_text, with the error in *error.
 */
rf_status rf_model_meta_text_e(const struct rf_model *model,
                               size_t index,
                               char *buffer,
                               size_t capacity,
                               size_t *n,
                               struct rf_error *error);

/**
 * As rf_model_meta_string, with the error in *error.
 */
rf_status rf_model_meta_string_e(const struct rf_model *model,
                                 size_t index,
                                 size_t element,
                                 char *buffer,
                                 size_t capacity,
                                 size_t *n,
                                 struct rf_error *error);

/**
 * As rf_model_meta_u64, with the error in *error.
 */
rf_status rf_model_meta_u64_e(const struct rf_model *model,
                              size_t index,
                              size_t element,
                              uint64_t *number,
                              struct rf_error *error);

/**
 * As rf_model_meta_i64, with the error in *error.
 */
rf_status rf_model_meta_i64_e(const struct rf_model *model,
                              size_t index,
                              size_t element,
                              int64_t *number,
                              struct rf_error *error);

/**
 * As rf_model_meta_f64, with the error in *error.
 */
rf_status rf_model_meta_f64_e(const struct rf_model *model,
                              size_t index,
                              size_t element,
                              double *number,
                              struct rf_error *error);

/**
 * As rf_tokenize, with the error in *error.
 */
rf_status rf_tokenize_e(const struct rf_model *model,
                        const char *text,
                        size_t text_len,
                        uint32_t flags,
                        rf_token *tokens,
                        size_t capacity,
                        size_t *n,
                        struct rf_error *error);

/**
 * As rf_detokenize, with the error in *error.
 */
rf_status rf_detokenize_e(const struct rf_model *model,
                          const rf_token *tokens,
                          size_t n_tokens,
                          uint32_t flags,
                          char *buffer,
                          size_t capacity,
                          size_t *n,
                          struct rf_error *error);

/**
 * As rf_token_info, with the error in *error.
 */
rf_status rf_token_info_e(const struct rf_model *model,
                          rf_token token,
                          struct rf_token_details *info,
                          struct rf_error *error);

/**
 * As rf_chat_apply, with the error in *error.
 */
rf_status rf_chat_apply_e(const struct rf_model *model,
                          const struct rf_chat_params *params,
                          rf_token *tokens,
                          size_t capacity,
                          size_t *n,
                          struct rf_error *error);

/**
 * As rf_chat_text, with the error in *error.
 */
rf_status rf_chat_text_e(const struct rf_model *model,
                         const struct rf_chat_params *params,
                         char *buffer,
                         size_t capacity,
                         size_t *n,
                         struct rf_error *error);

/**
 * As rf_context_create, with the error in *error.
 */
rf_status rf_context_create_e(const struct rf_model *model,
                              const struct rf_context_params *params,
                              struct rf_context **ctx,
                              struct rf_error *error);

/**
 * As rf_sampler_create, with the error in *error.
 */
rf_status rf_sampler_create_e(const struct rf_sampler_params *params,
                              struct rf_sampler **sampler,
                              struct rf_error *error);

/**
 * As rf_sampler_accept, with the error in *error.
 */
rf_status rf_sampler_accept_e(struct rf_sampler *sampler, rf_token token, struct rf_error *error);

/**
 * As rf_sampler_reset, with the error in *error.
 */
rf_status rf_sampler_reset_e(struct rf_sampler *sampler, struct rf_error *error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ROCMFORGE_H */
