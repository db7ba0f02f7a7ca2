package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/zerotrust"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/precinct"
	"github.com/org/spire-vault-99-action/zerotrust/vault"
)

// errInterrupted is why the run's context ends when the workflow is cancelled.
var errInterrupted = errors.New("the workflow was cancelled")

// step is one use of the action.
type step struct {
	settings
	log    *stepLog
	before bool // a cluster of that name was there before this step

	mu    sync.Mutex
	state state
}

// mainStep is the step itself. It returns the exit code.
func mainStep(ctx context.Context, getenv func(string) string, stdout io.Writer) int {
	log := newLog(stdout, getenv)
	in, inErr := parseInputs(log.action.GetInput)
	env, err := readEnvironment(getenv)
	if err != nil {
		log.fail(err)
		return 1
	}
	set, err := decide(in, env)
	s := &step{settings: set, log: log}
	if err := errors.Join(inErr, err); err != nil {
		log.fail(fmt.Errorf("wrong inputs:\n%w", err))
		return s.end(phase.Report{}, outputs{Result: faulty}, nil, err)
	}
	r, err := s.run(ctx)
	out := outputs{
		Result: resultOf(r, errors.Is(context.Cause(ctx), errInterrupted)), ClusterName: s.intent.Name, TrustDomain: s.intent.TrustDomain,
	}
	if s.exists {
		out.ClusterName, out.Kubeconfig = "", s.Kubeconfig
	} else if _, err := os.Stat(s.Kubeconfig); err == nil {
		out.Kubeconfig = s.Kubeconfig
	}
	out.count(r)
	var tails []tail
	if out.Result == failed || out.Result == unknown {
		out.LogsDir, tails = s.exportLogs(context.WithoutCancel(ctx))
	}
	if len(r.Phases) > 0 {
		err = nil // it is in the report
	}
	if err != nil {
		log.fail(err)
	}
	return s.end(r, out, tails, err)
}

// end writes everything that outlives the step and returns its exit code. What cannot be
// written does not keep the rest, nor the verdict.
func (s *step) end(r phase.Report, out outputs, tails []tail, setup error) int {
	code := exitCode(out.Result, s.FailOn)
	unwritten := func(err error) {
		s.log.fail(err)
		if code == 0 {
			code = 1 // what later steps are to read is not there
		}
	}
	if setup == nil {
		written, err := writeReports(s.ReportDir, s.Reports, r)
		if err != nil {
			unwritten(err)
		}
		if len(written) > 0 {
			out.ReportDir = s.ReportDir
		}
		out.ReportJSON, out.ReportJUnit, out.ReportHTML = written["json"], written["junit"], written["html"]
		if s.Annotations {
			s.log.annotate(annotationsOf(r, s.annotated()))
		}
	}
	if s.Summary {
		if err := s.writeSummary(r, tails, setup); err != nil {
			s.log.warn(fmt.Errorf("%w: there is no job summary of this step", err))
		}
	}
	text, err := outputText(out.pairs(), randomToken)
	if err == nil {
		err = appendFile("GITHUB_OUTPUT", s.output, text)
	}
	if err != nil {
		unwritten(fmt.Errorf("%w: later steps find no outputs of this step", err))
	}
	s.change(func(st *state) { st.Result = out.Result })
	s.log.say("%s: %d checks passed, %d did not, %d were not asked (exit code %d)", out.Result, out.Passed, out.Failed, out.Skipped, code)
	return code
}

// annotated is the intent's file as annotations name it: relative to the workspace.
func (s *step) annotated() string {
	if s.demo {
		return ""
	}
	file, err := filepath.Rel(s.workspace, s.Intent)
	if err != nil {
		return ""
	}
	return filepath.ToSlash(file)
}

func (s *step) writeSummary(r phase.Report, tails []tail, setup error) error {
	used := 0
	if info, err := os.Stat(s.summary); err == nil {
		used = int(info.Size())
	}
	text := wrongInputs(setup)
	if setup == nil {
		var err error
		if text, err = summaryOf(r, tails, used); err != nil {
			return err
		}
	}
	return appendFile("GITHUB_STEP_SUMMARY", s.summary, text)
}

// change notes something for the post step.
func (s *step) change(f func(*state)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.state)
	if err := s.state.save(s.folder); err != nil {
		s.log.warn(err)
	}
}

func (s *step) snapshot() state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// run brings the cluster up, or connects to the one that is there, and proves it. The report is
// empty where nothing could be begun.
func (s *step) run(ctx context.Context) (r phase.Report, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.Timeout, fmt.Errorf("the step took longer than %s (input timeout): %w", s.Timeout, context.DeadlineExceeded))
	defer cancel()
	stack, phases, err := s.prepare(ctx)
	if err != nil {
		return r, err
	}
	defer func() {
		if err := stack.Close(); err != nil {
			s.log.warn(err) // the verdict stands
		}
	}()
	removed := make(chan struct{})
	close(removed)
	if !s.exists {
		removed = s.removeOnCancel(ctx)
	}
	if s.began != "" {
		if ms, err := strconv.ParseInt(s.began, 10, 64); err == nil {
			s.log.say("the first phase starts %.1fs after the step", time.Since(time.UnixMilli(ms)).Seconds())
		}
	}
	r, err = phase.RunWith(ctx, phases, phase.Options{Only: s.Phases, Timeout: s.PhaseTimeout, Metadata: s.metadata()}, s.on)
	cancel()
	<-removed
	return r, err
}

// on shows an event, and notes what it means for the clean-up.
func (s *step) on(e phase.Event) {
	if e.Phase == "cluster" && !s.exists {
		switch {
		case e.Kind == phase.PhaseStarted && !s.before, e.Kind == phase.PhaseApplied:
			s.change(func(st *state) { st.Ours = true })
		}
		if e.Kind == phase.PhaseApplied {
			s.maskKubeconfig()
		}
	}
	s.log.on(e)
}

// maskKubeconfig masks what is secret in the cluster's kubeconfig.
func (s *step) maskKubeconfig() {
	cfg, err := clientcmd.LoadFromFile(s.Kubeconfig)
	if err != nil {
		return // there is nothing that could be shown
	}
	for _, secret := range secretsOf(cfg) {
		s.log.mask(secret)
	}
}

func (s *step) config() zerotrust.Config {
	return zerotrust.Config{
		Intent: s.intent, Vault: vault.Flavor(s.Vault), Dir: s.cache, Workers: s.Workers, Kubeconfig: s.Kubeconfig,
		Images: images.Source(s.Images), Mirrors: s.Mirrors, Keychain: authn.DefaultKeychain, Kubernetes: s.Kubernetes, Cilium: s.Cilium, ProgramsDir: s.root,
	}
}

// prepare makes the stack and its phases.
func (s *step) prepare(ctx context.Context) (*zerotrust.Stack, []*phase.Phase, error) {
	if s.exists && !s.Install {
		return s.prepareExisting(ctx)
	}
	cfg := s.config()
	var err error
	if cfg.SourceDir, err = sourceOf(s.intent, s.Intent, s.root); err != nil {
		return nil, nil, err
	}
	if s.exists {
		s.maskKubeconfig()
		if cfg.Cluster, err = s.connect(); err != nil {
			return nil, nil, err
		}
		cfg.Registry = s.Registry
	} else {
		// What cannot be told counts as there: nobody else's cluster is ever removed.
		there, err := zerotrust.Exists(ctx, cfg)
		s.before = there || err != nil
		s.change(func(st *state) {
			*st = state{Cluster: s.intent.Name, Cleanup: s.Cleanup, Kubeconfig: s.Kubeconfig, Cache: s.cache, TrustDomain: s.intent.TrustDomain, LogsDir: s.logsDir()}
		})
	}
	stack, err := zerotrust.New(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	phases := stack.Phases()
	if s.demo && !s.exists { // the browser goes to a port of this machine
		proxy := precinct.FrontendProxy(precinct.Browser{
			URL: siteURL(s.intent), ScreenshotDir: filepath.Join(s.ReportDir, "screenshots"),
		}, func(ctx context.Context) error { return kindx.InstallPackages(ctx, "chromium") })
		proxy.Checks = append(proxy.Checks, stack.WorkloadChecks("image of ")...)
		if phases, err = zerotrust.After(phases, "apps", proxy); err != nil {
			return nil, nil, errors.Join(err, stack.Close())
		}
	}
	if s.Mutate {
		phases = append(phases, &phase.Phase{
			Name: "mutations", Doc: "What is taken away changes exactly the edges that stand on it.",
			Needs: slices.Clone(phases), Serial: true, Timeout: 40 * time.Minute, Checks: stack.Mutations(),
		})
	}
	return stack, phases, nil
}

// prepareExisting is prepare for a cluster that is there already, and is proven as it is.
func (s *step) prepareExisting(ctx context.Context) (*zerotrust.Stack, []*phase.Phase, error) {
	s.maskKubeconfig()
	cluster, err := s.connect()
	if err != nil {
		return nil, nil, err
	}
	ref, err := proberRef(ctx, s.Registry, s.root)
	if err != nil {
		return nil, nil, err
	}
	stack, err := zerotrust.New(ctx, zerotrust.Config{Intent: s.intent, Cluster: cluster, ProberImage: ref})
	if err != nil {
		return nil, nil, err
	}
	push := prober(ref, s.root, cluster)
	phases := stack.VerifyPhases()
	phases[0].Needs = append(phases[0].Needs, push)
	return stack, append([]*phase.Phase{push}, phases...), nil
}

func (s *step) connect() (*rest.Config, error) {
	cluster, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig %s: %w", s.Kubeconfig, err)
	}
	return cluster, nil
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

// metadata are the versions that the report tells beside those that the phases find.
func (s *step) metadata() map[string]string {
	all := map[string]string{}
	for k, v := range map[string]string{"action": s.revision, "runner": s.runner, "intent": s.intent.Name} {
		if v != "" {
			all[k] = v
		}
	}
	if !s.exists || s.Install {
		all["vault flavour"], all["images from"] = s.Vault, s.Images
	}
	return all
}

func (s *step) logsDir() string { return filepath.Join(s.ReportDir, "logs") }

// exportLogs writes logs while the cluster is there, and shows their ends. It returns where they
// are, "" for none.
func (s *step) exportLogs(ctx context.Context) (string, []tail) {
	e := &export{dir: s.logsDir(), trustDomain: s.intent.TrustDomain, apps: s.intent.Namespaces(), redact: s.log.redact}
	var err error
	switch {
	case s.exists:
		if s.Install {
			e.spireOf = s.intent.Name
		} else {
			e.namespaces = s.intent.Namespaces()
		}
		e.cluster, err = s.connect()
	case !s.snapshot().Ours:
		return "", nil // nothing of it is this step's
	default:
		e.kind, e.spireOf = s.intent.Name, s.intent.Name
		e.cluster, err = kindx.REST(ctx, s.intent.Name)
	}
	if errors.Is(err, kindx.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		s.log.warn(fmt.Errorf("exporting logs: %w", err)) // the nodes' are still to be had
	}
	s.log.say("exporting logs to %s", e.dir)
	tails, err := e.all(ctx)
	s.change(func(st *state) { st.Logged = true })
	if err != nil {
		s.log.warn(err)
		return "", nil
	}
	for _, t := range tails {
		s.log.quote("the end of the log of "+t.name, lastLines(t.text, tailBytes/4))
	}
	return e.dir, tails
}
