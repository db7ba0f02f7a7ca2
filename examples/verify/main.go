// Command verify proves an intent on a cluster that it did not build: Cilium and SPIRE are
// there and fit, and who may talk to whom, edge by edge, from inside the pods that are there
// and, as far as it is outside, from this machine. It changes nothing but that it adds an
// ephemeral container to one pod of each workload.
//
//	go run ./examples/verify -intent zerotrust.yaml -prober-image registry.example/prober:1
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/org/spire-vault-99-action/zerotrust"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/report"
)

func main() {
	klog.SetLogger(logr.Discard())
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

const usage = `Proves an intent on a cluster that is there already, from inside its pods. It changes
nothing but that it adds an ephemeral container to one pod of each workload.

  go run ./examples/verify -intent zerotrust.yaml -prober-image registry.example/prober:1

The image is that of the program ./zerotrust/probe/prober, at /app/prober. The rights that
it needs are printed by: go run ./examples/derive -intent zerotrust.yaml verifier

  permissions          those rights are there
  mesh                 Cilium and SPIRE, wherever they are, fit the intent
  workloads            each has ready pods
  probers              the cluster lets the prober into them
  4D-network-policies  every edge, from inside the pods
  4D-from-outside      edges from outside, from this machine, as far as it has a way there

Cilium's Hubble Relay is what a denial is told by. Without it only what gets through though
it must not is found, and nothing is proven. What could not be told counts as not proven;
-phase leaves phases out.

Exit code: 0 if everything was proven, 1 if not, 2 for a wrong flag or intent. Flags:
`

type options struct {
	intent, kubeconfig, context, proberImage, reportDir, phases string
	timeout                                                     time.Duration
}

func run(args []string, stdout, stderr io.Writer) int {
	var o options
	f := flag.NewFlagSet("verify", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprint(stderr, usage)
		f.PrintDefaults()
	}
	f.StringVar(&o.intent, "intent", "", "file with the intent (required)")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig (default: kubectl's)")
	f.StringVar(&o.context, "context", "", "context of the kubeconfig (default: its current one)")
	f.StringVar(&o.proberImage, "prober-image", "", "image of the prober, which the nodes can pull or have (required)")
	f.StringVar(&o.reportDir, "report-dir", "report", "folder for the report: HTML, JSON, JUnit, Markdown")
	f.StringVar(&o.phases, "phase", "", "run only these phases and what they need, comma-separated")
	f.DurationVar(&o.timeout, "timeout", 15*time.Minute, "give up after this long")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case f.NArg() > 0 || o.intent == "" || o.proberImage == "":
		fmt.Fprintln(stderr, "verify: -intent and -prober-image are required, and nothing else is taken: see -help")
		return 2
	}
	intent, err := zerotrust.ReadIntent(o.intent)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	cluster, err := connect(o)
	if err != nil {
		fmt.Fprintln(stderr, "verify: reading the kubeconfig:", err)
		return 2
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	result, err := verify(ctx, zerotrust.Config{Intent: intent, Cluster: cluster, ProberImage: o.proberImage}, o.phases, stdout)
	if err := errors.Join(err, report.Summary(stdout, result), report.WriteFiles(o.reportDir, result)); err != nil {
		fmt.Fprintln(stderr, "verify:", err)
		return 1
	}
	fmt.Fprintln(stdout, "report:", filepath.Join(o.reportDir, "report.html"))
	if !result.OK() {
		return 1
	}
	return 0
}

func verify(ctx context.Context, cfg zerotrust.Config, phases string, stdout io.Writer) (r phase.Report, err error) {
	stack, err := zerotrust.New(ctx, cfg)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, stack.Close()) }()
	live := report.NewTerminal(stdout, report.TerminalConfig{})
	defer func() { err = errors.Join(err, live.Close()) }()
	options := phase.Options{VerifyOnly: true}
	if phases != "" {
		options.Only = strings.Split(phases, ",")
	}
	r, runErr := phase.RunWith(ctx, stack.VerifyPhases(), options, live.On)
	if len(r.Phases) == 0 {
		return r, runErr
	}
	return r, nil // what went wrong is in the report
}

func connect(o options) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.context}).ClientConfig()
}
