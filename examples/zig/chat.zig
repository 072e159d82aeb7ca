//! Chat with a model from a GGUF file. Text goes to stdout as it comes, all else to stderr. Ctrl-C stops an answer; where
//! a question is awaited it ends the program.
//!
//!     chat [-n TOKENS] [--temp T] [--seed N] [--ctx TOKENS] MODEL.gguf

const std = @import("std");
const Io = std.Io;
const rocmforge = @import("rocmforge");

const usage =
    \\usage: chat [flags] MODEL.gguf
    \\  -n TOKENS      of an answer at most; 0, the default: no limit
    \\  --temp T       0: always the most likely token; default 0.8
    \\  --seed N       for the same answers again
    \\  --ctx TOKENS   of context; 0, the default: what the model was trained on, at most 4096
    \\
;

const Settings = struct {
    model: [:0]const u8,
    max_tokens: u32 = 0,
    sampler: rocmforge.Sampler.Options,
    context: u32 = 0,

    fn parse(args: []const [:0]const u8, seed: u64) !Settings {
        var settings: Settings = .{ .model = "", .sampler = .{ .seed = seed } };
        var rest = args[@min(1, args.len)..];
        while (rest.len >= 2 and rest[0].len > 0 and rest[0][0] == '-') : (rest = rest[2..]) {
            const value = rest[1];
            if (std.mem.eql(u8, rest[0], "-n")) {
                settings.max_tokens = try std.fmt.parseInt(u32, value, 10);
            } else if (std.mem.eql(u8, rest[0], "--temp")) {
                settings.sampler.temperature = try std.fmt.parseFloat(f32, value);
            } else if (std.mem.eql(u8, rest[0], "--seed")) {
                settings.sampler.seed = try std.fmt.parseInt(u64, value, 10);
            } else if (std.mem.eql(u8, rest[0], "--ctx")) {
                settings.context = try std.fmt.parseInt(u32, value, 10);
            } else return error.Usage;
        }
        if (rest.len != 1) return error.Usage;
        settings.model = rest[0];
        return settings;
    }
};

/// Set by Ctrl-C; the library looks at it.
var interrupted: i32 = 0;

fn interrupt(_: std.posix.SIG) callconv(.c) void {
    @atomicStore(i32, &interrupted, 1, .monotonic);
}

pub fn main(init: std.process.Init) u8 {
    const io = init.io;
    const args = init.minimal.args.toSlice(init.arena.allocator()) catch return 1;
    const seed: u64 = @truncate(@as(u96, @bitCast(Io.Clock.real.now(io).nanoseconds)));
    const settings = Settings.parse(args, seed) catch {
        std.debug.print(usage, .{});
        return 2;
    };
    var diagnostics: rocmforge.Diagnostics = .{};
    run(init.gpa, io, settings, &diagnostics) catch |failed| {
        report(failed, &diagnostics);
        return 1;
    };
    return 0;
}

fn report(failed: anyerror, diagnostics: *const rocmforge.Diagnostics) void {
    std.debug.print("chat: {t}: {s}\n", .{ failed, diagnostics.message() });
}

fn run(gpa: std.mem.Allocator, io: Io, settings: Settings, diagnostics: *rocmforge.Diagnostics) !void {
    const backend: rocmforge.Backend = try .init(diagnostics);
    defer backend.deinit();
    const model: rocmforge.Model = try .load(backend, settings.model, diagnostics);
    defer model.deinit();
    var context: rocmforge.Context = try .init(gpa, model, settings.context, diagnostics);
    defer context.deinit();
    const sampler: rocmforge.Sampler = try .init(settings.sampler, diagnostics);
    defer sampler.deinit();

    const terminal = try Io.File.stdin().isTty(io);
    var buffer: [4096]u8 = undefined;
    var stdin = Io.File.stdin().readerStreaming(io, &buffer);
    var out_buffer: [256]u8 = undefined;
    var stdout = Io.File.stdout().writerStreaming(io, &out_buffer);
    var chat: Chat = .{
        .gpa = gpa,
        .model = model,
        .context = &context,
        .sampler = sampler,
        .max_tokens = settings.max_tokens,
        .out = &stdout.interface,
    };
    defer chat.deinit();

    var line: Io.Writer.Allocating = .init(gpa);
    defer line.deinit();
    var more = true;
    while (more) {
        if (terminal) std.debug.print("> ", .{});
        line.clearRetainingCapacity();
        _ = try stdin.interface.streamDelimiterEnding(&line.writer, '\n');
        more = stdin.interface.bufferedLen() > 0;
        if (more) stdin.interface.toss(1);
        const text = std.mem.trimEnd(u8, line.written(), "\r");
        if (text.len > 0) try chat.ask(text);
    }
}

const Chat = struct {
    gpa: std.mem.Allocator,
    model: rocmforge.Model,
    context: *rocmforge.Context,
    sampler: rocmforge.Sampler,
    max_tokens: u32,
    out: *Io.Writer,
    history: std.ArrayList(rocmforge.Message) = .empty,

    fn deinit(self: *Chat) void {
        self.forget(self.history.items.len);
        self.history.deinit(self.gpa);
    }

    /// Prints the answer to a question. The conversation then has both, or, where that failed, neither.
    fn ask(self: *Chat, question: []const u8) !void {
        try self.add("user", question);
        var diagnostics: rocmforge.Diagnostics = .{};
        const result = self.answer(&diagnostics) catch |failed| {
            if (failed == error.WriteFailed) return failed;
            report(failed, &diagnostics);
            return self.gpa.free(self.history.pop().?.content);
        };
        const what = result orelse {
            std.debug.print("chat: the message is longer than the context\n", .{});
            return self.gpa.free(self.history.pop().?.content);
        };
        try self.out.writeAll("\n");
        try self.out.flush();
        switch (what.stop) {
            .cancelled => std.debug.print("[stopped]\n", .{}),
            .full => std.debug.print("[the context is full: the answer is cut]\n", .{}),
            else => {},
        }
        try self.add("assistant", what.text);
    }

    /// null: there is no room for the last message alone.
    fn answer(self: *Chat, diagnostics: *rocmforge.Diagnostics) !?rocmforge.Answer {
        @atomicStore(i32, &interrupted, 0, .monotonic);
        const stopping: std.posix.Sigaction = .{
            .handler = .{ .handler = interrupt },
            .mask = std.posix.sigemptyset(),
            .flags = std.posix.SA.RESTART,
        };
        var before: std.posix.Sigaction = undefined;
        std.posix.sigaction(.INT, &stopping, &before);
        defer std.posix.sigaction(.INT, &before, null);

        while (true) {
            const prompt = try self.model.chat(self.gpa, self.history.items, diagnostics);
            defer self.gpa.free(prompt);
            const result = try self.context.generate(
                self.sampler,
                prompt,
                .{ .max_tokens = self.max_tokens, .cancel = &interrupted },
                self.out,
                diagnostics,
            );
            if (result.stop != .full or result.tokens.len > 0) return result;
            if (self.history.items.len == 1) return null;
            // The older half of the exchanges makes room for more than one answer.
            self.forget((self.history.items.len + 1) / 4 * 2);
            std.debug.print("[the context is full: older messages are forgotten]\n", .{});
        }
    }

    fn add(self: *Chat, role: []const u8, text: []const u8) !void {
        const content = try self.gpa.dupe(u8, text);
        errdefer self.gpa.free(content);
        try self.history.append(self.gpa, .{ .role = role, .content = content });
    }

    fn forget(self: *Chat, n: usize) void {
        for (self.history.items[0..n]) |message| self.gpa.free(message.content);
        self.history.replaceRangeAssumeCapacity(0, n, &.{});
    }
};
