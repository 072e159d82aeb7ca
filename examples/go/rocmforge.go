// Package rocmforge runs language models from GGUF files: a small face of rocmforge.h.
// Take it into your project and let it grow with what you need.
//
// Everything here may be called from any goroutine. What Close gives back must not be in use. The C library keeps a
// model as long as a context needs it: close in any order.
package rocmforge

/*
#cgo pkg-config: rocmforge
#include <rocmforge.h>
#include <stdlib.h>

// A Go function, below. cgo cannot write its const.
int32_t rocmforgeToken(void *user, rf_token token, char *text, size_t text_len);
*/
import "C"

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime/cgo"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// Token is the number of a piece of text in a model's vocabulary.
type Token = int32

// Status is the kind of a failure: errors.Is(err, rocmforge.ErrMemory).
type Status int32

const (
	ErrParam         Status = C.RF_ERROR_PARAM
	ErrBusy          Status = C.RF_ERROR_BUSY
	ErrIO            Status = C.RF_ERROR_IO
	ErrFormat        Status = C.RF_ERROR_FORMAT
	ErrModel         Status = C.RF_ERROR_MODEL
	ErrUnsupported   Status = C.RF_ERROR_UNSUPPORTED
	ErrTokenizer     Status = C.RF_ERROR_TOKENIZER
	ErrTemplate      Status = C.RF_ERROR_TEMPLATE
	ErrMemory        Status = C.RF_ERROR_MEMORY
	ErrInternal      Status = C.RF_ERROR_INTERNAL
	ErrNoRuntime     Status = C.RF_ERROR_NO_RUNTIME
	ErrNoDevice      Status = C.RF_ERROR_NO_DEVICE
	ErrRuntimeTooOld Status = C.RF_ERROR_RUNTIME_TOO_OLD
	ErrKernels       Status = C.RF_ERROR_KERNELS
	ErrDeviceLost    Status = C.RF_ERROR_DEVICE_LOST
	ErrGPU           Status = C.RF_ERROR_GPU
	ErrForked        Status = C.RF_ERROR_FORKED
)

func (s Status) Error() string { return C.GoString(C.rf_status_name(C.rf_status(s))) }

// Error is a call that failed, with the library's message.
type Error struct {
	Status  Status
	Message string
}

func (e *Error) Error() string { return e.Status.Error() + ": " + e.Message }
func (e *Error) Unwrap() error { return e.Status }

// call makes one call into C. The error comes with the call, in memory of its own: a goroutine may go on on another
// thread after each call, where rf_last_error would tell of someone else's.
func call(f func(*C.rf_error) C.rf_status) error {
	e := C.rf_error{size: C.sizeof_rf_error}
	if status := f(&e); status != C.RF_OK {
		return &Error{Status(status), C.GoString(&e.message[0])}
	}
	return nil
}

// tokens asks for the count, then for the tokens.
func tokens(f func(buffer *C.rf_token, capacity C.size_t, n *C.size_t, e *C.rf_error) C.rf_status) ([]Token, error) {
	var result []Token
	for {
		var n C.size_t
		err := call(func(e *C.rf_error) C.rf_status { return f(pointer(result), C.size_t(len(result)), &n, e) })
		if e, failed := err.(*Error); failed && e.Status == C.RF_ERROR_BUFFER {
			result = make([]Token, n)
			continue
		}
		return result[:n], err
	}
}

func pointer(tokens []Token) *C.rf_token {
	if len(tokens) == 0 {
		return nil
	}
	return (*C.rf_token)(&tokens[0])
}

// turn lets one goroutine at a time through; waiting ends with the context.
type turn chan struct{}

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) give() { <-t }

// Backend is a device.
type Backend struct{ handle *C.rf_backend }

// Open takes the best GPU into use, or else the CPU.
func Open() (*Backend, error) {
	b := new(Backend)
	return b, call(func(e *C.rf_error) C.rf_status {
		var params C.rf_backend_params
		C.rf_backend_params_init(&params, C.sizeof_rf_backend_params)
		return C.rf_backend_create_e(&params, &b.handle, e)
	})
}

// Close gives the device back.
func (b *Backend) Close() {
	C.rf_backend_release(b.handle)
	b.handle = nil
}

// Model is a loaded GGUF file.
type Model struct{ handle *C.rf_model }

// Load loads a GGUF file; of a split one, its first part.
func (b *Backend) Load(path string) (*Model, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return nil, fmt.Errorf("%q: %w", path, syscall.EINVAL)
	}
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	m := new(Model)
	return m, call(func(e *C.rf_error) C.rf_status {
		var params C.rf_model_params
		C.rf_model_params_init(&params, C.sizeof_rf_model_params)
		return C.rf_model_load_e(b.handle, name, &params, &m.handle, e)
	})
}

// Close gives the model back.
func (m *Model) Close() {
	C.rf_model_release(m.handle)
	m.handle = nil
}

// Message is one turn of a conversation.
type Message struct {
	Role    string `json:"role"` // "system", "user", "assistant"
	Content string `json:"content"`
}

// Chat gives the tokens of a conversation, up to where the assistant answers.
func (m *Model) Chat(messages []Message) ([]Token, error) {
	text, err := json.Marshal(messages)
	if err != nil {
		return nil, err
	}
	var params C.rf_chat_params
	C.rf_chat_params_init(&params, C.sizeof_rf_chat_params)
	params.messages_json = C.CString(string(text))
	defer C.free(unsafe.Pointer(params.messages_json))
	return tokens(func(buffer *C.rf_token, capacity C.size_t, n *C.size_t, e *C.rf_error) C.rf_status {
		return C.rf_chat_apply_e(m.handle, &params, buffer, capacity, n, e)
	})
}

// Tokenize gives the tokens of a plain prompt; control tokens written out in it stay text.
func (m *Model) Tokenize(text string) ([]Token, error) {
	data := C.CString(text)
	defer C.free(unsafe.Pointer(data))
	return tokens(func(buffer *C.rf_token, capacity C.size_t, n *C.size_t, e *C.rf_error) C.rf_status {
		return C.rf_tokenize_e(m.handle, data, C.size_t(len(text)), C.RF_TOKENIZE_ADD_BOS, buffer, capacity, n, e)
	})
}

// Sampler is a way of choosing tokens, with a memory of those it chose.
type Sampler struct {
	handle *C.rf_sampler
	turn   turn
}

// NewSampler makes a sampler. Temperature 0 always takes the most likely token; the same seed draws the same tokens.
func NewSampler(temperature float32, seed uint64) (*Sampler, error) {
	s := &Sampler{turn: make(turn, 1)}
	return s, call(func(e *C.rf_error) C.rf_status {
		var params C.rf_sampler_params
		C.rf_sampler_params_init(&params, C.sizeof_rf_sampler_params)
		params.temperature = C.float(temperature)
		params.seed = C.uint64_t(seed)
		return C.rf_sampler_create_e(&params, &s.handle, e)
	})
}

// Close gives the sampler back.
func (s *Sampler) Close() {
	C.rf_sampler_release(s.handle)
	s.handle = nil
}

// Context is the memory of one conversation: what a model has computed of it.
type Context struct {
	handle *C.rf_context
	turn   turn
	cancel *int32  // C memory: the library looks whether it is set
	cached []Token // what the cache holds
}

// NewContext makes room for a conversation of size tokens; 0: what the model was trained on, at most 4096.
func (m *Model) NewContext(size uint32) (*Context, error) {
	c := &Context{turn: make(turn, 1), cancel: (*int32)(C.malloc(C.sizeof_int32_t))}
	return c, call(func(e *C.rf_error) C.rf_status {
		var params C.rf_context_params
		C.rf_context_params_init(&params, C.sizeof_rf_context_params)
		params.n_ctx = C.uint32_t(size)
		return C.rf_context_create_e(m.handle, &params, &c.handle, e)
	})
}

// Close gives the context back.
func (c *Context) Close() {
	C.rf_context_release(c.handle)
	C.free(unsafe.Pointer(c.cancel))
	c.handle, c.cancel = nil, nil
}

// Stop is why an answer ended.
type Stop int32

const (
	StopEnd       Stop = C.RF_STOP_EOG    // the model said so
	StopLength    Stop = C.RF_STOP_LENGTH // as many tokens as were asked for
	StopFull      Stop = C.RF_STOP_CACHE_FULL
	StopCancelled Stop = C.RF_STOP_CANCELLED
)

// Answer is what was generated.
type Answer struct {
	Text   string
	Tokens []Token
	Stop   Stop
}

// Generate answers a prompt and writes the text to w as it comes, whole characters at a time. It gives the prompt in
// full each time: what the context still holds of it is not computed again. At most max tokens; 0: until the answer ends.
//
// When ctx ends or w fails the answer ends with that error, and what there is of it comes back all the same. A context
// that is full is no error: see Answer.Stop.
func (c *Context) Generate(ctx context.Context, s *Sampler, prompt []Token, max uint32, w io.Writer) (Answer, error) {
	if err := c.turn.take(ctx); err != nil {
		return Answer{Stop: StopCancelled}, err
	}
	defer c.turn.give()
	if err := s.turn.take(ctx); err != nil {
		return Answer{Stop: StopCancelled}, err
	}
	defer s.turn.give()
	if c.handle == nil {
		return Answer{}, &Error{ErrParam, "the context is closed"}
	}

	held := 0
	for held < len(c.cached) && held < len(prompt)-1 && c.cached[held] == prompt[held] {
		held++
	}
	if held < len(c.cached) {
		kept := C.uint32_t(0)
		if status := C.rf_kv_reachable(c.handle, 0, C.uint32_t(held), &kept); status != C.RF_OK {
			return Answer{}, c.failed(status)
		}
		held = int(kept)
		if status := C.rf_kv_remove(c.handle, 0, C.uint32_t(held)); status != C.RF_OK {
			return Answer{}, c.failed(status)
		}
		c.cached = c.cached[:held]
	}

	stream := &stream{w: w}
	handle := cgo.NewHandle(stream)
	defer handle.Delete()
	var params C.rf_generate_params
	C.rf_generate_params_init(&params, C.sizeof_rf_generate_params)
	params.max_tokens = C.uint32_t(max)
	params.cancel = (*C.int32_t)(c.cancel)
	result := C.rf_generation{size: C.sizeof_rf_generation}
	stop := c.cancelWith(ctx)
	status := C.rf_generate(c.handle, s.handle, pointer(prompt[held:]), C.size_t(len(prompt)-held), &params,
		C.rf_token_callback(C.rocmforgeToken), unsafe.Pointer(&handle), &result)
	stop()
	if status < 0 {
		err := c.failed(status)
		C.rf_kv_clear(c.handle)
		c.cached = nil
		return Answer{}, err
	}
	answer := Answer{C.GoStringN(result.text, C.int(result.text_len)),
		append([]Token(nil), unsafe.Slice((*Token)(result.tokens), result.n_tokens)...), Stop(result.stop)}

	var first, end C.uint32_t
	C.rf_kv_range(c.handle, 0, &first, &end)
	c.cached = append(append(c.cached[:0:0], prompt...), answer.Tokens...)[:end]

	if stream.panicked != nil {
		panic(stream.panicked)
	}
	if status == C.RF_CANCELLED && stream.err == nil {
		stream.err = ctx.Err()
	}
	return answer, stream.err
}

// failed is the error of a call on this context, which keeps it itself. It is the caller's turn.
func (c *Context) failed(status C.rf_status) error {
	return &Error{Status(status), C.GoString(C.rf_context_error(c.handle))}
}

// cancelWith stops the call that follows when ctx ends, until the function that it returns is called.
func (c *Context) cancelWith(ctx context.Context) func() {
	*c.cancel = 0
	over, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		select {
		case <-over:
		case <-ctx.Done():
			atomic.StoreInt32(c.cancel, 1)
		}
	}()
	return func() {
		close(over)
		<-gone
	}
}

// stream is what the callback of a generation needs.
type stream struct {
	w        io.Writer
	err      error
	panicked any
}

//export rocmforgeToken
func rocmforgeToken(user unsafe.Pointer, _ C.rf_token, text *C.char, n C.size_t) (stop C.int32_t) {
	s := (*(*cgo.Handle)(user)).Value().(*stream)
	// A panic must not pass through C: it waits there until the call has ended.
	defer func() {
		if s.panicked = recover(); s.panicked != nil {
			stop = 1
		}
	}()
	if n > 0 {
		_, s.err = s.w.Write(C.GoBytes(unsafe.Pointer(text), C.int(n)))
	}
	if s.err != nil {
		return 1
	}
	return 0
}
