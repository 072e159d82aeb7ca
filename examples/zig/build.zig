const std = @import("std");

pub fn build(b: *std.Build) void {
    const target = b.standardTargetOptions(.{});
    const optimize = b.standardOptimizeOption(.{});

    // The installed package, as pkg-config knows it.
    const header = b.addTranslateC(.{
        .root_source_file = b.path("c.h"),
        .target = target,
        .optimize = optimize,
    });
    header.linkSystemLibrary("rocmforge", .{ .use_pkg_config = .force });
    const rocmforge = b.addModule("rocmforge", .{
        .root_source_file = b.path("rocmforge.zig"),
        .target = target,
        .optimize = optimize,
        .imports = &.{.{ .name = "c", .module = header.createModule() }},
    });

    const chat = b.addExecutable(.{
        .name = "chat",
        .root_module = b.createModule(.{
            .root_source_file = b.path("chat.zig"),
            .target = target,
            .optimize = optimize,
            .imports = &.{.{ .name = "rocmforge", .module = rocmforge }},
        }),
    });
    b.installArtifact(chat);

    const tests = b.addRunArtifact(b.addTest(.{
        .root_module = b.createModule(.{
            .root_source_file = b.path("test.zig"),
            .target = target,
            .optimize = optimize,
            .imports = &.{.{ .name = "rocmforge", .module = rocmforge }},
        }),
    }));
    tests.has_side_effects = true; // the library is not seen to change
    b.step("test", "Run the tests with the model that ROCMFORGE_MODEL names").dependOn(&tests.step);
}
