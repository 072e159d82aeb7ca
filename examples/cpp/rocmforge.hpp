// A small C++17 face of rocmforge.h: handles that release themselves, statuses that throw.
// Take it into your project and let it grow with what you need.
#pragma once

#include <rocmforge.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rf {

/// A negative status and its message.
class Error : public std::runtime_error {
public:
    Error(rf_status status, const char *message) : std::runtime_error(message), status(status) {}
    const rf_status status;
};

/// Throws on errors; gives outcomes (RF_OK, RF_CANCELLED, RF_CACHE_FULL, ...) back.
inline rf_status check(rf_status status) {
    if (status < 0) throw Error(status, rf_last_error());
    return status;
}

template <auto Release>
struct Releaser {
    template <typename T>
    void operator()(T *handle) const {
        Release(handle);
    }
};
template <typename T, auto Release>
using Handle = std::unique_ptr<T, Releaser<Release>>;

/// A parameter struct with its defaults.
template <typename T>
T defaults(rf_status (*init)(T *, size_t)) {
    T params;
    check(init(&params, sizeof params));
    return params;
}

/// A device. Shareable between threads.
class Backend {
public:
    explicit Backend(rf_backend_params params = defaults(rf_backend_params_init)) {
        rf_backend *raw = nullptr;
        check(rf_backend_create(&params, &raw));
        handle.reset(raw);
    }
    rf_backend *get() const { return handle.get(); }

private:
    Handle<rf_backend, rf_backend_release> handle;
};

struct Message {
    std::string role, content;
};

/// A loaded model. Shareable between threads.
class Model {
public:
    Model(const Backend &backend, const std::string &path) {
        auto params = defaults(rf_model_params_init);
        rf_model *raw = nullptr;
        check(rf_model_load(backend.get(), path.c_str(), &params, &raw));
        handle.reset(raw);
    }

    std::vector<rf_token> tokenize(std::string_view text, uint32_t flags = RF_TOKENIZE_ADD_BOS) const {
        return tokens([&](rf_token *buffer, size_t capacity, size_t *n) {
            return rf_tokenize(get(), text.data(), text.size(), flags, buffer, capacity, n);
        });
    }

    /// The tokens of a conversation, up to where the assistant answers.
    std::vector<rf_token> chat(const std::vector<Message> &messages) const {
        std::vector<const char *> roles, contents;
        for (const auto &message : messages) {
            roles.push_back(message.role.c_str());
            contents.push_back(message.content.c_str());
        }
        auto params = defaults(rf_chat_params_init);
        params.n_messages = messages.size();
        params.roles = roles.data();
        params.contents = contents.data();
        return tokens([&](rf_token *buffer, size_t capacity, size_t *n) {
            return rf_chat_apply(get(), &params, buffer, capacity, n);
        });
    }

    rf_model *get() const { return handle.get(); }

private:
    /// Asks for the count, then for the tokens.
    template <typename Call>
    static std::vector<rf_token> tokens(Call call) {
        size_t n = 0;
        rf_status status = call(nullptr, 0, &n);
        std::vector<rf_token> result(n);
        if (status == RF_ERROR_BUFFER) status = call(result.data(), result.size(), &n);
        check(status);
        return result;
    }

    Handle<rf_model, rf_model_release> handle;
};

/// A way of choosing tokens. One thread at a time.
class Sampler {
public:
    explicit Sampler(rf_sampler_params params = defaults(rf_sampler_params_init)) {
        rf_sampler *raw = nullptr;
        check(rf_sampler_create(&params, &raw));
        handle.reset(raw);
    }
    rf_sampler *get() const { return handle.get(); }

private:
    Handle<rf_sampler, rf_sampler_release> handle;
};

/// Caches over a model, which it keeps alive. One thread at a time.
class Context {
public:
    /// Takes text as it comes; false stops.
    using OnText = std::function<bool(std::string_view)>;

    explicit Context(const Model &model, rf_context_params params = defaults(rf_context_params_init)) {
        rf_context *raw = nullptr;
        check(rf_context_create(model.get(), &params, &raw));
        handle.reset(raw);
    }

    /// The generation's result; its text and tokens belong to the context, until its next generation.
    rf_generation generate(Sampler &sampler, const std::vector<rf_token> &prompt, rf_generate_params params,
                           OnText on_text) {
        Stream stream{std::move(on_text), nullptr};
        rf_generation result{};
        result.size = sizeof result;
        rf_status status = rf_generate(handle.get(), sampler.get(), prompt.data(), prompt.size(), &params,
                                       on_token, &stream, &result);
        // An exception must not pass through C: it waits here until the call has ended.
        if (stream.thrown) std::rethrow_exception(stream.thrown);
        check(status);
        return result;
    }

    /// From any thread: ends the generation in progress; false where there is none.
    bool cancel() { return check(rf_context_cancel(handle.get())) == RF_OK; }

private:
    struct Stream {
        OnText on_text;
        std::exception_ptr thrown;
    };

    static int32_t on_token(void *user, rf_token, const char *text, size_t text_len) noexcept {
        auto &stream = *static_cast<Stream *>(user);
        try {
            return stream.on_text(std::string_view(text, text_len)) ? 0 : 1;
        } catch (...) {
            stream.thrown = std::current_exception();
            return 1;
        }
    }

    Handle<rf_context, rf_context_release> handle;
};

}  // namespace rf
