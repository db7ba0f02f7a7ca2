package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/deploy"
)

const (
	// exportTime is for all logs together: a cluster that is broken answers slowly.
	exportTime = 2 * time.Minute
	// logLines is how much of one container's log is kept.
	logLines = 5000
	// mostFlows is how many of the newest flows are.
	mostFlows = 20_000
)

// export takes the logs of a cluster and of what runs in it, as files below a folder.
type export struct {
	dir         string
	kind        string // name of the kind cluster; "" for another one
	spireOf     string // the cluster's name in its SPIRE; "" where that is somebody else's
	cluster     *rest.Config
	trustDomain string
	// namespaces are those whose pods are looked at; nil: all of them.
	namespaces []string
	apps       []string // namespaces of the intent: the ends of their logs are returned in any case
	redact     func(string) string

	mu     sync.Mutex
	wrong  []error
	tails  []tail
	client *kube.Client
}

// all writes:
//
//	nodes/               kind's own export: the journal and the containers of every node
//	pods.txt             every pod, and what keeps it from being ready
//	events.txt           the cluster's events, the newest at the end
//	pods/NS/POD/C.log    each container's log; C.previous.log if it was restarted
//	cilium/              status, endpoints, identities, authenticated pairs, policies, each agent's own status
//	spire/               entries and attested agents; only of a SPIRE that was installed here
//	hubble/flows.txt     the newest flows
//	errors.txt           what could not be had, and why
//
// It returns the logs of the intent's containers, and of others that are not well, for people. What cannot be
// had does not keep the rest; the error is a folder that cannot be written.
func (e *export) all(ctx context.Context) ([]tail, error) {
	ctx, cancel := context.WithTimeout(ctx, exportTime)
	defer cancel()
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		return nil, fmt.Errorf("exporting logs: %w", err)
	}
	var group sync.WaitGroup
	try := func(what string, f func(context.Context) error) {
		group.Go(func() {
			if err := f(ctx); err != nil {
				e.keep(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	if e.kind != "" {
		try("nodes", func(ctx context.Context) error { return kindx.ExportLogs(ctx, e.kind, filepath.Join(e.dir, "nodes")) })
	}
	if e.cluster != nil {
		client, err := kube.New(e.cluster)
		if err != nil {
			e.keep(err)
		} else {
			e.client = client
			try("pods", e.pods)
			try("events", e.events)
			try("cilium", e.cilium)
			try("hubble", e.flows)
			if e.spireOf != "" { // an admin connection into somebody else's SPIRE would ask for too much
				try("spire", e.spire)
			}
		}
	}
	group.Wait()
	slices.SortFunc(e.tails, func(a, b tail) int { return strings.Compare(a.name, b.name) })
	if len(e.wrong) == 0 {
		return e.tails, nil
	}
	return e.tails, e.write("errors.txt", errors.Join(e.wrong...).Error()+"\n")
}

func (e *export) keep(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wrong = append(e.wrong, err)
}

// write makes a file below the folder, less secrets.
func (e *export) write(name, text string) error {
	file := filepath.Join(e.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("exporting logs: %w", err)
	}
	if err := os.WriteFile(file, []byte(e.redact(text)), 0o644); err != nil {
		return fmt.Errorf("exporting logs: %w", err)
	}
	return nil
}

var unsafe = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// fileName is one element of a path, whatever s is.
func fileName(s string) string {
	s = unsafe.ReplaceAllString(s, "_")
	if strings.Trim(s, ".") == "" {
		return "_" + s
	}
	return s
}

func (e *export) wanted(namespace string) bool {
	return e.namespaces == nil || slices.Contains(e.namespaces, namespace)
}

// places are the namespaces to ask for.
func (e *export) places() []string {
	if e.namespaces == nil {
		return []string{metav1.NamespaceAll}
	}
	return e.namespaces
}

func (e *export) pods(ctx context.Context) error {
	var table strings.Builder
	var all []error
	for _, ns := range e.places() {
		pods, err := e.client.Clientset().CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			all = append(all, err)
			continue
		}
		for _, p := range pods.Items {
			trouble := kube.Trouble(p)
			fmt.Fprintf(&table, "%s/%s\tnode %s\t%s\t%s\n", printable(p.Namespace), printable(p.Name), printable(p.Spec.NodeName), printable(string(p.Status.Phase)), printable(trouble))
			for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
				if err := e.container(ctx, p, c, trouble != ""); err != nil {
					all = append(all, err)
				}
			}
		}
	}
	return errors.Join(append(all, e.write("pods.txt", table.String()))...)
}

// container writes the logs of one container, the one before its last restart too.
func (e *export) container(ctx context.Context, p corev1.Pod, c corev1.ContainerStatus, unwell bool) error {
	get := func(previous bool) (string, error) {
		lines := int64(logLines)
		text, err := e.client.Clientset().CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{
			Container: c.Name, Previous: previous, TailLines: &lines,
		}).DoRaw(ctx)
		if err != nil {
			return "", fmt.Errorf("log of %s/%s, container %s: %w", p.Namespace, p.Name, c.Name, err)
		}
		return e.redact(string(text)), nil
	}
	if c.State.Running == nil && c.State.Terminated == nil {
		return nil // it has not begun, which pods.txt tells
	}
	base := filepath.Join("pods", fileName(p.Namespace), fileName(p.Name), fileName(c.Name))
	text, err := get(false)
	if err != nil {
		return err
	}
	if unwell || c.RestartCount > 0 || slices.Contains(e.apps, p.Namespace) {
		e.mu.Lock()
		e.tails = append(e.tails, tail{fmt.Sprintf("%s/%s, container %s", p.Namespace, p.Name, c.Name), text})
		e.mu.Unlock()
	}
	if err := e.write(base+".log", text); err != nil || c.RestartCount == 0 {
		return err
	}
	if text, err = get(true); err != nil {
		return err
	}
	return e.write(base+".previous.log", text)
}

func (e *export) events(ctx context.Context) error {
	var b strings.Builder
	for _, ns := range e.places() {
		events, err := e.client.Clientset().CoreV1().Events(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		slices.SortFunc(events.Items, func(a, b corev1.Event) int { return a.LastTimestamp.Compare(b.LastTimestamp.Time) })
		for _, v := range events.Items {
			fmt.Fprintf(&b, "%s\t%s\t%s/%s %s\t%s\t%s\n", v.LastTimestamp.UTC().Format(time.RFC3339), printable(v.Type),
				printable(v.InvolvedObject.Namespace), printable(v.InvolvedObject.Kind), printable(v.InvolvedObject.Name), printable(v.Reason), printable(v.Message))
		}
	}
	return e.write("events.txt", b.String())
}

// json writes a value, or says why there is none.
func (e *export) json(name string, value any, err error) error {
	if err != nil {
		return err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(value); err != nil {
		return err
	}
	return e.write(name, b.String())
}

func (e *export) cilium(ctx context.Context) error {
	var all []error
	status, err := cilium.GetStatus(ctx, e.cluster)
	all = append(all, e.json("cilium/status.json", status, err))
	identities, err := cilium.Identities(ctx, e.cluster)
	all = append(all, e.json("cilium/identities.json", identities, err))
	endpoints, err := cilium.Endpoints(ctx, e.cluster, "")
	all = append(all, e.json("cilium/endpoints.json", endpoints, err))
	pairs, err := cilium.AuthEntries(ctx, e.cluster)
	all = append(all, e.json("cilium/authenticated.json", pairs, err))
	for _, kind := range []string{"ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies", "ciliumnodes"} {
		found, err := e.client.Dynamic().Resource(schema.GroupVersionResource{Group: "cilium.io", Version: "v2", Resource: kind}).List(ctx, metav1.ListOptions{})
		all = append(all, e.json("cilium/"+kind+".json", found, err))
	}
	for _, n := range status.Nodes {
		text, err := e.client.ExecOutput(ctx, cilium.Namespace, n.Pod, "cilium-agent", "cilium-dbg", "status", "--verbose")
		if err == nil {
			err = e.write("cilium/status-"+fileName(n.Node)+".txt", text)
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

func (e *export) spire(ctx context.Context) error {
	td, err := spiffeid.TrustDomainFromString(e.trustDomain)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, exportTime/2)
	defer cancel()
	conn, err := deploy.Connect(ctx, e.cluster, deploy.Config{TrustDomain: td, ClusterName: e.spireOf})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	entries, err := spire.List(ctx, conn, spire.ListConfig{})
	all := []error{e.json("spire/entries.json", entries, err)}
	agents, err := spire.Agents(ctx, conn)
	return errors.Join(append(all, e.json("spire/agents.json", agents, err))...)
}

func (e *export) flows(ctx context.Context) error {
	flows, err := cilium.Flows(ctx, e.cluster, cilium.FlowFilter{})
	if incomplete := (*cilium.IncompleteError)(nil); err != nil && !errors.As(err, &incomplete) {
		return err
	}
	var b strings.Builder
	for _, f := range flows[max(0, len(flows)-mostFlows):] {
		if e.wanted(f.Source.Namespace) || e.wanted(f.Destination.Namespace) {
			fmt.Fprintf(&b, "%s %s\n", f.Time.UTC().Format(time.RFC3339Nano), printable(f.String()))
		}
	}
	return errors.Join(err, e.write("hubble/flows.txt", b.String()))
}
