package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
)

// Exec is a command to run in a container.
type Exec struct {
	Namespace, Pod string
	Container      string // default: the pod's only or first container
	Argv           []string
	Stdin          io.Reader // nil: none
	Stdout, Stderr io.Writer // nil: dropped (an ExecError still has the end of stderr)
}

// ExecError is a command that ran in a container and failed.
type ExecError struct {
	Namespace, Pod, Container string
	Argv                      []string
	ExitCode                  int
	Stderr                    string // its last 4 KiB
}

func (e *ExecError) Error() string {
	s := fmt.Sprintf("%s in %s ended with exit code %d", strings.Join(e.Argv, " "), where(e.Namespace, e.Pod, e.Container), e.ExitCode)
	if said := strings.TrimSpace(e.Stderr); said != "" {
		s += ": " + said
	}
	return s
}

// Exec runs a command in a container and waits for it. If it ran and failed, the
// error is an *ExecError. A command that outlives ctx is left alone by Kubernetes;
// it goes on in the container until it meets its closed streams. Stdout and Stderr are not
// written to after the return; a Read of Stdin may then still be under way.
func (c *Client) Exec(ctx context.Context, e Exec) error {
	if len(e.Argv) == 0 {
		return fmt.Errorf("kube: exec in %s: no command given", where(e.Namespace, e.Pod, e.Container))
	}
	target := c.clientset.CoreV1().RESTClient().Post().
		Resource("pods").Namespace(e.Namespace).Name(e.Pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: e.Container, Command: e.Argv,
			Stdin: e.Stdin != nil, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec).URL()
	executor, err := c.executor(target)
	if err != nil {
		return fmt.Errorf("kube: exec in %s: %w", where(e.Namespace, e.Pod, e.Container), err)
	}
	stdout, stderr := &gate{to: e.Stdout}, &tailWriter{to: e.Stderr}
	stderrGate := &gate{to: stderr}
	// When ctx ends, client-go returns while its copying still goes on.
	defer stdout.close()
	defer stderrGate.close()
	err = executor.StreamWithContext(klog.NewContext(ctx, quiet()), remotecommand.StreamOptions{
		Stdin: e.Stdin, Stdout: stdout, Stderr: stderrGate,
	})
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("kube: run %s in %s: %w", strings.Join(e.Argv, " "), where(e.Namespace, e.Pod, e.Container), context.Cause(ctx))
	case errors.As(err, &exit):
		return &ExecError{e.Namespace, e.Pod, e.Container, e.Argv, exit.ExitStatus(), string(stderr.buf)}
	}
	return fmt.Errorf("kube: run %s in %s: %w", strings.Join(e.Argv, " "), where(e.Namespace, e.Pod, e.Container), err)
}

// ExecOutput runs a command and returns its stdout less one trailing newline, also
// beside an error.
func (c *Client) ExecOutput(ctx context.Context, namespace, pod, container string, argv ...string) (string, error) {
	var out bytes.Buffer
	err := c.Exec(ctx, Exec{Namespace: namespace, Pod: pod, Container: container, Argv: argv, Stdout: &out})
	return strings.TrimSuffix(out.String(), "\n"), err
}

// gate passes writes on until it is closed, and drops them from then on.
type gate struct {
	mu     sync.Mutex
	to     io.Writer // nil: dropped
	closed bool
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.to == nil || g.closed {
		return len(p), nil
	}
	return g.to.Write(p)
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// executor speaks websocket, and SPDY where the server does not take that.
func (c *Client) executor(target *url.URL) (remotecommand.Executor, error) {
	websocket, err := remotecommand.NewWebSocketExecutor(c.cfg, http.MethodGet, target.String())
	if err != nil {
		return nil, err
	}
	spdy, err := remotecommand.NewSPDYExecutor(c.cfg, http.MethodPost, target)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(websocket, spdy, notUpgraded)
}

// notUpgraded is true where nothing was streamed because the server, or a proxy on
// the way, refused the protocol.
func notUpgraded(err error) bool {
	return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
}

func where(namespace, pod, container string) string {
	s := "pod " + namespace + "/" + pod
	if container != "" {
		s += " (container " + container + ")"
	}
	return s
}
