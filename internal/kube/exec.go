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

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/klog/v2"
	streamhttp "k8s.io/streaming/pkg/httpstream"
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
// it goes on in the container until it meets its closed streams.
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
	stdout, stderr := e.Stdout, &tailWriter{to: e.Stderr}
	if stdout == nil {
		stdout = io.Discard
	}
	err = executor.StreamWithContext(klog.NewContext(ctx, quiet()), remotecommand.StreamOptions{
		Stdin: e.Stdin, Stdout: stdout, Stderr: stderr,
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
// the way, refused the protocol. client-go has this error in two packages.
func notUpgraded(err error) bool {
	return httpstream.IsUpgradeFailure(err) || streamhttp.IsUpgradeFailure(err) ||
		httpstream.IsHTTPSProxyError(err) || streamhttp.IsHTTPSProxyError(err)
}

func where(namespace, pod, container string) string {
	s := "pod " + namespace + "/" + pod
	if container != "" {
		s += " (container " + container + ")"
	}
	return s
}
