"""Tests of the wrapper, with the chat model that ROCMFORGE_MODEL names: python3 -m unittest"""

import _thread
import ctypes
import gc
import inspect
import os
import signal
import subprocess
import tempfile
import threading
import unittest

import rocmforge
from rocmforge import Backend, Context, Error, Model, Sampler

STORY = "Tell me a long story about a lighthouse."


class Layout(unittest.TestCase):
    def test_structs_are_the_header_s(self):
        """Every struct and field has the size and place that a C compiler gives it."""
        structs = [s for _, s in inspect.getmembers(rocmforge, inspect.isclass) if issubclass(s, rocmforge.Struct)]
        structs.remove(rocmforge.Struct)
        self.assertEqual(len(structs), 8)
        lines, want = [], []
        for struct in structs:
            name = struct.__name__
            lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
            want.append(f"{name} {ctypes.sizeof(struct)}")
            for field, *_ in struct._fields_:
                place = getattr(struct, field)
                lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));')
                want.append(f"{name}.{field} {place.offset} {place.size}")
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "layout.c")
            with open(source, "w") as file:
                file.write("#include <rocmforge.h>\n#include <stdio.h>\nint main(void) {%s}" % "\n".join(lines))
            flags = subprocess.run(["pkg-config", "--cflags", "rocmforge"], check=True, capture_output=True, text=True).stdout.split()
            subprocess.run(["cc", source, "-o", source[:-2], *flags], check=True)
            got = subprocess.run([source[:-2]], check=True, capture_output=True, text=True).stdout
        self.assertEqual(got.splitlines(), want)

    def test_errors_are_the_header_s(self):
        for name in ("PARAM", "BUFFER", "BUSY", "IO"):
            status = getattr(rocmforge, "ERROR_" + name)
            self.assertIn(f"RF_ERROR_{name}: ", str(Error(status, "")))


class Errors(unittest.TestCase):
    def test_each_thread_gets_its_own(self):
        backend, wrong = Backend(), []

        def load(number: int) -> None:
            for call in range(100):
                path = f"/none/{number}-{call}.gguf"
                try:
                    Model(backend, path)
                    wrong.append(path)
                except Error as error:
                    if error.status != rocmforge.ERROR_IO or path not in str(error):
                        wrong.append(f"{path}: {error}")

        threads = [threading.Thread(target=load, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    def test_a_sampler_s_parameters(self):
        with self.assertRaisesRegex(Error, "RF_ERROR_PARAM: .*temperature"):
            Sampler(float("nan"))


class Generation(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.backend = Backend()
        cls.model = Model(cls.backend, os.environ["ROCMFORGE_MODEL"])

    def setUp(self):
        self.context = Context(self.model, 1024)
        self.sampler = Sampler(0)

    def ask(self, *contents: str, max_tokens: int = 0, context=None):
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
        return (context or self.context).generate(self.model.chat(messages), self.sampler, max_tokens)

    def text(self, *contents: str, **options) -> str:
        return "".join(self.ask(*contents, **options))

    def test_text_comes_as_it_is_generated(self):
        answer = self.ask(STORY, max_tokens=24)
        pieces = list(answer)
        self.assertEqual("".join(pieces), answer.text)
        self.assertGreater(len(pieces), 12)
        self.assertEqual((len(answer.tokens), answer.stop), (24, rocmforge.STOP_LENGTH))

    def test_a_conversation_continues(self):
        """The cache serves the next turn, and changes no token."""
        first = self.text(STORY, max_tokens=16)
        second = self.text(STORY, first, "Go on.", max_tokens=16)
        self.assertEqual(second, self.text(STORY, first, "Go on.", max_tokens=16, context=Context(self.model, 1024)))
        self.assertEqual(first, self.text(STORY, max_tokens=16))

    def test_leaving_the_block_stops_this_answer_only(self):
        want = self.text(STORY, max_tokens=8)
        with self.ask(STORY) as answer:
            begun = [next(answer), next(answer)]
        self.assertEqual(answer.stop, rocmforge.STOP_CANCELLED)
        self.assertTrue(answer.text.startswith("".join(begun)))
        self.assertLess(len(answer.tokens), 900)
        self.assertEqual(self.text(STORY, max_tokens=8), want)

    def test_a_stop_ends_a_prompt(self):
        with self.ask("All work and no play makes Jack a dull boy. " * 70, max_tokens=1) as answer:
            pass
        self.assertEqual((answer.stop, answer.tokens), (rocmforge.STOP_CANCELLED, []))

    def test_a_dropped_answer_stops(self):
        for _ in self.ask(STORY):
            break
        gc.collect()
        with self.context._busy:  # waits for it
            pass
        self.assertLess(len(self.context._cached), 900)

    def test_ctrl_c_stops_an_answer(self):
        # A shell's background jobs ignore the signal, and Python then leaves it so.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        with self.assertRaises(KeyboardInterrupt):
            with self.ask(STORY) as answer:
                for _ in answer:
                    _thread.interrupt_main()
        self.assertEqual(answer.stop, rocmforge.STOP_CANCELLED)
        self.text(STORY, max_tokens=1)

    def test_one_answer_at_a_time(self):
        with self.ask(STORY) as answer:
            with self.assertRaisesRegex(Error, "RF_ERROR_BUSY"):
                self.ask(STORY)
            next(answer)
        self.text(STORY, max_tokens=1)

    def test_errors_reach_who_iterates(self):
        for prompt, message in (([], "prompt"), ([1 << 30], str(1 << 30))):
            with self.assertRaisesRegex(Error, "RF_ERROR_PARAM: .*" + message):
                for _ in self.context.generate(prompt, self.sampler):
                    pass
        with self.assertRaises(TypeError):
            list(self.context.generate(["text"], self.sampler))
        with self.assertRaisesRegex(Error, "RF_ERROR_PARAM"):
            self.model.chat([])
        with self.assertRaises(ValueError):
            Model(self.backend, "a\0b")
        self.text(STORY, max_tokens=1)

    def test_a_full_context_is_no_error(self):
        small = Context(self.model, 64)
        answer = self.ask(STORY, context=small)
        self.assertEqual("".join(answer), answer.text)
        self.assertEqual(answer.stop, rocmforge.STOP_CACHE_FULL)
        self.assertEqual(self.text(STORY * 20, context=small), "")

    def test_handles_close_in_any_order(self):
        backend = Backend()
        model = Model(backend, os.environ["ROCMFORGE_MODEL"])
        backend.close()
        prompt = model.tokenize("Once upon a time")
        with Context(model, 64) as context:
            model.close()
            self.assertEqual(len(list(context.generate(prompt, self.sampler, 4))) > 0, True)
        with self.assertRaisesRegex(Error, "RF_ERROR_PARAM"):
            model.tokenize("closed")


if __name__ == "__main__":
    unittest.main()
