package rocmforge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// open gives a backend and the model that ROCMFORGE_MODEL names.
func open(t *testing.T) (*Backend, *Model) {
	t.Helper()
	path := os.Getenv("ROCMFORGE_MODEL")
	if path == "" {
		t.Fatal("ROCMFORGE_MODEL must name a chat model: make models fetches one")
	}
	backend := must(Open())(t)
	t.Cleanup(backend.Close)
	model := must(backend.Load(path))(t)
	t.Cleanup(model.Close)
	return backend, model
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

type conversation struct {
	model   *Model
	context *Context
	sampler *Sampler
}

func newConversation(t *testing.T, model *Model) conversation {
	t.Helper()
	c := conversation{model, must(model.NewContext(1024))(t), must(NewSampler(0, 0))(t)}
	t.Cleanup(c.context.Close)
	t.Cleanup(c.sampler.Close)
	return c
}

func (c conversation) ask(t *testing.T, ctx context.Context, max uint32, w io.Writer, contents ...string) (Answer, error) {
	t.Helper()
	var messages []Message
	for i, content := range contents {
		messages = append(messages, Message{[]string{"user", "assistant"}[i%2], content})
	}
	return c.context.Generate(ctx, c.sampler, must(c.model.Chat(messages))(t), max, w)
}

const story = "Tell me a long story about a lighthouse."

func TestErrorsBelongToTheirCall(t *testing.T) {
	backend := must(Open())(t)
	defer backend.Close()
	var all sync.WaitGroup
	for i := 0; i < 50; i++ {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			for j := 0; j < 200; j++ {
				path := fmt.Sprintf("/none/%d-%d.gguf", i, j)
				_, err := backend.Load(path)
				if !errors.Is(err, ErrIO) || !strings.Contains(err.Error(), path) {
					t.Errorf("%s: %v", path, err)
				}
			}
		}(i)
	}
	all.Wait()
}

func TestWrongArguments(t *testing.T) {
	backend, model := open(t)
	if _, err := backend.Load("a\x00b"); err == nil {
		t.Error("a path with a NUL is no path")
	}
	if _, err := NewSampler(float32(math.NaN()), 0); !errors.Is(err, ErrParam) || !strings.Contains(err.Error(), "temperature") {
		t.Errorf("a temperature that is no number: %v", err)
	}
	if _, err := model.Chat(nil); !errors.Is(err, ErrParam) {
		t.Errorf("no messages: %v", err)
	}
	c := newConversation(t, model)
	if _, err := c.context.Generate(context.Background(), c.sampler, nil, 1, io.Discard); !errors.Is(err, ErrParam) {
		t.Errorf("no prompt: %v", err)
	}
	if _, err := c.context.Generate(context.Background(), c.sampler, []Token{1 << 30}, 1, io.Discard); !errors.Is(err, ErrParam) ||
		!strings.Contains(err.Error(), fmt.Sprint(1<<30)) {
		t.Errorf("no token: %v", err)
	}
	prompt := must(model.Tokenize("closed"))(t)
	model.Close()
	if _, err := model.Tokenize("closed"); !errors.Is(err, ErrParam) {
		t.Errorf("a closed model: %v", err)
	}
	c.context.Close()
	if _, err := c.context.Generate(context.Background(), c.sampler, prompt, 1, io.Discard); !errors.Is(err, ErrParam) {
		t.Errorf("a closed context: %v", err)
	}
}

// counter counts what is written, and calls then after so many writes.
type counter struct {
	bytes.Buffer
	writes, limit int
	then          func() error
}

func (c *counter) Write(text []byte) (int, error) {
	c.Buffer.Write(text)
	c.writes++
	if c.then != nil && c.writes == c.limit {
		return 0, c.then()
	}
	return len(text), nil
}

func TestTextComesAsItIsGenerated(t *testing.T) {
	_, model := open(t)
	c := newConversation(t, model)
	var w counter
	answer, err := c.ask(t, context.Background(), 24, &w, story)
	if err != nil {
		t.Fatal(err)
	}
	if w.String() != answer.Text || w.writes < 12 || len(answer.Tokens) != 24 || answer.Stop != StopLength {
		t.Errorf("%d writes, %q; %d tokens, stop %d, %q", w.writes, w.String(), len(answer.Tokens), answer.Stop, answer.Text)
	}
}

// The cache serves the next turn, and changes no token.
func TestAConversationContinues(t *testing.T) {
	_, model := open(t)
	c, fresh := newConversation(t, model), newConversation(t, model)
	first := must(c.ask(t, context.Background(), 16, io.Discard, story))(t)
	second := must(c.ask(t, context.Background(), 16, io.Discard, story, first.Text, "Go on."))(t)
	want := must(fresh.ask(t, context.Background(), 16, io.Discard, story, first.Text, "Go on."))(t)
	if second.Text != want.Text {
		t.Errorf("%q, from an empty cache %q", second.Text, want.Text)
	}
	again := must(c.ask(t, context.Background(), 16, io.Discard, story))(t)
	if again.Text != first.Text {
		t.Errorf("%q, before %q", again.Text, first.Text)
	}
}

func TestCancellingEndsThisAnswerOnly(t *testing.T) {
	_, model := open(t)
	c := newConversation(t, model)
	want := must(c.ask(t, context.Background(), 8, io.Discard, story))(t)

	ctx, cancel := context.WithCancel(context.Background())
	w := counter{limit: 3, then: func() error { cancel(); return nil }}
	answer, err := c.ask(t, ctx, 900, &w, story)
	if !errors.Is(err, context.Canceled) || answer.Stop != StopCancelled || len(answer.Tokens) >= 900 || answer.Text == "" {
		t.Errorf("%v, stop %d, %d tokens", err, answer.Stop, len(answer.Tokens))
	}
	if answer, err = c.ask(t, ctx, 8, &w, story); !errors.Is(err, context.Canceled) || len(answer.Tokens) > 1 {
		t.Errorf("cancelled before it began: %v, %d tokens", err, len(answer.Tokens))
	}

	got := must(c.ask(t, context.Background(), 8, io.Discard, story))(t)
	if got.Text != want.Text {
		t.Errorf("afterwards %q, before %q", got.Text, want.Text)
	}
}

// A prompt takes long, and its first token comes when it is done: who cancels meanwhile does not wait for it.
func TestCancellingEndsAPrompt(t *testing.T) {
	_, model := open(t)
	c := newConversation(t, model)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	answer, err := c.ask(t, ctx, 1, io.Discard, strings.Repeat("All work and no play makes Jack a dull boy. ", 70))
	if !errors.Is(err, context.DeadlineExceeded) || len(answer.Tokens) != 0 {
		t.Errorf("%v, %d tokens", err, len(answer.Tokens))
	}
	must(c.ask(t, context.Background(), 1, io.Discard, story))(t)
}

func TestAWriterThatFailsEndsTheAnswer(t *testing.T) {
	_, model := open(t)
	c := newConversation(t, model)
	w := counter{limit: 2, then: func() error { return io.ErrClosedPipe }}
	answer, err := c.ask(t, context.Background(), 900, &w, story)
	if err != io.ErrClosedPipe || w.writes != 2 || answer.Stop != StopCancelled {
		t.Errorf("%v after %d writes, stop %d", err, w.writes, answer.Stop)
	}
	func() {
		defer func() {
			if p := recover(); p != "a bug" {
				t.Errorf("the panic is %v", p)
			}
		}()
		c.ask(t, context.Background(), 900, &counter{limit: 1, then: func() error { panic("a bug") }}, story)
	}()
	must(c.ask(t, context.Background(), 1, io.Discard, story))(t)
}

func TestAFullContextIsNoError(t *testing.T) {
	_, model := open(t)
	small := must(model.NewContext(64))(t)
	defer small.Close()
	c := conversation{model, small, must(NewSampler(0, 0))(t)}
	defer c.sampler.Close()
	answer, err := c.ask(t, context.Background(), 0, io.Discard, story)
	if err != nil || answer.Stop != StopFull || answer.Text == "" {
		t.Errorf("%v, stop %d, %q", err, answer.Stop, answer.Text)
	}
	answer, err = c.ask(t, context.Background(), 0, io.Discard, strings.Repeat(story, 20))
	if err != nil || answer.Stop != StopFull || len(answer.Tokens) != 0 {
		t.Errorf("%v, stop %d, %q", err, answer.Stop, answer.Text)
	}
}

// Goroutines that share a context wait for each other.
func TestGoroutinesShareAContext(t *testing.T) {
	_, model := open(t)
	c := newConversation(t, model)
	prompt := must(model.Chat([]Message{{"user", story}}))(t)
	want := must(c.context.Generate(context.Background(), c.sampler, prompt, 4, io.Discard))(t)
	var all sync.WaitGroup
	for i := 0; i < 8; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			got, err := c.context.Generate(context.Background(), c.sampler, prompt, 4, io.Discard)
			if err != nil || got.Text != want.Text {
				t.Errorf("%q, %v", got.Text, err)
			}
		}()
	}
	all.Wait()
}
