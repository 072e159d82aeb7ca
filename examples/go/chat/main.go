// Chat with a model from a GGUF file. Text goes to stdout as it comes, all else to stderr. Ctrl-C stops an answer; where a
// question is awaited it ends the program.
//
//	chat [-n TOKENS] [-temp T] [-seed N] [-ctx TOKENS] MODEL.gguf
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"rocmforge"
)

var (
	tokens      = flag.Uint("n", 0, "tokens of an answer at most; 0: no limit")
	temperature = flag.Float64("temp", 0.8, "0: always the most likely token")
	seed        = flag.Uint64("seed", uint64(time.Now().UnixNano()), "for the same answers again")
	size        = flag.Uint("ctx", 0, "tokens of context; 0: what the model was trained on, at most 4096")
)

func main() {
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: chat [flags] MODEL.gguf")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

func run(path string) error {
	backend, err := rocmforge.Open()
	if err != nil {
		return err
	}
	defer backend.Close()
	model, err := backend.Load(path)
	if err != nil {
		return err
	}
	defer model.Close()
	memory, err := model.NewContext(uint32(*size))
	if err != nil {
		return err
	}
	defer memory.Close()
	sampler, err := rocmforge.NewSampler(float32(*temperature), *seed)
	if err != nil {
		return err
	}
	defer sampler.Close()

	input, err := os.Stdin.Stat()
	if err != nil {
		return err
	}
	terminal := input.Mode()&os.ModeCharDevice != 0
	var history []rocmforge.Message
	lines := bufio.NewReader(os.Stdin)
	for {
		if terminal {
			fmt.Fprint(os.Stderr, "> ")
		}
		line, err := lines.ReadString('\n')
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			history = answer(model, memory, sampler, append(history, rocmforge.Message{Role: "user", Content: line}))
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// answer prints the answer to a conversation and gives what it becomes: with the answer, or as it was before.
func answer(model *rocmforge.Model, memory *rocmforge.Context, sampler *rocmforge.Sampler,
	history []rocmforge.Message) []rocmforge.Message {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for {
		prompt, err := model.Chat(history)
		var answer rocmforge.Answer
		if err == nil {
			answer, err = memory.Generate(ctx, sampler, prompt, uint32(*tokens), os.Stdout)
		}
		full := err == nil && answer.Stop == rocmforge.StopFull
		if full && len(answer.Tokens) == 0 {
			if len(history) > 1 {
				// The older half of the exchanges makes room for more than one answer.
				history = history[(len(history)+1)/4*2:]
				fmt.Fprintln(os.Stderr, "[the context is full: older messages are forgotten]")
				continue
			}
			err = errors.New("the message is longer than the context")
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintln(os.Stderr, "chat:", err)
			return history[:len(history)-1]
		}
		fmt.Println()
		if err != nil {
			fmt.Fprintln(os.Stderr, "[stopped]")
		} else if full {
			fmt.Fprintln(os.Stderr, "[the context is full: the answer is cut]")
		}
		return append(history, rocmforge.Message{Role: "assistant", Content: answer.Text})
	}
}
