// Answers one question with a chat model, text as it comes.
//
//     generate MODEL.gguf "Why is the sky blue?" [MAX_TOKENS]
#include "rocmforge.hpp"

#include <iostream>

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) {
        std::cerr << "usage: " << argv[0] << " MODEL.gguf QUESTION [MAX_TOKENS]\n";
        return 2;
    }
    try {
        // The backend and the model may go out of scope before the context does.
        rf::Model model(rf::Backend(), argv[1]);
        rf::Context context(model);

        auto greedy = rf::defaults(rf_sampler_params_init);
        greedy.temperature = 0;
        rf::Sampler sampler(greedy);

        auto params = rf::defaults(rf_generate_params_init);
        if (argc == 4) params.max_tokens = static_cast<uint32_t>(std::stoul(argv[3]));
        context.generate(sampler, model.chat({{"user", argv[2]}}), params, [](std::string_view text) {
            return static_cast<bool>(std::cout << text << std::flush);
        });
        std::cout << '\n';
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
