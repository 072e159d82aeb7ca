//! Tests of the wrapper, with the chat model that ROCMFORGE_MODEL names.

const std = @import("std");
const rocmforge = @import("rocmforge");
const testing = std.testing;
const gpa = testing.allocator;
const Writer = std.Io.Writer;

const story = "Tell me a long story about a lighthouse.";

/// A model, and a conversation of at most `size` tokens with it.
const Fixture = struct {
    backend: rocmforge.Backend,
    model: rocmforge.Model,
    context: rocmforge.Context,
    sampler: rocmforge.Sampler,
    diagnostics: rocmforge.Diagnostics = .{},

    fn init(size: u32) !Fixture {
        const path = std.c.getenv("ROCMFORGE_MODEL") orelse return error.SetRocmforgeModel;
        var diagnostics: rocmforge.Diagnostics = .{};
        errdefer std.debug.print("{s}\n", .{diagnostics.message()});
        const backend: rocmforge.Backend = try .init(&diagnostics);
        errdefer backend.deinit();
        const model: rocmforge.Model = try .load(backend, std.mem.span(path), &diagnostics);
        errdefer model.deinit();
        var context: rocmforge.Context = try .init(gpa, model, size, &diagnostics);
        errdefer context.deinit();
        const sampler: rocmforge.Sampler = try .init(.{ .temperature = 0 }, &diagnostics);
        return .{ .backend = backend, .model = model, .context = context, .sampler = sampler };
    }

    fn deinit(self: *Fixture) void {
        self.backend.deinit();
        self.model.deinit();
        self.context.deinit();
        self.sampler.deinit();
    }

    fn ask(self: *Fixture, contents: []const []const u8, options: rocmforge.Context.Options, out: *Writer) !rocmforge.Answer {
        var messages: [3]rocmforge.Message = undefined;
        const roles: [3][]const u8 = .{ "user", "assistant", "user" };
        for (contents, roles[0..contents.len], messages[0..contents.len]) |content, role, *message|
            message.* = .{ .role = role, .content = content };
        const prompt = try self.model.chat(gpa, messages[0..contents.len], &self.diagnostics);
        defer gpa.free(prompt);
        return self.context.generate(self.sampler, prompt, options, out, &self.diagnostics);
    }

    /// The text of an answer, in memory of the caller's.
    fn text(self: *Fixture, contents: []const []const u8, max_tokens: u32) ![]u8 {
        var nowhere: Writer.Discarding = .init(&.{});
        const answer = try self.ask(contents, .{ .max_tokens = max_tokens }, &nowhere.writer);
        return gpa.dupe(u8, answer.text);
    }
};

/// Takes what is written, counts the flushes, and fails or sets a flag at the last of `limit`.
const Counter = struct {
    written: std.ArrayList(u8) = .empty,
    flushes: u32 = 0,
    limit: u32 = std.math.maxInt(u32),
    flag: ?*i32 = null,
    writer: Writer = .{ .buffer = &.{}, .vtable = &.{ .drain = drain, .flush = flush } },

    fn drain(writer: *Writer, data: []const []const u8, splat: usize) Writer.Error!usize {
        const self: *Counter = @alignCast(@fieldParentPtr("writer", writer));
        var n: usize = 0;
        for (data, 1..) |bytes, i| for (0..if (i == data.len) splat else 1) |_| {
            self.written.appendSlice(gpa, bytes) catch return error.WriteFailed;
            n += bytes.len;
        };
        return n;
    }

    fn flush(writer: *Writer) Writer.Error!void {
        const self: *Counter = @alignCast(@fieldParentPtr("writer", writer));
        self.flushes += 1;
        if (self.flushes < self.limit) return;
        if (self.flag) |flag| @atomicStore(i32, flag, 1, .monotonic) else return error.WriteFailed;
    }

    fn deinit(self: *Counter) void {
        self.written.deinit(gpa);
    }
};

test "each thread gets its own errors" {
    var diagnostics: rocmforge.Diagnostics = .{};
    const backend: rocmforge.Backend = try .init(&diagnostics);
    defer backend.deinit();
    var wrong: std.atomic.Value(u32) = .init(0);
    var threads: [16]std.Thread = undefined;
    for (&threads, 0..) |*thread, number| thread.* = try .spawn(.{}, loadNone, .{ backend, number, &wrong });
    for (threads) |thread| thread.join();
    try testing.expectEqual(0, wrong.load(.monotonic));
}

fn loadNone(backend: rocmforge.Backend, number: usize, wrong: *std.atomic.Value(u32)) void {
    for (0..100) |call| {
        var buffer: [64]u8 = undefined;
        const path = std.fmt.bufPrintSentinel(&buffer, "/none/{d}-{d}.gguf", .{ number, call }, 0) catch unreachable;
        var diagnostics: rocmforge.Diagnostics = .{};
        if (rocmforge.Model.load(backend, path, &diagnostics)) |model| {
            model.deinit();
        } else |failed| {
            if (failed == error.Io and std.mem.find(u8, diagnostics.message(), path) != null) continue;
        }
        _ = wrong.fetchAdd(1, .monotonic);
    }
}

test "text comes as it is generated" {
    var f: Fixture = try .init(1024);
    defer f.deinit();
    var out: Counter = .{};
    defer out.deinit();
    const answer = try f.ask(&.{story}, .{ .max_tokens = 24 }, &out.writer);
    try testing.expectEqualStrings(answer.text, out.written.items);
    try testing.expect(out.flushes > 12);
    try testing.expectEqual(24, answer.tokens.len);
    try testing.expectEqual(.length, answer.stop);
}

// The cache serves the next turn, and changes no token.
test "a conversation continues" {
    var f: Fixture = try .init(1024);
    defer f.deinit();
    const first = try f.text(&.{story}, 16);
    defer gpa.free(first);
    const second = try f.text(&.{ story, first, "Go on." }, 16);
    defer gpa.free(second);
    var fresh: Fixture = try .init(1024);
    defer fresh.deinit();
    const want = try fresh.text(&.{ story, first, "Go on." }, 16);
    defer gpa.free(want);
    try testing.expectEqualStrings(want, second);
    const again = try f.text(&.{story}, 16);
    defer gpa.free(again);
    try testing.expectEqualStrings(first, again);
}

test "cancelling ends this answer only" {
    var f: Fixture = try .init(1024);
    defer f.deinit();
    const want = try f.text(&.{story}, 8);
    defer gpa.free(want);

    var flag: i32 = 0;
    var out: Counter = .{ .limit = 3, .flag = &flag };
    defer out.deinit();
    var answer = try f.ask(&.{story}, .{ .cancel = &flag }, &out.writer);
    try testing.expectEqual(.cancelled, answer.stop);
    try testing.expect(answer.tokens.len < 900 and answer.text.len > 0);
    // Set before it begins.
    answer = try f.ask(&.{"Hello!"}, .{ .cancel = &flag }, &out.writer);
    try testing.expectEqual(.cancelled, answer.stop);
    try testing.expectEqual(0, answer.tokens.len);

    const got = try f.text(&.{story}, 8);
    defer gpa.free(got);
    try testing.expectEqualStrings(want, got);
}

test "a writer that fails ends the answer" {
    var f: Fixture = try .init(1024);
    defer f.deinit();
    var out: Counter = .{ .limit = 2 };
    defer out.deinit();
    try testing.expectError(error.WriteFailed, f.ask(&.{story}, .{}, &out.writer));
    try testing.expectEqual(2, out.flushes);
    gpa.free(try f.text(&.{story}, 1));
}

test "a full context is no error" {
    var f: Fixture = try .init(64);
    defer f.deinit();
    var nowhere: Writer.Discarding = .init(&.{});
    var answer = try f.ask(&.{story}, .{}, &nowhere.writer);
    try testing.expectEqual(.full, answer.stop);
    try testing.expect(answer.tokens.len > 0);
    const long: [20][story.len]u8 = @splat(story[0..story.len].*);
    answer = try f.ask(&.{std.mem.asBytes(&long)}, .{}, &nowhere.writer);
    try testing.expectEqual(.full, answer.stop);
    try testing.expectEqual(0, answer.tokens.len);
}

test "errors say what is wrong" {
    var f: Fixture = try .init(64);
    defer f.deinit();
    var nowhere: Writer.Discarding = .init(&.{});
    try testing.expectError(error.Param, f.context.generate(f.sampler, &.{}, .{}, &nowhere.writer, &f.diagnostics));
    try testing.expect(std.mem.find(u8, f.diagnostics.message(), "prompt") != null);
    try testing.expectError(error.Param, f.context.generate(f.sampler, &.{1 << 30}, .{}, &nowhere.writer, &f.diagnostics));
    try testing.expect(std.mem.find(u8, f.diagnostics.message(), "1073741824") != null);
    try testing.expectError(error.Param, f.ask(&.{"\xff"}, .{}, &nowhere.writer));
    try testing.expect(std.mem.find(u8, f.diagnostics.message(), "UTF-8") != null);
    try testing.expectError(error.Param, rocmforge.Sampler.init(.{ .temperature = std.math.nan(f32) }, &f.diagnostics));
    try testing.expect(std.mem.find(u8, f.diagnostics.message(), "temperature") != null);
}
