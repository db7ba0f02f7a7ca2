// Command full brings the precinct-99 demo up on this machine, from nothing to
// a cluster whose edges are proven one by one, and writes a report.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/term"
	"k8s.io/klog/v2"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/zerotrust"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/precinct"
	"github.com/org/spire-vault-99-action/zerotrust/report"
	"github.com/org/spire-vault-99-action/zerotrust/report/attest"
	"github.com/org/spire-vault-99-action/zerotrust/vault"
)

// Exit codes: a check that failed is another matter than a wrong flag.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	// Helm's and client-go's own log would run through the live display; what
	// matters of it comes back as errors.
	klog.SetLogger(logr.Discard())
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line.
type options struct {
	workers    int
	images     string
	keep       bool
	verify     bool
	down       bool
	recreate   bool
	reportDir  string
	attest     string
	phases     string
	cacheDir   string
	sourceDir  string
	kubeconfig string
	name       string
	intent     string
	vault      string
	kubernetes string
	cilium     string
	drills     bool
	mutate     bool
	hostPort   int
	mirrors    mirrors
	timeout    time.Duration
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	f := flag.NewFlagSet("full", flag.ContinueOnError)
	f.SetOutput(out)
	f.IntVar(&o.workers, "workers", 2, "worker nodes beside the control plane")
	f.StringVar(&o.images, "images", "auto", "where third-party images come from: auto, registry or fromsource")
	f.Var(&o.mirrors, "mirror", "registry mirror, HOST=MIRROR, may be given several times; credentials are those of docker login")
	f.BoolVar(&o.keep, "keep", false, "leave the cluster running at the end")
	f.BoolVar(&o.verify, "verify", false, "change nothing: only check the running cluster")
	f.BoolVar(&o.down, "down", false, "remove the cluster, and nothing else")
	f.BoolVar(&o.recreate, "recreate", false, "replace a cluster of the same name but another configuration")
	f.StringVar(&o.intent, "intent", "", "prove this intent, a zerotrust.yaml, instead of the demo's")
	f.StringVar(&o.vault, "vault", "vault", "the secret store: vault or openbao")
	f.StringVar(&o.kubernetes, "kubernetes", "", "the nodes' Kubernetes, a whole version from 1.30.0 on (default: 1.37.2 from source, kind's own from a registry); from source there is that one alone")
	f.StringVar(&o.cilium, "cilium", cilium.DefaultVersion, "Cilium's version, a whole one of 1.15 to 1.20; another one than the cluster's is an upgrade; from source there is the default alone")
	f.BoolVar(&o.drills, "drills", false, "afterwards kill each pod once, rotate credentials and move a Service, all under load")
	f.BoolVar(&o.mutate, "mutate", false, "afterwards take away one policy, one identity, the SPIRE server at a time, and want what follows and nothing else; listen to the demo's packets, and want nothing in the clear")
	f.IntVar(&o.hostPort, "port", 0, "port on 127.0.0.1 of what is published (default: the intent's, 3000 for the demo's site)")
	f.StringVar(&o.reportDir, "report-dir", "report", "folder for the report (HTML, JSON, JUnit, Markdown) and the screenshots")
	f.StringVar(&o.attest, "attest", "", "also write what was proven as an in-toto statement (test-result), unsigned, to this file")
	f.StringVar(&o.phases, "phase", "", "run only these phases and what they need, comma-separated")
	f.StringVar(&o.name, "name", "", "cluster name (default: the intent's, precinct-99)")
	f.StringVar(&o.cacheDir, "cache-dir", filepath.Join(cache, "spire-vault-99"), "folder for images and state")
	f.StringVar(&o.sourceDir, "source-dir", ".", "this module, in which the demo's applications and the programs that probe are built; packages of an --intent are built in the module that its file belongs to, and here if that is none")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig to write the cluster's entry to (default: kubectl's)")
	f.DurationVar(&o.timeout, "timeout", 90*time.Minute, "give up after this long")
	f.Usage = func() {
		fmt.Fprint(out, usage)
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", f.Arg(0))
	case versions(o) != nil:
		err = versions(o)
	case o.verify && o.down:
		err = errors.New("--verify and --down exclude each other")
	case o.workers < 1:
		err = fmt.Errorf("--workers %d: at least one is needed", o.workers)
	case !slices.Contains([]string{"vault", "openbao"}, o.vault):
		err = fmt.Errorf("--vault %q: use vault or openbao", o.vault)
	case (o.drills || o.mutate) && o.verify:
		err = errors.New("--drills and --mutate change the cluster, which --verify excludes")
	case o.hostPort < 0 || o.hostPort > 65535:
		err = fmt.Errorf("--port %d is not between 1 and 65535", o.hostPort)
	case o.drills && o.intent != "":
		err = errors.New("--drills are of the demo, which --intent excludes")
	case !slices.Contains([]string{"auto", "registry", "fromsource"}, o.images):
		err = fmt.Errorf("--images %q: use auto, registry or fromsource", o.images)
	}
	return o, err
}

// versions is what is wrong with the versions.
func versions(o options) error {
	if o.kubernetes != "" {
		if err := zerotrust.CheckKubernetes(o.kubernetes); err != nil {
			return fmt.Errorf("--kubernetes: %w", err)
		}
	}
	if err := cilium.CheckVersion(o.cilium); err != nil {
		return fmt.Errorf("--cilium: %w", err)
	}
	return nil
}

const usage = `Brings up the precinct-99 demo: a site, its backend, Vault and PostgreSQL in a kind
cluster with Cilium and SPIRE, where workloads talk over named edges alone and have no
static secret; and proves each edge.

  go run ./examples/full --keep     bring it up, prove it, leave it running
  go run ./examples/full --verify   prove the running cluster again
  go run ./examples/full --down     remove it

  go run ./examples/full --intent examples/orders/zerotrust.yaml    the same for your own

Exit code: 0 if everything was proven, 1 if not, 2 for a wrong flag, 130 when
interrupted. Flags:
`

// mirrors collects HOST=MIRROR flags.
type mirrors map[string][]string

func (m *mirrors) String() string { return fmt.Sprint(map[string][]string(*m)) }

func (m *mirrors) Set(s string) error {
	host, mirror, ok := strings.Cut(s, "=")
	if !ok || host == "" || mirror == "" {
		return errors.New("want HOST=MIRROR, for example quay.io=mirror.example.org/quay")
	}
	if *m == nil {
		*m = mirrors{}
	}
	(*m)[host] = append((*m)[host], mirror)
	return nil
}

func run(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "full: %v\nsee --help\n", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	// The first signal stops the run in good order; by then the handler is gone,
	// so that a second one ends the program at once.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	defer stop()

	intent, err := readIntent(o)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	cfg := zerotrust.Config{
		Intent: intent, Vault: vault.Flavor(o.vault), Dir: o.cacheDir, SourceDir: o.sourceDir, Workers: o.workers, Kubeconfig: o.kubeconfig,
		Kubernetes: o.kubernetes, Cilium: o.cilium, Recreate: o.recreate, Images: images.Source(o.images), Mirrors: o.mirrors,
		Keychain: authn.DefaultKeychain,
	}
	if o.intent != "" {
		dir, err := zerotrust.ModuleOf(o.intent)
		if err != nil {
			fmt.Fprintln(stderr, "full:", err)
			return exitFailed
		}
		cfg.SourceDir, cfg.ProgramsDir = cmp.Or(dir, o.sourceDir), o.sourceDir
	}
	if o.down {
		return down(ctx, cfg, stdout, stderr)
	}
	result, err := up(ctx, cfg, o, stdout)
	interrupted := ctx.Err() != nil
	if err != nil && len(result.Phases) == 0 {
		fmt.Fprintln(stderr, "full:", err)
		return exitFailed
	}
	if werr := errors.Join(report.Summary(stdout, result), report.WriteFiles(o.reportDir, result), writeStatement(o, intent, result)); werr != nil {
		fmt.Fprintln(stderr, "full:", werr)
		err = errors.Join(err, werr)
	}
	fmt.Fprintf(stdout, "report: %s\n", filepath.Join(o.reportDir, "report.html"))
	if o.keep || o.verify || interrupted || err != nil {
		sayState(stdout, cfg, interrupted)
		if isOpen(result) && o.intent == "" {
			fmt.Fprintf(stdout, "the site is open: %s  (login: jake, password: jake-precinct99; GitHub token: ghp_demo_anything)\n", siteURL(intent))
		}
	} else if code := down(ctx, cfg, stdout, stderr); code != 0 {
		return code
	}
	switch {
	case interrupted:
		return exitInterrupted
	case err != nil:
		return exitFailed
	}
	return 0
}

func up(ctx context.Context, cfg zerotrust.Config, o options, stdout io.Writer) (r phase.Report, err error) {
	stack, err := zerotrust.New(ctx, cfg)
	if err != nil {
		return phase.Report{}, err
	}
	defer func() { err = errors.Join(err, stack.Close()) }()
	live := report.NewTerminal(stdout, terminalConfig(stdout))
	defer func() { err = errors.Join(err, live.Close()) }()
	options := phase.Options{VerifyOnly: o.verify}
	if o.phases != "" {
		options.Only = strings.Split(o.phases, ",")
	}
	all, err := phases(stack, cfg.Intent, o)
	if err != nil {
		return phase.Report{}, err
	}
	return phase.RunWith(ctx, all, options, live.On)
}

// phases are the standard ones and, but for an intent of the user's, the demo's own.
func phases(stack *zerotrust.Stack, intent zerotrust.Intent, o options) ([]*phase.Phase, error) {
	if o.intent != "" {
		return withMutations(stack, stack.Phases(), o), nil
	}
	proxy := precinct.FrontendProxy(precinct.Browser{
		URL: siteURL(intent), ScreenshotDir: filepath.Join(o.reportDir, "screenshots"),
	}, installBrowser)
	proxy.Checks = append(proxy.Checks, stack.WorkloadChecks("image of ")...)
	all, err := zerotrust.After(stack.Phases(), "apps", proxy)
	if err != nil {
		return nil, err
	}
	site := precinct.NewSite(siteURL(intent))
	all = withMutations(stack, all, o, stack.Wiretap(site))
	if !o.drills {
		return all, nil
	}
	drills := &phase.Phase{
		Name: "drills", Doc: "What breaks mends itself: pods killed, credentials changed, a Service moved, under load.",
		Needs:  slices.Clone(all), // nothing else is to be at work meanwhile
		Serial: true, Timeout: 20 * time.Minute,
		Checks: append([]phase.Check{precinct.RotationCheck(site, 20)}, stack.Drills(site)...),
	}
	return append(all, drills), nil
}

// withMutations puts them behind all phases, and other checks before them, if they are wanted.
func withMutations(stack *zerotrust.Stack, all []*phase.Phase, o options, before ...phase.Check) []*phase.Phase {
	if !o.mutate {
		return all
	}
	return append(all, &phase.Phase{
		Name: "mutations", Doc: "What is taken away changes exactly the edges that stand on it.",
		Needs: slices.Clone(all), Serial: true, Timeout: 40 * time.Minute, Checks: append(before, stack.Mutations()...),
	})
}

// installBrowser gets Chromium where there is none, as Debian's package.
func installBrowser(ctx context.Context) error {
	return kindx.InstallPackages(ctx, "chromium")
}

// isOpen says whether the site was seen to be up.
func isOpen(r phase.Report) bool {
	return slices.ContainsFunc(r.Phases, func(p phase.Result) bool { return p.Name == "apps" && p.Status == phase.Passed })
}

// siteURL is where the first published workload is to be found.
func siteURL(in zerotrust.Intent) string {
	for _, w := range in.Workloads {
		if w.Publish != nil {
			return fmt.Sprintf("http://127.0.0.1:%d", w.Publish.HostPort)
		}
	}
	return ""
}

// readIntent is the demo's intent or that of the file, with what the flags change.
func readIntent(o options) (zerotrust.Intent, error) {
	in := zerotrust.Precinct99()
	if o.intent != "" {
		var err error
		if in, err = zerotrust.ReadIntent(o.intent); err != nil {
			return in, err
		}
	}
	if o.name != "" {
		in.Name = o.name
	}
	for _, w := range in.Workloads {
		if w.Publish != nil && o.hostPort != 0 {
			w.Publish.HostPort = o.hostPort
		}
	}
	return in, in.Validate()
}

func terminalConfig(w io.Writer) report.TerminalConfig {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return report.TerminalConfig{}
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		width = 80
	}
	return report.TerminalConfig{Live: true, Width: width, Color: os.Getenv("NO_COLOR") == ""}
}

// writeStatement writes the in-toto statement, if it is wanted.
func writeStatement(o options, intent zerotrust.Intent, r phase.Report) error {
	if o.attest == "" {
		return nil
	}
	text, err := intent.YAML()
	if err != nil {
		return err
	}
	statement, err := attest.Statement(r, intent.Name+".yaml", text)
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.attest, statement, 0o644); err != nil {
		return fmt.Errorf("writing the attestation: %w", err)
	}
	return nil
}

func down(ctx context.Context, cfg zerotrust.Config, stdout, stderr io.Writer) int {
	if err := zerotrust.Down(ctx, cfg); err != nil {
		fmt.Fprintln(stderr, "full:", err)
		return exitFailed
	}
	fmt.Fprintf(stdout, "cluster %s is removed; the image cache in %s stays\n", cfg.Intent.Name, cfg.Dir)
	return 0
}

// sayState tells what there is now and what to do with it.
func sayState(w io.Writer, cfg zerotrust.Config, interrupted bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	exists, err := zerotrust.Exists(ctx, cfg)
	if interrupted {
		fmt.Fprintln(w, "interrupted")
	}
	switch {
	case err != nil:
		fmt.Fprintf(w, "whether cluster %s is there cannot be told: %v\n", cfg.Intent.Name, err)
	case !exists:
		fmt.Fprintf(w, "there is no cluster %s; the next run starts where the caches are\n", cfg.Intent.Name)
	default:
		fmt.Fprintf(w, "cluster %s is there: kubectl --context kind-%s get pods -A; the next run goes on with it; --down removes it\n", cfg.Intent.Name, cfg.Intent.Name)
	}
}
