// Command action is the entrypoint of the GitHub Action (action.yml): it reads the inputs, runs
// the phases, and writes log, annotations, summary, outputs and reports. The shim in shim/
// finds and runs it, with the stage as its argument:
//
//	action main    the step itself
//	action post    what is left to clean up, at the end of the job
//
// Exit code: 0 proven (or forgiven by fail-on), 1 not, 130 when the workflow is cancelled.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

func main() {
	// Helm's and client-go's own log would run through the groups; what matters of it
	// comes back as errors.
	klog.SetLogger(logr.Discard())
	// A log that nobody reads any more must not end the clean-up.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		// The runner sends SIGTERM soon after SIGINT; both ask for the same.
		<-signals
		cancel(errInterrupted)
	}()
	if os.Getenv("ZEROTRUST_ACTION_BEGAN") != "" {
		go func() {
			// The shim writes nothing: its stdin ends when it is killed.
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel(errInterrupted)
		}()
	}
	var code int
	switch stage := append(os.Args[1:], "")[0]; stage {
	case "main":
		code = mainStep(ctx, os.Getenv, os.Stdout)
	case "post":
		code = postStep(context.WithoutCancel(ctx), os.Getenv, os.Stdout)
	default:
		fmt.Fprintf(os.Stderr, "action: the stage is %q, and there are main and post\n", stage)
		code = 2
	}
	os.Exit(code)
}
