package main

import (
	"context"
	"fmt"
	"os"
	"testing"
)

// tb lets what is made for tests run here: servers, and programs out of images.
type tb struct {
	testing.TB // for its unexported method; all that is called is below
	ctx        context.Context
	log        func(format string, args ...any)
	cleanups   []func()
	failed     bool
}

// failure is how tb leaves a run.
type failure struct{ error }

// within runs f and what it leaves to clean up. An error is f's, or a Fatal of what it called.
func within(ctx context.Context, log func(format string, args ...any), f func(testing.TB) error) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	t := &tb{ctx: ctx, log: log}
	defer func() {
		if r := recover(); r != nil {
			lost, ok := r.(failure)
			if !ok {
				panic(r)
			}
			err = lost.error
		}
		cancel()
		t.failed = t.failed || err != nil
		for i := len(t.cleanups) - 1; i >= 0; i-- {
			t.cleanups[i]()
		}
	}()
	return f(t)
}

func (t *tb) Helper()                           {}
func (t *tb) Context() context.Context          { return t.ctx }
func (t *tb) Cleanup(f func())                  { t.cleanups = append(t.cleanups, f) }
func (t *tb) Failed() bool                      { return t.failed }
func (t *tb) Logf(format string, args ...any)   { t.log(format, args...) }
func (t *tb) Fatalf(format string, args ...any) { t.fail(fmt.Errorf(format, args...)) }
func (t *tb) Fatal(args ...any)                 { t.fail(fmt.Errorf("%s", fmt.Sprint(args...))) }

func (t *tb) fail(err error) {
	t.failed = true
	panic(failure{err})
}

func (t *tb) TempDir() string {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		t.fail(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
