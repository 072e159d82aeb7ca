"""Language models from GGUF files: a small face of rocmforge.h, by ctypes alone. Python 3.9 or newer.
Take it into your project and let it grow with what you need.

The library is the one that ROCMFORGE_LIBRARY names, or pkg-config, or the system's.

A call that fails raises Error, on the thread that made it. Backends and models may be used by many threads at once,
contexts and samplers by one at a time: a second one gets an Error, and nothing breaks.
"""

from __future__ import annotations

import ctypes as C
import json
import os
import queue
import signal
import subprocess
import threading
import weakref
from typing import Iterable, Iterator, Optional, Sequence

ABI_VERSION = 1

CANCELLED, CACHE_FULL = 1, 2
ERROR_PARAM, ERROR_BUFFER, ERROR_BUSY, ERROR_IO = -1, -2, -3, -4
STOP_EOG, STOP_TEXT, STOP_LENGTH, STOP_CACHE_FULL, STOP_CANCELLED = 1, 2, 3, 4, 5
TOKENIZE_ADD_BOS = 4

Token = C.c_int32
LogCallback = C.CFUNCTYPE(None, C.c_void_p, C.c_int32, C.c_char_p)
ProgressCallback = C.CFUNCTYPE(C.c_int32, C.c_void_p, C.c_uint64, C.c_uint64)
TokenCallback = C.CFUNCTYPE(C.c_int32, C.c_void_p, Token, C.POINTER(C.c_char), C.c_size_t)


class Struct(C.Structure):
    """A struct that starts with its size."""

    def __init__(self) -> None:
        super().__init__(size=C.sizeof(self))

    @classmethod
    def defaults(cls):
        """A parameter struct with its defaults."""
        params = cls()
        status = getattr(lib, cls.__name__ + "_init")(C.byref(params), C.sizeof(params))
        if status != 0:
            raise Error(status, lib.rf_last_error().decode())
        return params


class rf_error(Struct):
    _fields_ = [
        ("size", C.c_size_t),
        ("status", C.c_int32),
        ("hip_code", C.c_int32),
        ("device", C.c_int32),
        ("grid", C.c_uint32 * 3),
        ("block", C.c_uint32 * 3),
        ("message_len", C.c_uint32),
        ("shared_bytes", C.c_uint64),
        ("message", C.c_char * 1024),
        ("kernel", C.c_char * 128),
        ("hip_name", C.c_char * 64),
        ("hip_call", C.c_char * 64),
    ]


class rf_backend_params(Struct):
    _fields_ = [
        ("size", C.c_size_t),
        ("kind", C.c_int32),
        ("threads", C.c_uint32),
        ("log", LogCallback),
        ("log_user", C.c_void_p),
        ("log_level", C.c_int32),
        ("device_index", C.c_int32),
        ("device_mask", C.c_uint64),
    ]


class rf_model_params(Struct):
    _fields_ = [
        ("size", C.c_size_t),
        ("progress", ProgressCallback),
        ("progress_user", C.c_void_p),
        ("gpu_layers", C.c_int32),
        ("n_ctx", C.c_uint32),
        ("n_batch", C.c_uint32),
        ("cpu_experts", C.c_int32),
    ]


class rf_context_params(Struct):
    _fields_ = [
        ("size", C.c_size_t), ("n_ctx", C.c_uint32), ("n_batch", C.c_uint32), ("n_seq_max", C.c_uint32),
        ("checkpoint_interval", C.c_uint32),
    ]


class rf_sampler_params(Struct):
    _fields_ = [
        ("size", C.c_size_t),
        ("temperature", C.c_float),
        ("top_k", C.c_uint32),
        ("top_p", C.c_float),
        ("min_p", C.c_float),
        ("penalty_last_n", C.c_uint32),
        ("repeat_penalty", C.c_float),
        ("frequency_penalty", C.c_float),
        ("presence_penalty", C.c_float),
        ("seed", C.c_uint64),
    ]


class rf_chat_params(Struct):
    _fields_ = [
        ("size", C.c_size_t),
        ("n_messages", C.c_size_t),
        ("roles", C.POINTER(C.c_char_p)),
        ("contents", C.POINTER(C.c_char_p)),
        ("messages_json", C.c_char_p),
        ("tools_json", C.c_char_p),
        ("add_generation_prompt", C.c_int32),
    ]


class rf_generate_params(Struct):
    _fields_ = [
        ("size", C.c_size_t),
        ("max_tokens", C.c_uint32),
        ("seq", C.c_uint32),
        ("stop", C.POINTER(C.c_char_p)),
        ("n_stop", C.c_size_t),
        ("ignore_eog", C.c_int32),
        ("special", C.c_int32),
        ("cancel", C.POINTER(C.c_int32)),
    ]


class rf_generation(Struct):
    _fields_ = [
        ("size", C.c_size_t),
        ("stop", C.c_int32),
        ("tokens", C.POINTER(Token)),
        ("n_tokens", C.c_size_t),
        ("text", C.POINTER(C.c_char)),
        ("text_len", C.c_size_t),
        ("prompt_tokens", C.c_size_t),
        ("prompt_us", C.c_uint64),
        ("decode_us", C.c_uint64),
    ]


def _load() -> C.CDLL:
    path = os.environ.get("ROCMFORGE_LIBRARY")
    if not path:
        path = "librocmforge.so.0.1"
        try:
            found = subprocess.run(["pkg-config", "--variable=libdir", "rocmforge"], capture_output=True, text=True)
            if found.returncode == 0:
                path = os.path.join(found.stdout.strip(), path)
        except OSError:
            pass  # no pkg-config
    library = C.CDLL(path)
    handle, size = C.c_void_p, C.c_size_t
    out, tokens, n = C.POINTER(C.c_void_p), C.POINTER(Token), C.POINTER(C.c_size_t)
    error = C.POINTER(rf_error)

    def declare(name: str, *arguments, result=C.c_int32) -> None:
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result

    declare("rf_abi_version", result=C.c_uint32)
    declare("rf_status_name", C.c_int32, result=C.c_char_p)
    declare("rf_last_error", result=C.c_char_p)
    declare("rf_context_error", handle, result=C.c_char_p)
    for struct in (rf_backend_params, rf_model_params, rf_context_params, rf_sampler_params, rf_chat_params, rf_generate_params):
        declare(struct.__name__ + "_init", C.POINTER(struct), size)
    for name in ("backend", "model", "context", "sampler"):
        declare(f"rf_{name}_release", handle, result=None)
    declare("rf_backend_create_e", C.POINTER(rf_backend_params), out, error)
    declare("rf_model_load_e", handle, C.c_char_p, C.POINTER(rf_model_params), out, error)
    declare("rf_context_create_e", handle, C.POINTER(rf_context_params), out, error)
    declare("rf_sampler_create_e", C.POINTER(rf_sampler_params), out, error)
    declare("rf_tokenize_e", handle, C.c_char_p, size, C.c_uint32, tokens, size, n, error)
    declare("rf_chat_apply_e", handle, C.POINTER(rf_chat_params), tokens, size, n, error)
    declare("rf_kv_clear", handle)
    declare("rf_kv_remove", handle, C.c_uint32, C.c_uint32)
    declare("rf_kv_reachable", handle, C.c_uint32, C.c_uint32, C.POINTER(C.c_uint32))
    declare("rf_kv_range", handle, C.c_uint32, C.POINTER(C.c_uint32), C.POINTER(C.c_uint32))
    declare("rf_generate", handle, handle, tokens, size, C.POINTER(rf_generate_params), TokenCallback, C.c_void_p, C.POINTER(rf_generation))
    if library.rf_abi_version() != ABI_VERSION:
        raise ImportError(f"{path} has interface {library.rf_abi_version()}, not {ABI_VERSION}")
    return library


lib = _load()


class Error(Exception):
    """A call that failed: a negative status and the library's message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{lib.rf_status_name(status).decode()}: {message}")
        self.status = status
        self.message = message


def _call(function, *arguments) -> None:
    """A call whose error comes with it, whatever else runs on this thread in between."""
    error = rf_error()
    status = function(*arguments, C.byref(error))
    if status != 0:
        raise Error(status, error.message.decode(errors="replace"))


def _tokens(call) -> list[int]:
    """Asks for the count, then for the tokens."""
    buffer, n = (Token * 0)(), C.c_size_t()
    while True:
        try:
            call(buffer, len(buffer), C.byref(n))
            return buffer[: n.value]
        except Error as error:
            if error.status != ERROR_BUFFER:
                raise
            buffer = (Token * n.value)()


class _Handle:
    """What the library made and takes back, at the latest when nobody refers to it any more."""

    def _own(self, make, *arguments, release) -> None:
        handle = C.c_void_p()
        _call(make, *arguments, C.byref(handle))
        self._handle: Optional[C.c_void_p] = handle
        self._release = weakref.finalize(self, release, handle)

    def close(self) -> None:
        """Gives it back. It must not be in use."""
        self._release()
        self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


class Backend(_Handle):
    """A device: the best GPU, or else the CPU."""

    def __init__(self) -> None:
        params = rf_backend_params.defaults()
        self._own(lib.rf_backend_create_e, C.byref(params), release=lib.rf_backend_release)


class Model(_Handle):
    """A loaded GGUF file."""

    def __init__(self, backend: Backend, path: str | os.PathLike[str]) -> None:
        name = os.fsencode(path)
        if b"\0" in name:
            raise ValueError("a NUL in the path")
        params = rf_model_params.defaults()
        self._own(lib.rf_model_load_e, backend._handle, name, C.byref(params), release=lib.rf_model_release)

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a plain prompt; control tokens written out in it stay text."""
        data = text.encode()

        def call(*buffer) -> None:
            _call(lib.rf_tokenize_e, self._handle, data, len(data), TOKENIZE_ADD_BOS, *buffer)

        return _tokens(call)

    def chat(self, messages: Iterable[dict]) -> list[int]:
        """The tokens of a conversation ({"role": "user", "content": "..."}, ...), up to where the assistant answers."""
        params = rf_chat_params.defaults()
        params.messages_json = json.dumps(list(messages)).encode()
        return _tokens(lambda *buffer: _call(lib.rf_chat_apply_e, self._handle, C.byref(params), *buffer))


class Sampler(_Handle):
    """A way of choosing tokens, with a memory of those it chose."""

    def __init__(self, temperature: float = 0.8, seed: int = 0) -> None:
        """Temperature 0 always takes the most likely token; the same seed draws the same tokens."""
        params = rf_sampler_params.defaults()
        params.temperature = temperature
        params.seed = seed
        self._own(lib.rf_sampler_create_e, C.byref(params), release=lib.rf_sampler_release)


class Context(_Handle):
    """The memory of one conversation: what a model has computed of it."""

    def __init__(self, model: Model, size: int = 0) -> None:
        """Room for `size` tokens; 0: what the model was trained on, at most 4096."""
        params = rf_context_params.defaults()
        params.n_ctx = size
        self._own(lib.rf_context_create_e, model._handle, C.byref(params), release=lib.rf_context_release)
        self._cached: list[int] = []
        self._busy = threading.Lock()

    def generate(self, prompt: Sequence[int], sampler: Sampler, max_tokens: int = 0) -> Answer:
        """Starts to answer a prompt. It takes the prompt in full each time: what the context still holds of it is not
        computed again. At most `max_tokens`; 0: until the answer ends."""
        return Answer(self, prompt, sampler, max_tokens)

    def _work(self, prompt: list[int], sampler: Sampler, max_tokens: int, cancel: C.c_int32, pieces: queue.SimpleQueue) -> None:
        """Puts the text into `pieces` as it comes, at the end what it came to: (text, tokens, stop) or an exception."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # it is the main thread's, which waits

        @TokenCallback
        def on_token(user, token, text, text_len) -> int:
            if text_len:
                pieces.put(C.string_at(text, text_len).decode())
            return 0

        last: object
        try:
            params = rf_generate_params.defaults()
            params.max_tokens = max_tokens
            params.cancel = C.pointer(cancel)
            last = self._generate(prompt, sampler, params, on_token)
        except BaseException as error:
            last = error
            lib.rf_kv_clear(self._handle)
            self._cached = []
        self._busy.release()
        pieces.put(last)

    def _generate(self, prompt: list[int], sampler: Sampler, params: rf_generate_params, on_token) -> tuple[str, list[int], int]:
        most = max(min(len(self._cached), len(prompt) - 1), 0)
        held = next((i for i in range(most) if self._cached[i] != prompt[i]), most)
        if held < len(self._cached):
            kept = C.c_uint32()
            self._check(lib.rf_kv_reachable(self._handle, 0, held, C.byref(kept)))
            held = kept.value
            self._check(lib.rf_kv_remove(self._handle, 0, held))
        new = (Token * (len(prompt) - held))(*prompt[held:])
        result = rf_generation()
        self._check(lib.rf_generate(self._handle, sampler._handle, new, len(new), C.byref(params), on_token, None, C.byref(result)))
        tokens = result.tokens[: result.n_tokens]
        first, end = C.c_uint32(), C.c_uint32()
        self._check(lib.rf_kv_range(self._handle, 0, C.byref(first), C.byref(end)))
        self._cached = (prompt + tokens)[: end.value]
        return C.string_at(result.text, result.text_len).decode(), tokens, result.stop

    def _check(self, status: int) -> None:
        """A context keeps the errors of its calls itself."""
        if status < 0:
            raise Error(status, lib.rf_context_error(self._handle).decode())


class Answer:
    """An answer as it comes: iterate over it for its text, whole characters at a time.

    It is generated on a thread of its own, so that Ctrl-C is seen at once. Leaving a `with` block stops what is not
    finished; from then on text, tokens and stop (STOP_*) say what there is.
    """

    def __init__(self, context: Context, prompt: Sequence[int], sampler: Sampler, max_tokens: int) -> None:
        self._cancel = C.c_int32(0)  # the library looks whether it is set
        self._pieces: queue.SimpleQueue = queue.SimpleQueue()
        self._ended = False
        self.text = ""
        self.tokens: list[int] = []
        self.stop: Optional[int] = None
        if not context._busy.acquire(blocking=False):
            raise Error(ERROR_BUSY, "the context is in use by another answer")
        # The thread does not refer to the answer: one that is dropped stops.
        arguments = (list(prompt), sampler, max_tokens, self._cancel, self._pieces)
        try:
            threading.Thread(target=context._work, args=arguments).start()
        except BaseException:
            context._busy.release()
            raise

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        piece = self._pieces.get()
        if isinstance(piece, str):
            return piece
        self._ended = True
        if isinstance(piece, BaseException):
            raise piece
        self.text, self.tokens, self.stop = piece
        raise StopIteration

    def close(self) -> None:
        """Stops the answer where it is, and waits until it has stopped: another Ctrl-C meanwhile is raised then."""
        self._cancel.value = 1
        interrupt = None
        while not self._ended:
            try:
                for _ in self:
                    pass
            except KeyboardInterrupt as again:
                interrupt = again
        if interrupt:
            raise interrupt

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self) -> None:
        self._cancel.value = 1
