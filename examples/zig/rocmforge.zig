//! Language models from GGUF files: a small face of rocmforge.h.
//! Take it into your project and let it grow with what you need.
//!
//! A call that fails returns one of `Error` and tells the rest in the caller's `Diagnostics`, whichever thread it runs on.
//! Backends and models may be used by many threads at once, contexts and samplers by one at a time. Deinit in any order.

const std = @import("std");
const Allocator = std.mem.Allocator;
const c = @import("c");

pub const Token = c.rf_token;

pub const Error = error{
    Param,
    Busy,
    Io,
    Format,
    Model,
    Unsupported,
    Tokenizer,
    Template,
    OutOfMemory,
    Internal,
    NoRuntime,
    NoDevice,
    RuntimeTooOld,
    Kernels,
    DeviceLost,
    Gpu,
    Forked,
    /// A status that this wrapper does not know.
    Unknown,
};

/// What an error does not say: the library's message. It belongs to one call at a time.
pub const Diagnostics = struct {
    raw: c.rf_error = .{ .size = @sizeOf(c.rf_error) },

    pub fn message(self: *const Diagnostics) []const u8 {
        return std.mem.sliceTo(&self.raw.message, 0);
    }

    fn set(self: *Diagnostics, text: []const u8) void {
        const n = @min(text.len, self.raw.message.len - 1);
        @memcpy(self.raw.message[0..n], text[0..n]);
        self.raw.message[n] = 0;
    }
};

fn check(status: c.rf_status) Error!void {
    return switch (status) {
        c.RF_OK => {},
        c.RF_ERROR_PARAM => error.Param,
        c.RF_ERROR_BUSY => error.Busy,
        c.RF_ERROR_IO => error.Io,
        c.RF_ERROR_FORMAT => error.Format,
        c.RF_ERROR_MODEL => error.Model,
        c.RF_ERROR_UNSUPPORTED => error.Unsupported,
        c.RF_ERROR_TOKENIZER => error.Tokenizer,
        c.RF_ERROR_TEMPLATE => error.Template,
        c.RF_ERROR_MEMORY => error.OutOfMemory,
        c.RF_ERROR_INTERNAL => error.Internal,
        c.RF_ERROR_NO_RUNTIME => error.NoRuntime,
        c.RF_ERROR_NO_DEVICE => error.NoDevice,
        c.RF_ERROR_RUNTIME_TOO_OLD => error.RuntimeTooOld,
        c.RF_ERROR_KERNELS => error.Kernels,
        c.RF_ERROR_DEVICE_LOST => error.DeviceLost,
        c.RF_ERROR_GPU => error.Gpu,
        c.RF_ERROR_FORKED => error.Forked,
        else => error.Unknown,
    };
}

/// A parameter struct with its defaults.
fn defaults(comptime T: type, init: fn ([*c]T, usize) callconv(.c) c.rf_status) Error!T {
    var params: T = undefined;
    try check(init(&params, @sizeOf(T)));
    return params;
}

/// A device.
pub const Backend = struct {
    handle: *c.rf_backend,

    /// The best GPU, or else the CPU.
    pub fn init(diagnostics: *Diagnostics) Error!Backend {
        const params = try defaults(c.rf_backend_params, c.rf_backend_params_init);
        var handle: ?*c.rf_backend = null;
        try check(c.rf_backend_create_e(&params, &handle, &diagnostics.raw));
        return .{ .handle = handle.? };
    }

    pub fn deinit(self: Backend) void {
        c.rf_backend_release(self.handle);
    }
};

/// One turn of a conversation.
pub const Message = struct {
    role: []const u8, // "system", "user", "assistant"
    content: []const u8,
};

/// A loaded GGUF file.
pub const Model = struct {
    handle: *c.rf_model,

    pub fn load(backend: Backend, path: [:0]const u8, diagnostics: *Diagnostics) Error!Model {
        const params = try defaults(c.rf_model_params, c.rf_model_params_init);
        var handle: ?*c.rf_model = null;
        try check(c.rf_model_load_e(backend.handle, path.ptr, &params, &handle, &diagnostics.raw));
        return .{ .handle = handle.? };
    }

    pub fn deinit(self: Model) void {
        c.rf_model_release(self.handle);
    }

    /// The tokens of a conversation, up to where the assistant answers. The caller frees them.
    pub fn chat(self: Model, gpa: Allocator, messages: []const Message, diagnostics: *Diagnostics) Error![]Token {
        for (messages) |message| if (!std.unicode.utf8ValidateSlice(message.content)) {
            diagnostics.set("a message is not UTF-8");
            return error.Param;
        };
        const text = try std.json.Stringify.valueAlloc(gpa, messages, .{});
        defer gpa.free(text);
        const json = try gpa.dupeSentinel(u8, text, 0);
        defer gpa.free(json);
        var params = try defaults(c.rf_chat_params, c.rf_chat_params_init);
        params.messages_json = json.ptr;

        // First how many, then the tokens themselves.
        var n: usize = 0;
        const status = c.rf_chat_apply_e(self.handle, &params, null, 0, &n, &diagnostics.raw);
        if (status != c.RF_ERROR_BUFFER) {
            try check(status);
            return &.{};
        }
        const tokens = try gpa.alloc(Token, n);
        errdefer gpa.free(tokens);
        try check(c.rf_chat_apply_e(self.handle, &params, tokens.ptr, tokens.len, &n, &diagnostics.raw));
        return tokens;
    }
};

/// A way of choosing tokens, with a memory of those it chose.
pub const Sampler = struct {
    handle: *c.rf_sampler,

    pub const Options = struct {
        /// 0: always the most likely token.
        temperature: f32 = 0.8,
        /// The same seed draws the same tokens.
        seed: u64 = 0,
    };

    pub fn init(options: Options, diagnostics: *Diagnostics) Error!Sampler {
        var params = try defaults(c.rf_sampler_params, c.rf_sampler_params_init);
        params.temperature = options.temperature;
        params.seed = options.seed;
        var handle: ?*c.rf_sampler = null;
        try check(c.rf_sampler_create_e(&params, &handle, &diagnostics.raw));
        return .{ .handle = handle.? };
    }

    pub fn deinit(self: Sampler) void {
        c.rf_sampler_release(self.handle);
    }
};

pub const Stop = enum(i32) {
    /// The model said so.
    end = c.RF_STOP_EOG,
    text = c.RF_STOP_TEXT,
    /// As many tokens as were asked for.
    length = c.RF_STOP_LENGTH,
    full = c.RF_STOP_CACHE_FULL,
    cancelled = c.RF_STOP_CANCELLED,
    _,
};

/// What was generated; it belongs to the context, until its next generation.
pub const Answer = struct {
    text: []const u8,
    tokens: []const Token,
    stop: Stop,
};

/// The memory of one conversation: what a model has computed of it.
pub const Context = struct {
    handle: *c.rf_context,
    gpa: Allocator,
    cached: std.ArrayList(Token) = .empty,

    /// Room for `size` tokens; 0: what the model was trained on, at most 4096.
    pub fn init(gpa: Allocator, model: Model, size: u32, diagnostics: *Diagnostics) Error!Context {
        var params = try defaults(c.rf_context_params, c.rf_context_params_init);
        params.n_ctx = size;
        var handle: ?*c.rf_context = null;
        try check(c.rf_context_create_e(model.handle, &params, &handle, &diagnostics.raw));
        return .{ .handle = handle.?, .gpa = gpa };
    }

    pub fn deinit(self: *Context) void {
        c.rf_context_release(self.handle);
        self.cached.deinit(self.gpa);
    }

    pub const Options = struct {
        /// 0: until the answer ends.
        max_tokens: u32 = 0,
        /// Ends the answer once it is not 0. Another thread or a signal handler sets it.
        cancel: ?*const i32 = null,
    };

    /// Answers a prompt and writes the text to `out` as it comes, whole characters at a time. It takes the prompt in full
    /// each time: what the context still holds of it is not computed again.
    pub fn generate(
        self: *Context,
        sampler: Sampler,
        prompt: []const Token,
        options: Options,
        out: *std.Io.Writer,
        diagnostics: *Diagnostics,
    ) (Error || std.Io.Writer.Error)!Answer {
        errdefer self.forget();
        const most = @min(self.cached.items.len, prompt.len -| 1);
        const same = std.mem.findDiff(Token, self.cached.items[0..most], prompt[0..most]) orelse most;
        var held: u32 = @intCast(same);
        if (same < self.cached.items.len) {
            try self.checkOwn(c.rf_kv_reachable(self.handle, 0, held, &held), diagnostics);
            try self.checkOwn(c.rf_kv_remove(self.handle, 0, held), diagnostics);
        }

        var stream: Stream = .{ .out = out };
        var params = try defaults(c.rf_generate_params, c.rf_generate_params_init);
        params.max_tokens = options.max_tokens;
        params.cancel = options.cancel;
        var result: c.rf_generation = .{ .size = @sizeOf(c.rf_generation) };
        const status = c.rf_generate(self.handle, sampler.handle, prompt[held..].ptr, prompt.len - held, &params, Stream.onToken, &stream, &result);
        if (status < 0) try self.checkOwn(status, diagnostics);
        if (stream.failed) |failed| return failed;

        const answer: Answer = .{
            .text = result.text[0..result.text_len],
            .tokens = result.tokens[0..result.n_tokens],
            .stop = @fromBackingInt(@intCast(result.stop)),
        };
        var first: u32 = 0;
        var end: u32 = 0;
        try self.checkOwn(c.rf_kv_range(self.handle, 0, &first, &end), diagnostics);
        self.cached.shrinkRetainingCapacity(held);
        try self.cached.appendSlice(self.gpa, prompt[held..]);
        try self.cached.appendSlice(self.gpa, answer.tokens);
        self.cached.shrinkRetainingCapacity(end);
        return answer;
    }

    fn forget(self: *Context) void {
        _ = c.rf_kv_clear(self.handle);
        self.cached.clearRetainingCapacity();
    }

    /// A context keeps the errors of its calls itself.
    fn checkOwn(self: *Context, status: c.rf_status, diagnostics: *Diagnostics) Error!void {
        check(status) catch |failed| {
            diagnostics.set(std.mem.span(c.rf_context_error(self.handle)));
            return failed;
        };
    }
};

const Stream = struct {
    out: *std.Io.Writer,
    failed: ?std.Io.Writer.Error = null,

    fn onToken(user: ?*anyopaque, _: Token, text: [*c]const u8, len: usize) callconv(.c) i32 {
        const self: *Stream = @ptrCast(@alignCast(user));
        self.write(text[0..len]) catch |failed| {
            self.failed = failed;
            return 1;
        };
        return 0;
    }

    fn write(self: *Stream, text: []const u8) std.Io.Writer.Error!void {
        if (text.len == 0) return;
        try self.out.writeAll(text);
        try self.out.flush();
    }
};
